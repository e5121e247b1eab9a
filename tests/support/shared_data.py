"""Where the shared data are, that nobody here wrote: beside the checkout, or where TUTTI_SHARED_DATA says. Never part of the project."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TUTTI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared_data(relative: str) -> Path:
    """The path of shared data; skips the test, with the reason, where there are none."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared data {relative} are not at {SHARED}; TUTTI_SHARED_DATA names another place")
    return path

"""A platform that may be broken: each service in a process of its own, so that each can be killed alone."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.local.home import open_home
from tests.support.history import History
from tests.support.platform import Platform, started

SEED_MAX = 2**32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("faults")
    # The proof of the proof first: the more orders there have been, the longer it looks for those that it will not find.
    items.sort(key=lambda item: item.path.is_relative_to(here) and item.path != here / "test_planted_faults.py")


@pytest.fixture
def seed() -> int:
    """Decides orders and the schedule of faults. TUTTI_FAULT_SEED runs a printed one again."""
    given = os.environ.get("TUTTI_FAULT_SEED")
    chosen = int(given) if given else random.SystemRandom().randrange(SEED_MAX)
    print(f"TUTTI_FAULT_SEED={chosen}")
    random.seed(chosen)
    return chosen


@pytest.fixture
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    """What the test's clients were told; the lines are in the test's temporary directory."""
    kept = History(tmp_path / "history.jsonl")
    yield kept
    print(f"{request.node.name}: {kept.summary()}")


@pytest.fixture(scope="package")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for the fault tests, which break it and leave it whole. TUTTI_TEST_FRAGILE names a running one's home."""
    given = os.environ.get("TUTTI_TEST_FRAGILE")
    if given:
        home = open_home(Path(given))
        yield Platform(home, home.addresses())
        return
    with started(tmp_path_factory.mktemp("fragile"), "--separate") as running:
        yield running

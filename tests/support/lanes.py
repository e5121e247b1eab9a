"""How `make test` shares the tests out to processes that work side by side (pytest-xdist), each on servers of its own.

A lane is one file, or a folder whose tests build upon each other on one platform. One process runs it from its first test to its
last; whichever has finished takes the next lane. Long lanes begin first, so that what is left at the end is short. With one process
(pytest without `-n`) the lanes follow each other in the same order.
"""

from pathlib import PurePath
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER: Final = ("tests/faults", "tests/scenarios")
# They stand in these folders for what they prove, and need no platform.
APART: Final = ("tests/faults/test_mutations.py", "tests/faults/test_walls.py", "tests/scenarios/saga_suite")
# The longest first; what is not named comes after them, in the order of the files.
LONG: Final = (
    "tests/faults",
    "tests/scenarios",
    "tests/faults/test_mutations.py",
    "tests/integration/upgrade/test_upgrade.py",
    "tests/integration/test_compose.py",
    "tests/integration/test_local_stack.py",
    "tests/integration/chassis/test_crashes.py",
    "tests/integration/dlq_tools/test_collector.py",
    "tests/integration",
)


def lane_of(nodeid: str) -> str:
    """The lane of a test: the file that its id begins with, or a folder above it."""
    file = nodeid.split("::")[0]
    return file if _holder(file, APART) else _holder(file, TOGETHER) or file


def rank_of(nodeid: str) -> int:
    """Where its lane stands among the others: a smaller one begins earlier."""
    lane = lane_of(nodeid)
    if lane in LONG:
        return LONG.index(lane)
    return LONG.index("tests/integration") if _holder(lane, ("tests/integration",)) else len(LONG)


class Lanes(LoadScopeScheduling):
    """Gives out whole lanes, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        # By itself it would begin with the lane of the most tests, which says nothing about the time that they take.
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)


def _holder(file: str, places: tuple[str, ...]) -> str | None:
    """The place that is the file itself or a folder above it."""
    return next((place for place in places if PurePath(file).is_relative_to(place)), None)

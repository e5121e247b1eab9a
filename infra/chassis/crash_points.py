"""Named places where a test may let the process die, between any two writes. Unarmed, a place costs one comparison.

`TUTTI_CRASH_POINT=credit:after-commit:3` ends the process with SIGKILL when the service credit passes `after-commit` for the third
time. Several are separated by commas. The idea is DBOS's debug triggers; the names are documented in docs/testing.md.
"""

import os
import signal
from typing import Final

POINTS: Final = (
    "before-commit", "after-commit", "after-acknowledge", "before-publish", "after-publish", "after-delete",
    "before-call", "after-call", "after-claim",
)  # fmt: skip


def _armed() -> dict[tuple[str, str], int]:
    armed = {}
    for text in filter(None, os.environ.get("TUTTI_CRASH_POINT", "").split(",")):
        service, point, count = text.split(":")
        if point not in POINTS:
            raise ValueError(f"TUTTI_CRASH_POINT: there is no point {point!r}; known are {', '.join(POINTS)}")
        armed[service, point] = int(count)
    return armed


_ARMED = _armed()


def crash_point(service: str, point: str) -> None:
    """Ends this process without any clean-up, if a test has armed this point and it is passed often enough."""
    if not _ARMED or (service, point) not in _ARMED:
        return
    _ARMED[service, point] -= 1
    if _ARMED[service, point] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

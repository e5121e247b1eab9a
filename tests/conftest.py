"""What all tests share: the real broker and database (servers.py), and how they are shared out (lanes.py)."""

import os
import signal
from typing import Any, NoReturn

import pytest

from tests.support.lanes import Lanes, rank_of

pytest_plugins = ["tests.support.servers", "tests.support.logging"]


def pytest_configure() -> None:
    signal.signal(signal.SIGTERM, _end_in_order)
    # The readline library, which pytest loads, tells all children of a terminal's size. Output to a file has none.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


def _end_in_order(*_: object) -> NoReturn:
    """Asked to end, pytest would drop everything and leave what it has started. This ends it as Ctrl-C does."""
    raise KeyboardInterrupt

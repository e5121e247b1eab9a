"""What the collector does when the database is away, or refuses a record."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from dlq_tools.collector import Collector
from dlq_tools.letters import Found, Letter, read
from dlq_tools.settings import Settings
from sqlalchemy.exc import DBAPIError

FIRST = read(Found("credit.commands", b"1", {}, None, None, "m1", "t", None, "erp"), datetime(2026, 3, 1, tzinfo=UTC))
SECOND = replace(FIRST, key="second", body=b"2", error="\x00")


class Refusing(Exception):
    """As the driver says that a value does not fit."""

    sqlstate = "22021"


class Storing(Collector):
    """A collector whose database is a list, and is away as often as `outages` says."""

    def __init__(self, outages: int = 0, *, stopping: bool = False) -> None:
        runtime: Any = SimpleNamespace(stopping=asyncio.Event(), consumption=SimpleNamespace(up={}), log=structlog.get_logger())
        if stopping:
            runtime.stopping.set()
        options: dict[str, Any] = {
            "database_url": "postgresql://x",
            "broker_url": "amqp://x",
            "operator_token": "x",
            "http_port": 1,
        }
        super().__init__(runtime, Settings(**options))
        self.outages = outages
        self.stored: list[Letter] = []

    async def _transaction(self, letters: Sequence[Letter]) -> None:
        if self.outages:
            self.outages -= 1
            raise ConnectionResetError
        if any("\x00" in letter.error for letter in letters):
            raise DBAPIError("", {}, Refusing())
        self.stored += letters


async def test_an_outage_is_waited_for() -> None:
    collector = Storing(outages=2)

    await collector._store([FIRST])

    assert collector.stored == [FIRST]


async def test_a_record_that_no_row_takes_is_stored_without_it_and_its_neighbours_as_they_are() -> None:
    collector = Storing()

    await collector._store([SECOND, FIRST])

    bare, neighbour = collector.stored
    assert (bare.body, bare.key, bare.error_class) == (b"2", "second", "UnstorableFailure")
    assert neighbour == FIRST


async def test_a_stop_during_an_outage_leaves_the_letters_in_their_queue() -> None:
    collector = Storing(outages=1, stopping=True)

    with pytest.raises(asyncio.CancelledError):
        await collector._store([FIRST])

    assert collector.stored == []

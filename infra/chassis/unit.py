"""A transaction that handles no message: of an HTTP request or of background work. The outbox has the same rules as in the loop."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import Message
from infra.chassis import outbox
from infra.chassis.crash_points import crash_point
from infra.chassis.hot_connection import together
from infra.chassis.outbox import OutboxRow, encode
from infra.chassis.relay import OutboxRelay
from infra.chassis.service import Outbound


class Unit:
    """One transaction. What is sent is written to the outbox before the commit and published after it."""

    def __init__(self, service: str, connection: AsyncConnection) -> None:
        self._service = service
        self.connection = connection
        self.rows: list[OutboxRow] = []

    def send(self, message: Message, **envelope: Any) -> str:
        """Queues a message; `envelope` are the fields of Outbound. Returns the message id. Nothing leaves without a commit."""
        row = encode(self._service, Outbound(message, **envelope), None, now=datetime.now(UTC))
        self.rows.append(row)
        return row.message_id


@asynccontextmanager
async def unit_of_work(service: str, engine: AsyncEngine, relay: OutboxRelay) -> AsyncGenerator[Unit]:
    """Commits at the end of the block; an exception inside rolls everything back, the messages too."""
    async with engine.begin() as connection:
        unit = Unit(service, connection)
        yield unit
        if unit.rows:
            async with together(connection) as writes:
                await outbox.insert(writes, unit.rows)
        crash_point(service, "before-commit")
    crash_point(service, "after-commit")
    relay.submit(unit.rows)

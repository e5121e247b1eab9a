"""Messages that may kill the process: counted by committed tries, because a delivery count only raises suspicion.

A killed consumer raises the broker's count for every message that it held. So a message with a suspicious count is taken alone,
after its try has been committed: the message that kills the process is counted under its own name, its innocent neighbours are not.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.deadletters.record import body_identity
from infra.chassis.database import classify
from infra.chassis.decoding import Raw
from infra.chassis.inbox import MessageKey
from infra.chassis.patience import Patience

TAKE_BACK_SECONDS_MAX: Final = 2.0

COUNT_TRY = text(
    """
    INSERT INTO suspect (consumer, identity, tries) VALUES (:consumer, :identity, 1)
    ON CONFLICT ON CONSTRAINT suspect_one_row_per_message DO UPDATE SET tries = suspect.tries + 1, last_at = now()
    RETURNING tries
    """
)
TAKE_BACK = text("UPDATE suspect SET tries = tries - 1 WHERE consumer = :consumer AND identity = :identity AND tries > 0")
FORGET = text("DELETE FROM suspect WHERE consumer = :consumer AND identity = :identity")

log = structlog.get_logger()


def identity(key: MessageKey | None, raw: Raw) -> str:
    """The message's own id, or the hash of its bytes where it has none."""
    return "\n".join(key) if key else body_identity(raw.body)


async def count_try(connection: AsyncConnection, consumer: str, identity: str) -> int:
    """Adds a try and returns how many there are now; the caller commits before it touches the message."""
    return int((await connection.execute(COUNT_TRY, {"consumer": consumer, "identity": identity})).scalar_one())


async def take_back(connection: AsyncConnection, consumer: str, identity: str) -> None:
    """Takes one try back: a stop of the process has ended it, not the input."""
    await connection.execute(TAKE_BACK, {"consumer": consumer, "identity": identity})


async def forget(connection: AsyncConnection, consumer: str, identity: str) -> None:
    """Ends the count once the input has been dealt with, since rows come again under the same name (the timer of one saga)."""
    await connection.execute(FORGET, {"consumer": consumer, "identity": identity})


class Suspects:
    """The tries of one consumer's suspects."""

    def __init__(self, engine: AsyncEngine, queue: str, patience: Patience, stopping: asyncio.Event) -> None:
        self._engine = engine
        self._queue = queue
        self._patience = patience
        self._stopping = stopping

    @asynccontextmanager
    async def counted_try(self, identity: str) -> AsyncGenerator[int]:
        """Counts a try before the block and yields how many there are. A stop inside the block takes it back.

        What ends the process leaves the try behind: SIGKILL runs nothing here, an input that never gives the processor back lets no
        cancellation in, and a bug that ends the loop is no stop.
        """
        tries = await self._patience.run(lambda: self._count(identity))
        try:
            yield tries
        except asyncio.CancelledError:
            if self._stopping.is_set():
                await self._take_back(identity)
            raise

    @asynccontextmanager
    async def counted_row(self, identity: str) -> AsyncGenerator[int]:
        """As `counted_try`, for an input that comes again under the same name: its count ends with the block."""
        async with self.counted_try(identity) as tries:
            yield tries
        await self._patience.run(lambda: self._forget(identity))

    async def _count(self, identity: str) -> int:
        async with self._engine.begin() as connection:
            return await count_try(connection, self._queue, identity)

    async def _forget(self, identity: str) -> None:
        async with self._engine.begin() as connection:
            await forget(connection, self._queue, identity)

    async def _take_back(self, identity: str) -> None:
        """Where the database allows it within a short time: its outage may be the reason for the stop."""
        try:
            async with asyncio.timeout(TAKE_BACK_SECONDS_MAX), self._engine.begin() as connection:
                await take_back(connection, self._queue, identity)
        except Exception as error:
            if classify(error) is None:
                raise
            log.warning("try_not_taken_back", queue=self._queue, input=identity, error=str(error)[:300])

"""The one answer to trouble of the database: again very soon, again after a pause, or not at all."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from infra.chassis.database import Trouble, classify
from infra.chassis.metrics import DATABASE_UP, TROUBLE
from infra.chassis.rest import rest

MOMENTARY_TRIES_MAX: Final = 3
MOMENTARY_SECONDS: Final = 0.1
OUTAGE_PAUSE_SECONDS_FIRST: Final = 0.1
OUTAGE_PAUSE_SECONDS_MAX: Final = 5.0

T = TypeVar("T")

log = structlog.get_logger()


def _nothing() -> None:
    return


class Patience:
    """Runs transactions until they commit. `queue` names in metrics and logs whose they are.

    `paused` is called before each pause of an outage, so that the time of the pause is not taken for a standstill of the process.
    """

    def __init__(self, service: str, queue: str, stopping: asyncio.Event, paused: Callable[[], None] = _nothing) -> None:
        self._service = service
        self._queue = queue
        self._stopping = stopping
        self._paused = paused

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeats the work: three times within a second after momentary trouble, after a growing pause for as long as an outage lasts.

        Raises other errors, which are the data's or the program's fault. Raises CancelledError when a stop meets an outage: then nothing
        can be committed, and the inputs stay where they are.
        """
        momentary = 0
        pause = OUTAGE_PAUSE_SECONDS_FIRST
        while True:
            try:
                result = await work()
            except Exception as error:
                trouble = classify(error)
                if trouble is None or trouble is Trouble.DATA:
                    raise
                TROUBLE.labels(self._service, self._queue, trouble.value).inc()
                momentary += 1
                if trouble is Trouble.MOMENTARY and momentary <= MOMENTARY_TRIES_MAX:
                    await asyncio.sleep(random.uniform(0.0, MOMENTARY_SECONDS * 2**momentary))
                    continue
                log.warning("database_unavailable", queue=self._queue, pause_seconds=round(pause, 1), error=str(error)[:300])
                DATABASE_UP.labels(self._service).set(0)
                await self._pause(pause)
                pause = min(pause * 2, OUTAGE_PAUSE_SECONDS_MAX)
            else:
                DATABASE_UP.labels(self._service).set(1)
                return result

    async def _pause(self, seconds: float) -> None:
        if self._stopping.is_set():
            raise asyncio.CancelledError("stopped during an outage; the inputs stay where they are")
        self._paused()
        await rest(self._stopping, seconds)

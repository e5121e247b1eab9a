"""Makes the calls that decisions have committed to, outside any transaction, and writes down what came of each."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis import calls, retries, suspects
from infra.chassis.calls import Leased
from infra.chassis.crash_points import crash_point
from infra.chassis.errors import Permanent, Transient
from infra.chassis.loop import Loop
from infra.chassis.metrics import CALL_SECONDS, CALLS
from infra.chassis.rest import rest
from infra.chassis.service import CallResult, Dependency
from infra.chassis.settings import ServiceSettings

POLL_SECONDS: Final = 1.0

log = structlog.get_logger()


class Caller:
    """One per service and process that has dependencies. Replicas share the work through leases."""

    def __init__(
        self,
        service: str,
        engine: AsyncEngine,
        settings: ServiceSettings,
        dependencies: Mapping[str, Dependency],
        loops: Sequence[Loop],
        wake: asyncio.Event,
    ) -> None:
        self._service = service
        self._engine = engine
        self._settings = settings
        self._dependencies = dependencies
        self._loops = {loop.queue: loop for loop in loops}
        self._wake = wake
        self._alone = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    def stop(self) -> None:
        """No further calls are begun; those under way end within their timeout, or are asked for by key after the next start."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            room = self._settings.call_concurrency_max - len(self._running)
            if room > 0:
                for leased in await self._lease(room):
                    task = asyncio.create_task(self._make(leased))
                    self._running.add(task)
                    task.add_done_callback(self._ended)
            await rest(self._wake, POLL_SECONDS)
        if self._running:
            await asyncio.wait(self._running, timeout=self._settings.call_timeout_seconds)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("call_failed", exc_info=error)

    async def _lease(self, limit: int) -> list[Leased]:
        try:
            async with self._engine.begin() as connection:
                return await calls.lease(connection, list(self._loops), seconds=self._settings.call_lease_seconds, limit=limit)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("calls_unavailable", error=str(error)[:300])
            return []

    async def _make(self, leased: Leased) -> None:
        if leased.attempt <= self._settings.retry_attempts_max:
            await self._attempt(leased)
            return
        # There were more attempts than failures could be recorded, so some ended without a record, perhaps with the process.
        async with self._alone:
            identity = f"call\n{leased.call.key}"
            async with self._engine.begin() as connection:
                tries = await suspects.count_try(connection, leased.consumer, identity)
            if tries > self._settings.suspect_tries_max:
                failure = Permanent(f"{leased.call.key}: {tries - 1} attempts ended without a word; see the log of that time")
                await self._record(leased, None, failure, 0)
                self._loops[leased.consumer].calls_over(leased.operation_id)
            else:
                await self._attempt(leased)
            async with self._engine.begin() as connection:
                await suspects.forget(connection, leased.consumer, identity)

    async def _attempt(self, leased: Leased) -> None:
        began = time.perf_counter()
        failure: Exception | None = None
        result: CallResult | None = None
        crash_point(self._service, "before-call")
        try:
            async with asyncio.timeout(self._settings.call_timeout_seconds):
                # An earlier attempt may have arrived although its answer did not: ask before sending the same again.
                dependency = self._dependencies[leased.call.dependency]
                result = await dependency.query(leased.call) if leased.sent else None
                result = result or await dependency.perform(leased.call)
        except TimeoutError:
            failure = Transient(
                f"{leased.call.dependency} gave no answer to {leased.call.key} within {self._settings.call_timeout_seconds} s"
            )
        except Exception as error:  # noqa: BLE001 - an adapter's failure of any kind belongs to this call alone
            failure = error
        crash_point(self._service, "after-call")
        took = time.perf_counter() - began
        CALL_SECONDS.labels(self._service, leased.call.dependency).observe(took)
        outcome = result.outcome if result else type(failure).__name__
        CALLS.labels(self._service, leased.call.dependency, outcome).inc()
        await self._record(leased, result, failure, int(took * 1000))
        self._loops[leased.consumer].calls_over(leased.operation_id)

    async def _record(self, leased: Leased, result: CallResult | None, failure: Exception | None, took_ms: int) -> None:
        async with self._engine.begin() as connection:
            if result is not None:
                await calls.answered(connection, leased, result, took_ms)
                return
            assert failure is not None
            delay = self._delay(leased, failure)
            log.warning(
                "call_postponed" if delay is not None else "call_exhausted",
                dependency=leased.call.dependency, key=leased.call.key, attempt=leased.attempt, error=str(failure)[:300],
            )  # fmt: skip
            await calls.postponed(connection, leased, failure, delay_seconds=delay, duration_ms=took_ms)

    def _delay(self, leased: Leased, failure: Exception) -> float | None:
        if not isinstance(failure, Transient):
            return None
        return retries.delay_seconds(
            self._settings,
            attempts=leased.attempt,
            first=leased.first_at,
            now=leased.now,
            retry_after=failure.retry_after_seconds,
            attempts_max=self._settings.retry_attempts_max,
        )

"""Accepting orders many at a time: requests that arrive while a transaction is under way share the next one.

    request ──> gathering batch ──(turn)──> one transaction: keys, orders, answers, outbox ──> an outcome each
                                                   │ fails
                                                   ▼
                                            each request alone, in a transaction of its own

One commit per request would be what limits the machine. With one client a batch is one request and nothing waits. A
batch that fails has changed nothing, so each of its requests tries alone; a key that is being handled elsewhere then
delays only its own request. An outcome exists only after the commit, and a request that is told nothing can be
repeated with its key.
"""

import asyncio
from collections.abc import Sequence

from infra.chassis.runtime import Runtime
from services.ingress.adapters.database import Locked, Unavailable, available
from services.ingress.adapters.intake import store
from services.ingress.domain import Accepted, InProgress, Outcome
from services.ingress.intake import Application
from services.ingress.settings import Settings


class Overloaded(Exception):
    """More requests wait than we will keep waiting. Nothing was done for this one."""


class _Batch:
    __slots__ = ("applications", "task")

    def __init__(self) -> None:
        self.applications: list[Application] = []
        self.task: asyncio.Task[Sequence[Outcome]]


class Acceptance:
    """Accepts orders for one process. Use it from one event loop."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._turn = asyncio.Lock()
        self._alone = asyncio.Semaphore(settings.acceptance_alone_max)
        self._gathering: _Batch | None = None
        self._waiting = 0

    async def accept(self, application: Application) -> Outcome:
        """What becomes of the request, once durable. Raises Overloaded, or Unavailable when the database is away."""
        if self._waiting >= self._settings.acceptance_queue_size_max:
            raise Overloaded(f"{self._waiting} requests are waiting")
        self._waiting += 1
        try:
            return await self._in_batch(application)
        finally:
            self._waiting -= 1

    async def _in_batch(self, application: Application) -> Outcome:
        batch = self._gathering
        if batch is None or len(batch.applications) >= self._settings.acceptance_batch_size_max:
            batch = self._gathering = _Batch()
            batch.task = asyncio.create_task(self._commit(batch))
        position = len(batch.applications)
        batch.applications.append(application)
        try:
            # Shielded: a client that hangs up must not take its neighbours' transaction with it.
            return (await asyncio.shield(batch.task))[position]
        except Unavailable:
            return await self._by_itself(application)

    async def _commit(self, batch: _Batch) -> Sequence[Outcome]:
        # While we wait for our turn the batch goes on gathering; from here on it is closed.
        async with self._turn:
            if self._gathering is batch:
                self._gathering = None
            return await self._transaction(batch.applications, self._settings.batch_lock_wait_seconds)

    async def _by_itself(self, application: Application) -> Outcome:
        try:
            async with self._alone:
                return (await self._transaction([application], self._settings.lock_wait_seconds))[0]
        except Locked:
            return InProgress()

    async def _transaction(self, applications: Sequence[Application], patience_seconds: float) -> Sequence[Outcome]:
        async with available(), self._runtime.unit() as unit:
            outcomes = await store(unit.connection, applications, patience_ms=round(patience_seconds * 1000))
            for application, outcome in zip(applications, outcomes, strict=True):
                if isinstance(outcome, Accepted):
                    unit.send(
                        application.event(),
                        correlation_id=outcome.correlation_id,
                        partner_id=application.order.partner_id,
                        actor=f"partner:{application.order.partner_id}",
                    )
        return outcomes

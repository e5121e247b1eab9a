"""The outbox relay: publishes what has just been committed from memory, and sweeps up what a crash or a refusal left behind.

    submit (after COMMIT) ──> memory, bounded ──> one write per batch ──> confirmed: delete (in batches, may be lost)
                                  ▲                                   ├─> nacked, unroutable: row backs off
    sweeper: rows due, older than a few seconds, with row locks ──────┤   unknown: same id again, by the sweeper
                                                                      └─> refused: parked, visibly
Invariants. (1) Nothing is published before its commit. (2) A row is deleted only after the broker's confirm, or when no registered
receiver exists for an event that came back unroutable. (3) This process holds an id from its commit until it is deleted or backs off.
Its own sweeper does not take what it holds, so an id is never in flight twice on one channel. Two processes may publish one id twice:
the receiver's inbox folds the copies. Why a deletion may be lost: the row is then published again later, under the same id.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.registry import REGISTRY
from infra.broker.names import EVENTS
from infra.broker.publisher import Outcome, Outgoing, Publisher, Receipt
from infra.chassis.crash_points import crash_point
from infra.chassis.database import DATABASE_ERRORS
from infra.chassis.hot_connection import single_statements
from infra.chassis.metrics import OUTBOX_AGE, OUTBOX_DEPTH, OUTBOX_PARKED, PUBLISHED, RETRIES
from infra.chassis.outbox import OutboxRow
from infra.chassis.settings import ServiceSettings

DELETE_BATCH_MAX: Final = 1000
DELETE_PAUSE_SECONDS: Final = 1.0
BACKOFF_SECONDS_MAX: Final = 60

DELETE = text("DELETE FROM outbox WHERE message_id = ANY(CAST(:ids AS text[]))")
SWEEP = text(
    """
    UPDATE outbox SET due_at = now() + make_interval(secs => :lease), attempts = attempts + 1
    WHERE position IN (
        SELECT position FROM outbox
        WHERE NOT parked AND due_at <= now() AND created_at < now() - make_interval(secs => :age)
          AND NOT message_id = ANY(CAST(:held AS text[]))
        ORDER BY position LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING position, message_id, exchange, routing_key, type, correlation_id, content_type, headers, body
    """
)
BACK_OFF = text(
    """
    UPDATE outbox SET due_at = now() + make_interval(secs => LEAST(power(2, LEAST(attempts, 10)), :most)),
        last_error = f.error, parked = f.parked
    FROM unnest(CAST(:ids AS text[]), CAST(:errors AS text[]), CAST(:parked AS boolean[])) AS f (message_id, error, parked)
    WHERE outbox.message_id = f.message_id
    """
)
GAUGES = text(
    """
    SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM outbox WHERE parked),
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox WHERE NOT parked), (SELECT count(*) FROM retry)
    """
)

log = structlog.get_logger()


class OutboxRelay:
    """One per service and process. `run` publishes until `stop` and then finishes the batch at hand."""

    def __init__(self, service: str, engine: AsyncEngine, publisher: Publisher, settings: ServiceSettings) -> None:
        self._service = service
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._queue: deque[OutboxRow] = deque()
        self._held: set[str] = set()
        self._confirmed: list[str] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self.published = 0
        self._counters = {outcome: PUBLISHED.labels(service, outcome.value) for outcome in Outcome}

    def submit(self, rows: Sequence[OutboxRow]) -> None:
        """Takes rows that have just been committed. What does not fit into memory is left to the sweeper."""
        room = self._settings.relay_queue_size_max - len(self._queue)
        for row in rows[:room]:
            if row.message_id not in self._held:
                self._held.add(row.message_id)
                self._queue.append(row)
        if rows:
            self._wake.set()

    def stop(self) -> None:
        """Ends `run` after the batch at hand; what stays is in the outbox for the next start."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publishes from memory, deletes what was confirmed, sweeps. Ends after `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep_regularly())
            tasks.create_task(self._delete_regularly())
            while not self._stopping:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._publish_batch()
            await self._delete_confirmed()

    async def drain(self) -> None:
        """Publishes what is still in memory, for a clean stop. The bound is the caller's."""
        while self._queue and self._publisher.ready:
            await self._publish_batch()
        await self._delete_confirmed()

    async def _publish_batch(self) -> None:
        size = min(len(self._queue), self._settings.relay_batch_size_max)
        rows = [self._queue.popleft() for _ in range(size)]
        crash_point(self._service, "before-publish")
        try:
            receipts = await self._publisher.publish([self._outgoing(row) for row in rows])
        except BaseException:
            self._held.difference_update(row.message_id for row in rows)
            raise
        crash_point(self._service, "after-publish")
        failed: list[tuple[OutboxRow, Receipt]] = []
        for row, receipt in zip(rows, receipts, strict=True):
            self._counters[receipt.outcome].inc()
            if receipt.outcome is Outcome.CONFIRMED or self._needs_nobody(row, receipt):
                self._confirmed.append(row.message_id)
            else:
                failed.append((row, receipt))
        self.published += len(rows) - len(failed)
        if failed:
            await self._back_off(failed)

    def _outgoing(self, row: OutboxRow) -> Outgoing:
        return Outgoing(
            exchange=row.exchange,
            routing_key=row.routing_key,
            message_id=row.message_id,
            body=row.body,
            content_type=row.content_type,
            type=row.type,
            correlation_id=row.correlation_id,
            app_id=self._service,
            user_id=self._service,
            timestamp=datetime.now(UTC),
            headers=row.headers,
        )

    def _needs_nobody(self, row: OutboxRow, receipt: Receipt) -> bool:
        """Whether it is an event that no queue wanted and no registered receiver misses."""
        entry = REGISTRY.get(row.routing_key)
        return receipt.outcome is Outcome.UNROUTABLE and row.exchange == EVENTS and (entry is None or not entry.receivers)

    async def _back_off(self, failed: Sequence[tuple[OutboxRow, Receipt]]) -> None:
        row, receipt = failed[0]
        log.warning(
            "publish_failed", rows=len(failed), outcome=receipt.outcome.value, reason=receipt.reason,
            message=row.type, message_id=row.message_id,
        )  # fmt: skip
        try:
            async with single_statements(self._engine) as connection:
                await connection.execute(
                    BACK_OFF,
                    {
                        "ids": [row.message_id for row, _ in failed],
                        "errors": [f"{one.outcome.value}: {one.reason}"[:1000] for _, one in failed],
                        "parked": [one.outcome is Outcome.REFUSED for _, one in failed],
                        "most": BACKOFF_SECONDS_MAX,
                    },
                )
        except DATABASE_ERRORS as error:
            # The rows stay due; the sweeper takes them when the database is back.
            log.warning("outbox_unavailable", error=str(error)[:300])
        finally:
            self._held.difference_update(row.message_id for row, _ in failed)

    async def _delete_regularly(self) -> None:
        while not self._stopping:
            await asyncio.sleep(DELETE_PAUSE_SECONDS)
            await self._delete_confirmed()

    async def _delete_confirmed(self) -> None:
        while self._confirmed:
            batch, self._confirmed = self._confirmed[:DELETE_BATCH_MAX], self._confirmed[DELETE_BATCH_MAX:]
            try:
                async with single_statements(self._engine) as connection:
                    await connection.execute(DELETE, {"ids": batch})
            except DATABASE_ERRORS as error:
                log.warning("outbox_unavailable", error=str(error)[:300])
                return
            finally:
                self._held.difference_update(batch)
            crash_point(self._service, "after-delete")

    async def _sweep_regularly(self) -> None:
        next_gauges = 0.0
        while not self._stopping:
            await asyncio.sleep(self._settings.sweep_interval_seconds)
            try:
                if self._publisher.ready:
                    await self._sweep()
                if time.monotonic() >= next_gauges:
                    next_gauges = time.monotonic() + 5.0
                    await self._measure()
            except DATABASE_ERRORS as error:
                log.warning("outbox_unavailable", error=str(error)[:300])

    async def _sweep(self) -> None:
        values: dict[str, Any] = {
            "lease": self._settings.publish_timeout_seconds * 2,
            "age": self._settings.sweep_age_seconds,
            "held": sorted(self._held),
            "limit": self._settings.relay_batch_size_max * 5,
        }
        async with single_statements(self._engine) as connection:
            found = (await connection.execute(SWEEP, values)).all()
        if found:
            log.info("outbox_swept", rows=len(found))
        rows = [
            OutboxRow(
                message_id=row.message_id,
                exchange=row.exchange,
                routing_key=row.routing_key,
                type=row.type,
                correlation_id=row.correlation_id,
                body=row.body,
                content_type=row.content_type,
                headers=json.loads(row.headers),
            )
            for row in sorted(found, key=lambda row: row.position)
        ]
        self.submit(rows)

    async def _measure(self) -> None:
        async with single_statements(self._engine) as connection:
            depth, parked, age, retries = (await connection.execute(GAUGES)).one()
        OUTBOX_DEPTH.labels(self._service).set(depth)
        OUTBOX_PARKED.labels(self._service).set(parked)
        OUTBOX_AGE.labels(self._service).set(float(age))
        RETRIES.labels(self._service).set(retries)

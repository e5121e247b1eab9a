"""The one loop: gathers inputs into batches, runs their transaction, and only then acknowledges and hands over to the relay.

    queue ──┐
    due retries ──┤ gather ──> [suspects alone] ──> transaction ──> COMMIT ──> acknowledge (multiple), relay, calls
    settled calls ──┤                                  │
    due rows ──┘              momentary: again, 3 times │ outage: wait, spend nothing │ data: one by one, the culprit is found

Everything is taken strictly in order of arrival, one batch at a time, so all deliveries up to the last of a batch are settled when it
has committed: acknowledging "multiple" is right. Rows of other sources (timers, acts) come after messages, and after a start or an
outage they wait until the backlog found then has been read: answers already in the queue are not overtaken by their own time-outs.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.envelope import Envelope
from infra.chassis import calls, retries, suspects
from infra.chassis.batch import Arrival, Batch, BatchResult
from infra.chassis.crash_points import crash_point
from infra.chassis.database import Trouble, classify
from infra.chassis.decoding import Raw
from infra.chassis.errors import Failure, Permanent, Transient
from infra.chassis.hot_connection import hot_transaction, single_statements
from infra.chassis.metrics import ACKNOWLEDGE_ERRORS, BATCH_SIZE, BATCHES, DATABASE_UP, MESSAGES, TROUBLE
from infra.chassis.outbox import OutboxRow
from infra.chassis.retries import RetryRow
from infra.chassis.service import Consumer, Context, Decision, RowInput, RowSource
from infra.chassis.settings import ServiceSettings

MOMENTARY_TRIES_MAX = 3
OUTAGE_PAUSE_SECONDS_MAX = 5.0
RETRY_POLL_SECONDS = 1.0
SETTLE_POLL_SECONDS = 5.0
QUIET_SECONDS = 1.0
SETTLE_AFTER_START_SECONDS = 1.0
PAUSED_SECONDS = 3.0
TAKE_BACK_SECONDS_MAX = 2.0

log = structlog.get_logger()


class Channel(Protocol):
    """Where a delivery came from and where it is acknowledged."""

    async def acknowledge(self, tag: int) -> None:
        """Settles the delivery and all before it on this channel. Raises ConnectionError when the channel has died."""


class Relay(Protocol):
    def submit(self, rows: Sequence[OutboxRow]) -> None:
        """Takes rows that have just been committed; never blocks and never fails."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the queue. `channel` is the one that delivered it: tags of another are dead."""

    raw: Raw
    channel: Channel
    tag: int
    received_at: datetime


class Loop:
    """One consumer's loop. `offer` is called for each delivery; `run` ends after `stop`, when the batch at hand is done."""

    def __init__(
        self,
        *,
        service: str,
        version: str,
        consumer: Consumer,
        settings: ServiceSettings,
        engine: AsyncEngine,
        relay: Relay,
        external: bool,
        on_calls: asyncio.Event,
    ) -> None:
        self._service = service
        self._version = version
        self.consumer = consumer
        self._settings = settings
        self._engine = engine
        self._relay = relay
        self._external = external
        self._on_calls = on_calls
        self._version = version
        self._batch = self._batch_of(consumer)
        self._intake: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._settleable: set[str] = set()
        self._stopping = False
        self._last_size = 0
        self._last_seconds = 0.0
        self._next_retry_poll = 0.0
        self._next_settle_poll = 0.0
        self._next_row_poll = 0.0
        self.connected = False
        self._backlog = 0
        self._backlog_since = time.monotonic()
        self._backlog_settled = False
        self._last_delivery = time.monotonic()
        self.turned_at = time.monotonic()
        self._outcome_counters: dict[tuple[str, str], Any] = {}

    def _batch_of(self, consumer: Consumer) -> Batch:
        return Batch(self._service, self._version, consumer, self._settings, external=self._external)

    def offer(self, delivery: Delivery) -> None:
        """Takes a delivery, in order of arrival. The prefetch count bounds how many there can be."""
        self._intake.append(delivery)
        self._last_delivery = time.monotonic()
        self._wake.set()

    def settled(self, operation_id: str) -> None:
        """All calls of this operation may have ended."""
        self._settleable.add(operation_id)
        self._wake.set()

    def look(self) -> None:
        """Somebody has just written a row: look at once instead of at the next poll. Losing this costs a poll's time."""
        self._next_row_poll = 0.0
        self._wake.set()

    def backlog(self, ready: int) -> None:
        """The queue held this many messages when consumption (re)started: rows wait until they have been read."""
        self._backlog = ready
        self._backlog_since = time.monotonic()
        self._backlog_settled = False
        self.connected = True

    def lost(self) -> None:
        """Answers cannot arrive any more: rows wait, since a time-out that fires now would blame the wrong one."""
        self.connected = False

    def stop(self) -> None:
        """The batch at hand is finished, then `run` returns; what was offered and not taken stays unacknowledged."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Runs until `stop`. Ends with an exception only for a programming error in the loop itself."""
        while not self._stopping:
            self._notice_pause()
            deliveries = await self._gather()
            if self._stopping:
                return
            await self._turn(deliveries)

    def _notice_pause(self) -> bool:
        """Whether the process stood still since the last look (a frozen machine, a stalled event loop).

        Then answers wait in the queue, and the timers that fell due meanwhile must not overtake them: rows wait until the watchdog
        has measured the backlog anew. A slow transaction looks the same, and costs the rows a few seconds.
        """
        before, self.turned_at = self.turned_at, time.monotonic()
        if self.turned_at - before <= PAUSED_SECONDS:
            return False
        self.lost()
        return True

    async def _gather(self) -> list[Delivery]:
        if not self._intake and not self._settleable:
            self._last_size = 0
            await self._sleep(self._pause_seconds())
        elif self._last_size >= self._settings.linger_batch_size_min and len(self._intake) < self._settings.batch_size_max:
            # Busy: a little more makes a larger batch, and a batch's round trips are what costs the processor. As long as the last
            # transaction took: a machine at its limit makes them longer, and is then relieved by fewer of them.
            least, most = self._settings.linger_seconds, self._settings.linger_seconds_max
            await asyncio.sleep(min(max(least, self._last_seconds), most))
        size = min(len(self._intake), self._settings.batch_size_max)
        return [self._intake.popleft() for _ in range(size)]

    def _pause_seconds(self) -> float:
        due = [self._next_retry_poll]
        if self._external:
            due.append(self._next_settle_poll)
        if self.consumer.sources:
            due.append(self._next_row_poll)
        return max(min(due) - time.monotonic(), 0.0)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        if self._intake or self._settleable or self._stopping:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _turn(self, deliveries: Sequence[Delivery]) -> None:
        self._last_size = len(deliveries)
        self._backlog -= len(deliveries)
        lane: list[Delivery] = []
        for delivery in deliveries:
            if delivery.raw.deliveries >= self._settings.suspect_deliveries_min:
                await self._handle_deliveries(lane)
                lane = []
                await self._handle_suspect(delivery)
            else:
                lane.append(delivery)
        await self._handle_deliveries(lane)
        await self._poll_rows()

    async def _handle_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        arrivals = [self._batch.admit(one.raw, one.received_at, tag=one.tag) for one in deliveries]
        await self._commit(arrivals)
        await self._acknowledge(deliveries)

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        last: dict[int, Delivery] = {id(one.channel): one for one in deliveries}
        for delivery in last.values():
            try:
                await delivery.channel.acknowledge(delivery.tag)
            except ConnectionError:
                # The effect is committed; the message comes again and the inbox knows it.
                ACKNOWLEDGE_ERRORS.labels(self._service).inc()
        crash_point(self._service, "after-acknowledge")

    async def _handle_suspect(self, delivery: Delivery) -> None:
        """A message that was delivered often may kill the process: alone, after its try has been committed."""
        arrival = self._batch.admit(delivery.raw, delivery.received_at, tag=delivery.tag)
        identity = suspects.identity(arrival.key, delivery.raw)
        async with self._counted_try(identity) as tries:
            if tries > self._settings.suspect_tries_max:
                arrival.crash(f"the process ended {tries - 1} times while it handled this message; see its log of that time")
            await self._commit([arrival])
        await self._acknowledge([delivery])

    @asynccontextmanager
    async def _counted_try(self, identity: str) -> AsyncGenerator[int]:
        """Counts a try before the block and yields how many there are. A stop inside the block takes it back.

        What ends the process leaves the try behind: SIGKILL runs nothing here, an input that never gives the processor back lets no
        cancellation in, and a bug that ends the loop is no stop.
        """
        tries = await self._with_patience(lambda: self._count_try(identity))
        try:
            yield tries
        except asyncio.CancelledError:
            if self._stopping:
                await self._take_back_try(identity)
            raise

    async def _count_try(self, identity: str) -> int:
        async with self._engine.begin() as connection:
            return await suspects.count_try(connection, self.consumer.queue, identity)

    async def _take_back_try(self, identity: str) -> None:
        """Where the database allows it, within a short time: it may be the reason why we stop here."""
        try:
            async with asyncio.timeout(TAKE_BACK_SECONDS_MAX), self._engine.begin() as connection:
                await suspects.take_back(connection, self.consumer.queue, identity)
        except Exception as error:
            if classify(error) is None:
                raise
            log.warning("try_not_taken_back", queue=self.consumer.queue, input=identity, error=str(error)[:300])

    async def _forget_tries(self, identity: str) -> None:
        async with self._engine.begin() as connection:
            await suspects.forget(connection, self.consumer.queue, identity)

    async def _poll_rows(self) -> None:
        now = time.monotonic()
        retried: list[RetryRow] = []
        if now >= self._next_retry_poll:
            self._next_retry_poll = now + RETRY_POLL_SECONDS
            retried = await self._with_patience(self._claim_retries)
        settle = sorted(self._settleable)[: self._settings.batch_size_max]
        self._settleable.difference_update(settle)
        left_behind: list[str] = []
        if self._external and now >= self._next_settle_poll:
            self._next_settle_poll = now + SETTLE_POLL_SECONDS
            found = await self._with_patience(self._find_settleable)
            # What this process has heard of itself is no crash's remains.
            left_behind = [one for one in found if one not in settle and one not in self._settleable]
        rows: list[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]] = []
        if self.consumer.sources and now >= self._next_row_poll:
            # While rows have to wait they are not claimed, and not looked for more often than else.
            rows = await self._claim_rows() if self._backlog_is_read(now) else []
            # A full claim means that more is due: look again at once.
            full = len(rows) >= self._settings.batch_size_max
            self._next_row_poll = now if full else now + self._settings.row_poll_seconds
        await self._handle_rows(retried, settle, left_behind, rows)

    async def _handle_rows(
        self,
        retried: Sequence[RetryRow],
        settle: Sequence[str],
        left_behind: Sequence[str],
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]],
    ) -> None:
        """Together what is claimed for the first time. What was begun before without a word, alone: it may have ended the process,
        and a claim raises the tries of innocent neighbours as well."""
        suspicious = self._settings.suspect_deliveries_min
        fresh_retries = [row for row in retried if row.tries < suspicious]
        fresh_rows = [(source, row) for source, row in rows if row.tries < suspicious]
        if rows and self._notice_pause():
            # Claimed before the pause, they would be decided by the time after it. They are due again when their lease ends.
            fresh_rows, rows = [], []
        if fresh_retries or settle or fresh_rows:
            crash_point(self._service, "after-claim")
            await self._commit([self._retry_arrival(row) for row in fresh_retries], settle, fresh_rows)
        for retry in retried:
            if retry.tries >= suspicious:
                await self._handle_suspect_retry(retry)
        for operation_id in left_behind:
            await self._handle_suspect_settle(operation_id)
        for source, row in rows:
            if row.tries >= suspicious:
                await self._handle_suspect_row(source, row)

    async def _handle_suspect_retry(self, row: RetryRow) -> None:
        # The number of its failures is part of the name: a try that ends with a word begins a new count.
        identity = "\n".join(("retry", *row.key, str(row.attempts)))
        async with self._counted_try(identity) as tries:
            arrival = self._retry_arrival(row)
            if tries > self._settings.suspect_tries_max:
                arrival.crash(f"the process ended {tries - 1} times while it handled this retry; see its log of that time")
            await self._commit([arrival])
        await self._with_patience(lambda: self._forget_tries(identity))

    async def _handle_suspect_settle(self, operation_id: str) -> None:
        identity = f"settle\n{operation_id}"
        async with self._counted_try(identity) as tries:
            await self._commit((), [operation_id], crashed=tries > self._settings.suspect_tries_max)
        await self._with_patience(lambda: self._forget_tries(identity))

    async def _handle_suspect_row(self, source: RowSource[Any, Any, Any], row: RowInput[Any, Any]) -> None:
        identity = f"{source.name}\n{row.id}"
        async with self._counted_try(identity) as tries:
            await self._commit((), (), [(source, replace(row, tries=tries))])
        await self._with_patience(lambda: self._forget_tries(identity))

    def _backlog_is_read(self, now: float) -> bool:
        if self._notice_pause() or not self.connected or now - self._backlog_since < SETTLE_AFTER_START_SECONDS:
            return False
        if not self._backlog_settled:
            # What the broker had delivered and we had not handled was not among the ready messages that it counted.
            self._backlog += len(self._intake)
            self._backlog_settled = True
        quiet = not self._intake and now - self._last_delivery >= QUIET_SECONDS
        return self._backlog <= 0 or quiet

    def _retry_arrival(self, row: RetryRow) -> Arrival:
        if row.unreadable is not None:
            return self._unreadable(row, row.unreadable)
        arrival = self._batch.admit(row.raw, datetime.now(UTC), retry=row)
        # Under another key than its row's, the transaction would neither run it nor delete the row.
        return arrival if arrival.key == row.key else self._unreadable(row, str(arrival.failure or f"it is {arrival.key}"))

    def _unreadable(self, row: RetryRow, why: str) -> Arrival:
        """The row's own account of the message it held, with its bytes as the body: a dead letter in the next transaction."""
        log.error(
            "retry_unreadable",
            queue=self.consumer.queue,
            source=row.source,
            message_id=row.message_id,
            operation_id=row.operation_id,
            error=why[:300],
            note="becomes a dead letter with the row's bytes; type `tutti dlq list`",
        )
        envelope = Envelope(
            id=row.message_id,
            source=row.source,
            type=row.type,
            time=row.first_failed_at,
            data={},
            operationid=row.operation_id,
            correlationid=row.correlation_id,
        )
        failure = Permanent(f"the message that waited for another try cannot be read from its row: {why[:500]}")
        return Arrival(raw=row.raw, received_at=datetime.now(UTC), retry=row, envelope=envelope, failure=failure)

    async def _claim_retries(self) -> list[RetryRow]:
        async with single_statements(self._engine) as connection:
            return await retries.claim(connection, self.consumer.queue, self._settings.batch_size_max)

    async def _find_settleable(self) -> list[str]:
        async with single_statements(self._engine) as connection:
            return await calls.settleable(connection, self.consumer.queue, self._settings.batch_size_max)

    async def _claim_rows(self) -> list[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]]:
        """Each source in a transaction with a patience of its own: an outage in the second must not lose what the first has claimed."""
        claimed: list[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]] = []
        for source in self.consumer.sources:
            claimed += await self._with_patience(lambda one=source: self._claim_rows_of(one))
        return claimed

    async def _claim_rows_of(self, source: RowSource[Any, Any, Any]) -> list[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]]:
        async with single_statements(self._engine) as connection:
            return [(source, row) for row in await source.claim(connection, self._settings.batch_size_max)]

    async def _commit(
        self,
        arrivals: Sequence[Arrival],
        settle: Sequence[str] = (),
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]] = (),
        *,
        crashed: bool = False,
    ) -> None:
        """Commits the inputs, as a batch or, where some message's data are at fault, one by one."""
        try:
            await self._with_patience(lambda: self._transaction(arrivals, settle, rows, crashed=crashed))
        except Exception as error:
            TROUBLE.labels(self._service, self.consumer.queue, "one-by-one").inc()
            log.warning("batch_failed", queue=self.consumer.queue, inputs=len(arrivals) + len(settle) + len(rows), exc_info=error)
            await self._one_by_one(arrivals, settle, rows, crashed=crashed)

    async def _one_by_one(
        self,
        arrivals: Sequence[Arrival],
        settle: Sequence[str],
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]],
        *,
        crashed: bool,
    ) -> None:
        for arrival in arrivals:
            try:
                await self._with_patience(lambda one=arrival: self._transaction([one]))
            except Exception as error:  # noqa: BLE001 - as above: now it is known whose data it is
                arrival.failure = error if isinstance(error, Transient) else _culprit(error)
                await self._with_patience(lambda one=arrival: self._transaction([one]))
        singles: list[tuple[Sequence[str], Sequence[Any]]] = [([one], ()) for one in settle] + [((), [one]) for one in rows]
        for operation_ids, row in singles:
            try:
                await self._with_patience(lambda ids=operation_ids, row=row: self._transaction((), ids, row, crashed=crashed))
            except Exception as error:  # noqa: BLE001 - as above
                self._log_row("row_failed", operation_ids, row, error)
                await self._give_up(operation_ids, row, error if isinstance(error, Transient) else _culprit(error))

    async def _give_up(self, operation_ids: Sequence[str], rows: Sequence[Any], failure: Failure) -> None:
        """Ends an input that is no message as a message ends whose data are at fault: visibly, at once, with the true cause."""
        refusing = [(cast("RowSource[Any, Any, Any]", _RefusingSource(source, failure)), row) for source, row in rows]
        try:
            await self._with_patience(lambda: self._transaction((), operation_ids, refusing, refusal=failure))
        except Exception as error:  # noqa: BLE001 - even this cannot be stored: the row is due again when its lease ends, and it is said each time
            self._log_row("row_not_given_up", operation_ids, rows, error)

    def _log_row(self, event: str, operation_ids: Sequence[str], rows: Sequence[Any], error: Exception) -> None:
        log.error(
            event,
            queue=self.consumer.queue,
            operations=list(operation_ids),
            rows=[f"{source.name} {row.id}" for source, row in rows],
            exc_info=error,
        )

    async def _transaction(
        self,
        arrivals: Sequence[Arrival],
        settle: Sequence[str] = (),
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]] = (),
        *,
        crashed: bool = False,
        refusal: Failure | None = None,
    ) -> None:
        began = time.perf_counter()
        # Settling needs no states when it is refused, and loading them may be what fails; a row's `give_up` cannot do without.
        batch = self._batch if refusal is None or not settle else self._batch_of(_refusing(self.consumer, refusal))
        async with hot_transaction(self._engine, lambda: crash_point(self._service, "before-commit")) as connection:
            result = await batch.handle(connection, arrivals, settle, rows, crashed=crashed)
        self._last_seconds = time.perf_counter() - began
        BATCHES.labels(self._service, self.consumer.queue).observe(self._last_seconds)
        BATCH_SIZE.labels(self._service, self.consumer.queue).observe(len(arrivals) + len(settle) + len(rows))
        crash_point(self._service, "after-commit")
        self._after_commit(result)

    def _after_commit(self, result: BatchResult) -> None:
        self._relay.submit(result.rows)
        if result.calls:
            self._on_calls.set()
        if self.consumer.committed is not None and (result.changed or result.facts):
            self.consumer.committed(result.changed, result.facts)
        for outcome in result.outcomes:
            counter = self._outcome_counters.get(outcome)
            if counter is None:
                counter = self._outcome_counters[outcome] = MESSAGES.labels(self._service, *outcome)
            counter.inc()

    async def _with_patience(self, work: Any) -> Any:
        """Runs a transaction until it commits: at once again for momentary trouble, after a pause during an outage.

        Raises what is neither: the data's or the program's fault.
        """
        momentary = 0
        pause = 0.1
        while True:
            try:
                result = await work()
            except Exception as error:
                trouble = classify(error)
                if trouble is None or trouble is Trouble.DATA:
                    raise
                TROUBLE.labels(self._service, self.consumer.queue, trouble.value).inc()
                momentary += 1
                if trouble is Trouble.MOMENTARY and momentary <= MOMENTARY_TRIES_MAX:
                    await asyncio.sleep(random.uniform(0.0, 0.1 * 2**momentary))
                    continue
                log.warning(
                    "database_unavailable", queue=self.consumer.queue, pause_seconds=round(pause, 1), error=str(error)[:300]
                )
                DATABASE_UP.labels(self._service).set(0)
                await self._pause(pause)
                pause = min(pause * 2, OUTAGE_PAUSE_SECONDS_MAX)
            else:
                DATABASE_UP.labels(self._service).set(1)
                return result

    async def _pause(self, seconds: float) -> None:
        """Waits during an outage; a stop ends the loop here, since nothing can be committed and nothing is acknowledged."""
        if self._stopping:
            raise asyncio.CancelledError("stopped during an outage; the inputs stay where they are")
        self.turned_at = time.monotonic()
        self._backlog_since = time.monotonic()
        await asyncio.sleep(seconds)


def _refusing(consumer: Consumer, failure: Failure) -> Consumer:
    """The consumer with decisions that all raise the failure, and no states: what is given up takes the way of what is handled."""

    def refuse(*_: object) -> Decision[Any]:
        raise failure

    routes = tuple(replace(route, decide=refuse, settle=refuse) for route in consumer.routes)
    return replace(consumer, routes=routes, repository=_NoStates())


class _NoStates:
    """The repository of a consumer that decides nothing."""

    async def load(self, connection: AsyncConnection, keys: Sequence[Any]) -> Mapping[Any, Any]:
        return {}

    async def save(self, connection: AsyncConnection, changed: Mapping[Any, Any], facts: Sequence[object]) -> None:
        raise AssertionError("nothing was decided, so there is nothing to save")


class _RefusingSource:
    """A source whose decision raises, so that its rows are given up with that as the reason."""

    def __init__(self, source: RowSource[Any, Any, Any], failure: Failure) -> None:
        self._source = source
        self._failure = failure

    def decide(self, row: RowInput[Any, Any], state: Any, context: Context) -> Decision[Any]:
        raise self._failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _culprit(error: BaseException) -> Failure:
    failure = Permanent(f"the message's data cannot be stored: {type(error).__name__}: {str(error)[:500]}")
    failure.__cause__ = error
    return failure

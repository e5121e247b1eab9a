"""The one loop: gathers inputs into batches, runs their transaction, and only then acknowledges and hands over to the relay.

    queue ──┐
    due retries ──┤ gather ──> [suspects alone] ──> transaction ──> COMMIT ──> acknowledge (multiple), relay, calls
    calls that are over ──┤                             │
    due rows ──┘              momentary: again, 3 times │ outage: wait, spend nothing │ data: one by one, the culprit is found

Everything is taken strictly in order of arrival, one batch at a time, so all deliveries up to the last of a batch are handled when it
has committed: acknowledging "multiple" is right. Rows of other sources (timers, acts) come after messages. After a start, a pause
or an outage they also wait until the backlog found then has been read, so that answers in the queue are not overtaken by their own
time-outs.

The parts: due_rows.py claims and handles what is no delivery, backlog.py says when rows may come, committing.py commits, patience.py
answers trouble of the database, suspects.py counts the tries of what may have ended the process, batch/ is the transaction.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis import suspects
from infra.chassis.backlog import Backlog
from infra.chassis.batch import BatchResult
from infra.chassis.committing import Committing
from infra.chassis.crash_points import crash_point
from infra.chassis.decoding import Raw
from infra.chassis.due_rows import DueRows
from infra.chassis.inputs import Inputs
from infra.chassis.metrics import ACKNOWLEDGE_ERRORS, MESSAGES
from infra.chassis.outbox import OutboxRow
from infra.chassis.patience import Patience
from infra.chassis.rest import rest
from infra.chassis.suspects import Suspects
from infra.chassis.workplace import Workplace


class Channel(Protocol):
    """Where a delivery came from and where it is acknowledged."""

    async def acknowledge(self, tag: int) -> None:
        """Acknowledges the delivery and all before it on this channel. Raises ConnectionError when the channel has died."""


class Relay(Protocol):
    def submit(self, rows: Sequence[OutboxRow]) -> None:
        """Takes rows that have just been committed; never blocks and never fails."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the queue. `channel` has delivered it, and only there does `tag` mean this message."""

    raw: Raw
    channel: Channel
    tag: int
    received_at: datetime


class Loop:
    """One consumer's loop. `offer` is called for each delivery; `run` ends after `stop`, when the batch at hand is done."""

    def __init__(self, workplace: Workplace, engine: AsyncEngine, relay: Relay, on_calls: asyncio.Event) -> None:
        self.workplace = workplace
        self._settings = workplace.settings
        self._relay = relay
        self._on_calls = on_calls
        self._intake: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._last_size = 0
        self._outcome_counters: dict[tuple[str, str], Any] = {}
        self.backlog = Backlog(time.monotonic())
        patience = Patience(workplace.service, workplace.queue, self._stopping, lambda: self.backlog.resting(time.monotonic()))
        self.committing = Committing(workplace, engine, patience, self._after_commit)
        self._suspects = Suspects(engine, workplace.queue, patience, self._stopping)
        self.due_rows = DueRows(
            workplace, engine, patience, self.committing, self._suspects, self.backlog, lambda: len(self._intake)
        )

    @property
    def queue(self) -> str:
        return self.workplace.queue

    def offer(self, delivery: Delivery) -> None:
        """Takes a delivery, in order of arrival. The prefetch count bounds how many there can be."""
        self._intake.append(delivery)
        self.backlog.delivered(time.monotonic())
        self._wake.set()

    def calls_over(self, operation_id: str) -> None:
        """All calls of this operation may be over."""
        self.due_rows.concluding.add(operation_id)
        self._wake.set()

    def look(self) -> None:
        """Somebody has just written a row: look at once instead of at the next poll. Losing this costs a poll's time."""
        self.due_rows.look()
        self._wake.set()

    def stop(self) -> None:
        """The batch at hand is finished, then `run` returns; what was offered and not taken stays unacknowledged."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Runs until `stop`. Ends with an exception only for a programming error in the loop itself."""
        while not self._stopping.is_set():
            self.backlog.notice_pause(time.monotonic())
            deliveries = await self._gather()
            if self._stopping.is_set():
                return
            await self.turn(deliveries)

    async def _gather(self) -> list[Delivery]:
        if not self._intake and not self.due_rows.concluding:
            self._last_size = 0
            await self._sleep(self.due_rows.pause_seconds())
        elif self._last_size >= self._settings.linger_batch_size_min and len(self._intake) < self._settings.batch_size_max:
            # Busy: a short wait makes a larger batch, and the round trips of each batch are what costs the processor. The wait is as
            # long as the last transaction took: a machine at its limit takes longer for each, and is then relieved by fewer of them.
            least, most = self._settings.linger_seconds, self._settings.linger_seconds_max
            await asyncio.sleep(min(max(least, self.committing.seconds), most))
        size = min(len(self._intake), self._settings.batch_size_max)
        return [self._intake.popleft() for _ in range(size)]

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        if self._intake or self.due_rows.concluding or self._stopping.is_set():
            return
        await rest(self._wake, seconds)

    async def turn(self, deliveries: Sequence[Delivery]) -> None:
        """Handles these deliveries, suspects alone and in their place, and then what is due (due_rows.py)."""
        self._last_size = len(deliveries)
        self.backlog.read(len(deliveries))
        lane: list[Delivery] = []
        for delivery in deliveries:
            if delivery.raw.deliveries >= self._settings.suspect_deliveries_min:
                await self._handle_deliveries(lane)
                lane = []
                await self._handle_suspect(delivery)
            else:
                lane.append(delivery)
        await self._handle_deliveries(lane)
        await self.due_rows.turn()

    async def _handle_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        admit = self.committing.admission.admit
        await self.committing.commit(Inputs(arrivals=tuple(admit(one.raw, one.received_at) for one in deliveries)))
        await self._acknowledge(deliveries)

    async def _handle_suspect(self, delivery: Delivery) -> None:
        """A message that was delivered often may kill the process: alone, after its try has been committed."""
        arrival = self.committing.admission.admit(delivery.raw, delivery.received_at)
        async with self._suspects.counted_try(suspects.identity(arrival.key, delivery.raw)) as tries:
            if tries > self._settings.suspect_tries_max:
                arrival.crash(f"the process ended {tries - 1} times while it handled this message; see its log of that time")
            await self.committing.commit(Inputs(arrivals=(arrival,)))
        await self._acknowledge([delivery])

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        last: dict[int, Delivery] = {id(one.channel): one for one in deliveries}
        for delivery in last.values():
            try:
                await delivery.channel.acknowledge(delivery.tag)
            except ConnectionError:
                # The effect is committed; the message comes again and the inbox knows it.
                ACKNOWLEDGE_ERRORS.labels(self.workplace.service).inc()
        crash_point(self.workplace.service, "after-acknowledge")

    def _after_commit(self, result: BatchResult) -> None:
        self._relay.submit(result.rows)
        if result.calls:
            self._on_calls.set()
        committed = self.workplace.consumer.committed
        if committed is not None and (result.changed or result.facts):
            committed(result.changed, result.facts)
        for outcome in result.outcomes:
            counter = self._outcome_counters.get(outcome)
            if counter is None:
                counter = self._outcome_counters[outcome] = MESSAGES.labels(self.workplace.service, *outcome)
            counter.inc()

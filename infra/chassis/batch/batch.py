"""The transaction of the one loop: from a batch of inputs to committed effects, answers and failures.

    inputs:  deliveries and due retries (in order of arrival), operations whose calls are over, rows (timers, acts)

    inbox ──new?──> operations ──outcome?──> load ──> decide, one after the other ──> save ──> outbox      all in one transaction
      │ seen: skip     │ stored answer again            │ raises: that message alone is
      │ (replay: verdict)                               │ retrying or dead, the others go on

Invariants. (1) Locks are taken in one order everywhere: inbox, operations, state by key, outbox; each sorted. (2) A decision that
raises changes nothing: states, facts, calls and outgoing messages are merged only after it has returned and its messages have been
encoded. (3) Every admitted message leaves exactly one trace here: an outcome, a retry row, or a dead letter on its way. (4) The
number of statements does not depend on the number of messages. (5) Nothing is acknowledged or published here; the caller does
both after the commit, so a crash at any point leaves either the whole batch or nothing of it.

The parts: admission.py says who comes in, deciding.py, concluding.py and row_deciding.py decide one input each, failing.py answers
what raises, reporting.py tells of replays, work.py holds the draft that this module loads and saves.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis import calls, inbox, operation_rows, outbox, retries
from infra.chassis.batch.admission import Admission
from infra.chassis.batch.concluding import Concluding
from infra.chassis.batch.deciding import Deciding
from infra.chassis.batch.failing import Failing
from infra.chassis.batch.reporting import Reporting
from infra.chassis.batch.row_deciding import RowDeciding
from infra.chassis.batch.work import BatchResult, Work
from infra.chassis.inputs import Arrival, Inputs, SourceRow
from infra.chassis.workplace import Workplace


class BatchTransaction:
    """Handles the batches of one consumer, each between its BEGIN and COMMIT. Holds no state between batches."""

    def __init__(self, workplace: Workplace) -> None:
        self._consumer = workplace.consumer
        self._queue = workplace.queue
        self._external = workplace.external
        reporting, failing = Reporting(workplace), Failing(workplace)
        self.admission = Admission(workplace, reporting)
        self._deciding = Deciding(workplace, reporting, failing)
        self._concluding = Concluding(self.admission, self._deciding, failing)
        self._row_deciding = RowDeciding(workplace)

    async def handle(self, connection: AsyncConnection, inputs: Inputs) -> BatchResult:
        """Everything between BEGIN and COMMIT. Raises what load, save or the database raise; the caller sorts that out."""
        admitted, work = await self.admission.receive(connection, inputs, datetime.now(UTC))
        await self._claim(connection, admitted, inputs.concluding, work)
        await self._load(connection, admitted, inputs, work)
        for arrival in admitted:
            self._deciding.take(arrival, work)
        for operation_id in inputs.concluding:
            self._concluding.take(operation_id, work, crashed=inputs.crashed)
        for row in inputs.rows:
            self._row_deciding.take(row, work)
        await self._save(connection, inputs.rows, work)
        return work.result()

    async def _claim(
        self, connection: AsyncConnection, admitted: Sequence[Arrival], concluding: Sequence[str], work: Work
    ) -> None:
        correlations = dict(claim for arrival in admitted if (claim := arrival.claim) is not None)
        if correlations:
            work.operations = await operation_rows.claim(connection, correlations, work.received)
        missing = [one for one in concluding if one not in work.operations]
        if missing:
            # Claimed and concluded ids are locked in two statements; the concluding consumer is the only one that locks in both.
            work.operations |= await operation_rows.lock(connection, missing)
        # An operation that this transaction has made has no calls yet.
        known = [one for one in work.operations if not work.received.get(one)]
        if self._external and known:
            work.known_calls = await calls.of_operations(connection, known)

    async def _load(self, connection: AsyncConnection, admitted: Sequence[Arrival], inputs: Inputs, work: Work) -> None:
        keys: list[Any] = [one.row.key for one in inputs.rows]
        for arrival in admitted:
            keys += self._keys(arrival, work)
        for operation_id in () if inputs.crashed else inputs.concluding:
            for arrival in self._concluding.pending(work.operations.get(operation_id), work):
                keys += self._keys(arrival, work)
        if keys:
            work.states = dict(await self._consumer.repository.load(connection, keys))

    def _keys(self, arrival: Arrival, work: Work) -> Sequence[Any]:
        """Keys of the states that its decision needs. An arrival that will not be decided needs no state, and loading may be what fails."""
        decoded = arrival.decoded
        if decoded is None or arrival.failure is not None:
            return ()
        if decoded.route.direction != "event":
            operation = work.operations[decoded.envelope.operationid or ""]
            if operation.answer(decoded.route.direction) is not None:
                return ()
        return decoded.route.keys(decoded.message, decoded.envelope)

    async def _save(self, connection: AsyncConnection, rows: Sequence[SourceRow], work: Work) -> None:
        if work.changed or work.facts:
            await self._consumer.repository.save(connection, work.changed, work.facts)
        by_source: dict[str, list[SourceRow]] = {}
        for one in rows:
            by_source.setdefault(one.source.name, []).append(one)
        for taken in by_source.values():
            await taken[0].source.mark_done(connection, [one.row for one in taken])
        if changed := [operation for operation in work.operations.values() if operation.changed]:
            await operation_rows.save(connection, changed)
        if work.new_calls:
            await calls.insert(connection, self._queue, work.new_calls)
        waiting = {retry.key for retry in work.retries}
        if finished := [key for key in work.retried if key not in waiting]:
            await retries.delete(connection, self._queue, finished)
        if work.retries:
            await retries.schedule(connection, self._queue, work.retries)
        if work.marks:
            await inbox.mark(connection, self._queue, work.marks)
        if work.rows:
            await outbox.insert(connection, work.rows)

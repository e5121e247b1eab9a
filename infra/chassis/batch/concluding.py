"""Concludes operations whose calls are over: the results become the answer, and an undo that came meanwhile is decided."""

from collections.abc import Sequence

from infra.chassis.batch.admission import Admission
from infra.chassis.batch.deciding import Deciding
from infra.chassis.batch.failing import Failing
from infra.chassis.batch.work import Work
from infra.chassis.calls import CallRow
from infra.chassis.decoding import Raw
from infra.chassis.errors import Transient
from infra.chassis.inputs import Arrival
from infra.chassis.operations import Operation, start
from infra.chassis.outbox import Timing
from infra.chassis.service import Direction


class Concluding:
    """The second half of a command that made calls."""

    def __init__(self, admission: Admission, deciding: Deciding, failing: Failing) -> None:
        self._admission = admission
        self._deciding = deciding
        self._failing = failing

    def pending(self, operation: Operation | None, work: Work) -> list[Arrival]:
        """The commands of this operation that wait for their calls."""
        stored = (operation.pending_do, operation.pending_undo) if operation else ()
        return [self._admit(raw, work) for raw in stored if raw is not None]

    def _admit(self, stored: bytes, work: Work) -> Arrival:
        return self._admission.admit(Raw.from_json(stored), work.started_at)

    def take(self, operation_id: str, work: Work, *, crashed: bool) -> None:
        """Concludes the do of an operation, then an undo that came meanwhile. Does nothing while one of its calls is under way."""
        operation = work.operations.get(operation_id)
        known = work.known_calls.get(operation_id, [])
        begun = any(new.operation_id == operation_id for new in work.new_calls)
        if operation is None or begun or any(row.state == "due" for row in known):
            return
        if operation.pending_do is not None:
            self._take_direction(operation, "do", operation.pending_do, known, work, crashed=crashed)
        if operation.pending_undo is not None and operation.pending_do is None:
            self._take_direction(operation, "undo", operation.pending_undo, known, work, crashed=crashed)

    def _take_direction(
        self,
        operation: Operation,
        direction: Direction,
        stored: bytes,
        known: Sequence[CallRow],
        work: Work,
        *,
        crashed: bool,
    ) -> None:
        arrival = self._admit(stored, work)
        if crashed:
            arrival.crash("the process ended again and again while it concluded the calls of this command; see its log")
        try:
            outcome = self._conclude(arrival, operation, direction, known, work)
        except Exception as error:  # noqa: BLE001 - as in Deciding.take
            operation.drop_pending(direction)
            outcome = self._failing.fail(arrival, error, work, final=True)
        if outcome is not None:
            work.outcomes.append((arrival.name, outcome))

    def _conclude(
        self, arrival: Arrival, operation: Operation, direction: Direction, known: Sequence[CallRow], work: Work
    ) -> str | None:
        """The outcome; None for a do with exhausted calls that leaves the answer to its undo. Raises what the decision raises, and Transient
        for exhausted calls."""
        if arrival.failure is not None:
            raise arrival.failure
        assert arrival.decoded is not None
        decoded = arrival.decoded
        mine = [row for row in known if row.direction == direction]
        timing = Timing(arrival.received_at, work.started_at, sum(row.duration_ms for row in mine))
        exhausted = next((row for row in mine if row.state == "exhausted"), None)
        if exhausted is not None:
            operation.drop_pending(direction)
            if direction == "do" and operation.pending_undo is not None:
                return None
            call = exhausted.result.call
            raise Transient(f"{call.dependency} gave no answer to {call.key} within its budget")
        if not mine:
            # An undo that was noted while its do was pending: it has not been decided yet.
            operation.drop_pending(direction)
            start(operation, direction, operation.do_type or "", decoded.envelope.revision, decoded.envelope.id)
            self._deciding.run(decoded, operation, timing, work)
        else:
            assert decoded.route.conclude is not None
            results = [row.result for row in known]
            decision = decoded.route.conclude(decoded.message, work.states, self._deciding.context(decoded, work), results)
            self._deciding.conclude(decoded, operation, decision, timing, work)
        return "handled"

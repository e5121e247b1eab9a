"""Who comes in: a message is decoded once, and its inbox row says whether it is new, a replay's turn, or seen before."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.envelope import Envelope
from contracts.message import unversioned
from contracts.registry import COMMANDERS
from infra.chassis import inbox
from infra.chassis.batch.reporting import Reporting
from infra.chassis.batch.work import Work
from infra.chassis.decoding import Raw, as_first_sent, read, replay_of, resolve
from infra.chassis.errors import Failure, Permanent
from infra.chassis.inputs import Arrival, Inputs
from infra.chassis.operations import Verdict
from infra.chassis.retries import RetryRow
from infra.chassis.service import Direction, Route
from infra.chassis.workplace import Workplace

log = structlog.get_logger()


class Admission:
    """The door of one consumer."""

    def __init__(self, workplace: Workplace, reporting: Reporting) -> None:
        self._queue = workplace.queue
        self._reporting = reporting
        self._routes: Mapping[str, Route] = {route.wire_name: route for route in workplace.consumer.routes}
        self._directions: Mapping[str, Direction] = {
            unversioned(route.wire_name): route.direction for route in self._routes.values()
        }

    def admit(self, raw: Raw, received_at: datetime, *, retry: RetryRow | None = None) -> Arrival:
        """Decodes a message. What is wrong with it is kept, and becomes a retry or a dead letter in the transaction."""
        raw = as_first_sent(raw)
        arrival = Arrival(raw=raw, received_at=received_at, retry=retry)
        try:
            arrival.replay = replay_of(raw)
            arrival.envelope = read(raw)
            self._identify(arrival, arrival.envelope)
            arrival.decoded = resolve(raw, arrival.envelope, self._routes)
        except Failure as failure:
            arrival.failure = failure
        except Exception as error:  # noqa: BLE001 - an upcaster or a validator met data that it did not expect: that message alone
            arrival.failure = Permanent(f"the message cannot be read: {type(error).__name__}: {error}")
            arrival.failure.__cause__ = error
        return arrival

    def _identify(self, arrival: Arrival, envelope: Envelope) -> None:
        # By the name without its version: a command that cannot be read still belongs to its operation.
        arrival.direction = self._directions.get(unversioned(envelope.type), "event")
        claims = bool(envelope.operationid and envelope.correlationid) and arrival.raw.sender in COMMANDERS
        arrival.operation_id = envelope.operationid if claims and arrival.direction != "event" else None

    def admit_retry(self, row: RetryRow) -> Arrival:
        """The message that waited in this row. What cannot be read from its row is a dead letter in the next transaction."""
        if row.unreadable is not None:
            return self._unreadable(row, row.unreadable)
        arrival = self.admit(row.raw, datetime.now(UTC), retry=row)
        # Under another key than its row's, the transaction would neither run it nor delete the row.
        return arrival if arrival.key == row.key else self._unreadable(row, str(arrival.failure or f"it is {arrival.key}"))

    def _unreadable(self, row: RetryRow, why: str) -> Arrival:
        """The row's own account of the message it held, with its bytes as the body."""
        log.error(
            "retry_unreadable",
            queue=self._queue,
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
        arrival = Arrival(raw=row.raw, received_at=datetime.now(UTC), retry=row, envelope=envelope, failure=failure)
        self._identify(arrival, envelope)
        return arrival

    async def receive(self, connection: AsyncConnection, inputs: Inputs, started_at: datetime) -> tuple[list[Arrival], Work]:
        """The arrivals that are to be handled now, in their order, each with its inbox row locked."""
        fresh = {one.key: one.claim for one in inputs.arrivals if one.key is not None and one.retry is None}
        received = await inbox.receive(connection, self._queue, fresh)
        work = Work(now=received.now, started_at=started_at, received=received.operations)
        known = await self._lock_known(connection, inputs)
        return [one for one in inputs.arrivals if self._is_admitted(one, received.messages, known, work)], work

    async def _lock_known(self, connection: AsyncConnection, inputs: Inputs) -> dict[Any, str]:
        """Replays and due retries have their row already; they lock it in a statement of its own, and run from its state."""
        keys = [one.key for one in inputs.arrivals if one.key is not None and (one.retry is not None or one.replay is not None)]
        return dict(await inbox.lock(connection, self._queue, keys)) if keys else {}

    def _is_admitted(self, arrival: Arrival, new: set[Any], known: dict[Any, str], work: Work) -> bool:
        """Whether it is handled now. `new` and `known` note what has been taken: of equal arrivals the first one counts."""
        key = arrival.key
        if key is None:
            return True
        if arrival.retry is not None:
            work.retried.append(key)
            if known.get(key) != "retrying":
                return False
            known[key] = work.marks[key] = "handled"
            return True
        if key in new:
            new.discard(key)
        elif arrival.replay is None:
            work.outcomes.append((arrival.name, "duplicate"))
            return False
        elif key not in work.admitted and not self._replay_goes_on(arrival, known.get(key), work):
            return False
        work.admitted.add(key)
        return True

    def _replay_goes_on(self, arrival: Arrival, state: str | None, work: Work) -> bool:
        """Whether a replay of a known message goes on. Events run from `dead` only.

        A command that was handled goes on as well, to `judge` in operations.py, which has it answered again and never run.
        """
        assert arrival.key is not None
        if state == "dead":
            work.marks[arrival.key] = "handled"
            return True
        if arrival.decoded is None:
            if state == "handled":
                work.handled.add(arrival.key)
            return True
        if state == "handled" and arrival.decoded.route.direction != "event":
            return True
        self._reporting.report(arrival.decoded, Verdict.ABSORB if state == "retrying" else Verdict.ANSWER_AGAIN, work)
        return False

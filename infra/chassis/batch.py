"""The transaction of the one loop: from a batch of inputs to committed effects, answers and failures.

    inputs:  deliveries and due retries (in order of arrival), settled calls, rows (timers, acts)

    inbox ──new?──> operations ──outcome?──> load ──> decide, one after the other ──> save ──> outbox      all in one transaction
      │ seen: skip     │ stored answer again            │ raises: that message alone is
      │ (replay: verdict)                               │ retrying or dead, the others go on

Invariants. (1) Locks are taken in one order everywhere: inbox, operations, state by key, outbox; each sorted. (2) A decision that
raises changes nothing: states, facts, calls and outgoing messages are merged only after it has returned and its messages have been
encoded. (3) Every admitted message leaves exactly one trace here: an outcome, a retry row, or a dead letter on its way. (4) The
number of statements does not depend on the number of messages. (5) Nothing is acknowledged or published here; the caller does
both after the commit, so a crash at any point leaves either the whole batch or nothing of it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.deadletters.v1 import ReplayHandled
from contracts.envelope import Envelope
from contracts.message import Event, unversioned
from contracts.registry import COMMANDERS, REGISTRY, upcast
from infra.chassis import calls, inbox, operation_rows, outbox, retries
from infra.chassis.dead_letters import Kind, clean, dead_letter, describe_failure
from infra.chassis.decoding import Decoded, Raw, Replay, as_first_sent, dead_letter_id, identity_of, read, replay_of, resolve
from infra.chassis.errors import Failure, Permanent, Transient, UnknownVersion
from infra.chassis.inbox import Claim, MessageKey
from infra.chassis.operations import Operation, StoredAnswer, Verdict, finish, judge, outcome_of, start
from infra.chassis.outbox import OutboxRow, Timing, encode, encode_payload, new_id
from infra.chassis.retries import Retry, RetryRow
from infra.chassis.service import (
    Consumer,
    Context,
    Decision,
    Direction,
    Outbound,
    Route,
    RowInput,
    RowSource,
)
from infra.chassis.settings import ServiceSettings


@dataclass(slots=True)
class Arrival:
    """A message at the door: decoded once, however often its transaction is tried. `tag` is None for rows."""

    raw: Raw
    received_at: datetime
    tag: int | None = None
    retry: RetryRow | None = None
    envelope: Envelope | None = None
    decoded: Decoded | None = None
    replay: Replay | None = None
    failure: Failure | None = None
    crashed: bool = False

    @property
    def key(self) -> MessageKey | None:
        return (self.envelope.source, self.envelope.id) if self.envelope else None

    def crash(self, reason: str) -> None:
        """It has ended the process too often: a dead letter without another try."""
        self.crashed, self.failure = True, Permanent(reason)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What the caller does after the commit: hand `rows` to the relay, make `calls`, count `outcomes` (wire name, outcome), and tell
    the consumer what was saved (`changed`, `facts`)."""

    rows: Sequence[OutboxRow]
    calls: bool
    outcomes: Sequence[tuple[str, str]]
    changed: Mapping[Any, Any]
    facts: Sequence[object]


@dataclass(slots=True)
class _Work:
    """What one attempt at the transaction has gathered so far."""

    now: datetime
    started_at: datetime
    received: Mapping[str, bool] = field(default_factory=dict)
    states: dict[Any, Any] = field(default_factory=dict)
    changed: dict[Any, Any] = field(default_factory=dict)
    facts: list[object] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    known_calls: Mapping[str, list[calls.CallRow]] = field(default_factory=dict)
    new_calls: list[calls.NewCall] = field(default_factory=list)
    rows: list[OutboxRow] = field(default_factory=list)
    admitted: set[MessageKey] = field(default_factory=set)
    decided: set[MessageKey] = field(default_factory=set)
    # Messages with an effect, of which a replay (an unreadable edit of it) may fail: they must not become `dead` and run again.
    handled: set[MessageKey] = field(default_factory=set)
    marks: dict[MessageKey, str] = field(default_factory=dict)
    retries: list[Retry] = field(default_factory=list)
    retried: list[MessageKey] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)


class Batch:
    """Handles batches of one consumer. Holds no state between batches."""

    def __init__(self, service: str, version: str, consumer: Consumer, settings: ServiceSettings, *, external: bool) -> None:
        self._service = service
        self._version = version
        self._consumer = consumer
        self._queue = consumer.queue
        self._settings = settings
        self._external = external
        self._routes: Mapping[str, Route] = {route.wire_name: route for route in consumer.routes}
        self._directions: Mapping[str, Direction] = {unversioned(route.wire_name): route.direction for route in consumer.routes}

    def admit(self, raw: Raw, received_at: datetime, *, tag: int | None = None, retry: RetryRow | None = None) -> Arrival:
        """Decodes a message. What is wrong with it is kept, and becomes a retry or a dead letter in the transaction."""
        raw = as_first_sent(raw)
        arrival = Arrival(raw=raw, received_at=received_at, tag=tag, retry=retry)
        try:
            arrival.replay = replay_of(raw)
            arrival.envelope = read(raw)
            arrival.decoded = resolve(raw, arrival.envelope, self._routes)
        except Failure as failure:
            arrival.failure = failure
        except Exception as error:  # noqa: BLE001 - an upcaster or a validator met data that it did not expect: that message alone
            arrival.failure = Permanent(f"the message cannot be read: {type(error).__name__}: {error}")
            arrival.failure.__cause__ = error
        return arrival

    async def handle(
        self,
        connection: AsyncConnection,
        arrivals: Sequence[Arrival],
        settle: Sequence[str] = (),
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]] = (),
        *,
        crashed: bool = False,
    ) -> BatchResult:
        """Everything between BEGIN and COMMIT. Raises what load, save or the database raise; the caller sorts that out.

        `crashed` says that settling has ended the process too often: what is pending becomes a dead letter, undecided.
        """
        started_at = datetime.now(UTC)
        admitted, work = await self._receive(connection, arrivals, started_at)
        await self._claim(connection, admitted, settle, work)
        await self._load(connection, admitted, () if crashed else settle, rows, work)
        for arrival in admitted:
            self._take(arrival, work)
        for operation_id in settle:
            self._settle(operation_id, work, crashed)
        for source, row in rows:
            self._take_row(source, row, work)
        await self._save(connection, rows, work)
        return BatchResult(work.rows, bool(work.new_calls), work.outcomes, work.changed, work.facts)

    async def _receive(
        self, connection: AsyncConnection, arrivals: Sequence[Arrival], started_at: datetime
    ) -> tuple[list[Arrival], _Work]:
        fresh = {a.key: self._claim_of(a) for a in arrivals if a.key is not None and a.retry is None}
        received = await inbox.receive(connection, self._queue, fresh)
        new = received.messages
        work = _Work(now=received.now, started_at=started_at, received=received.operations)
        rows = [a.key for a in arrivals if a.key is not None and (a.retry is not None or a.replay is not None)]
        known = await inbox.lock(connection, self._queue, rows) if rows else {}
        admitted: list[Arrival] = []
        for arrival in arrivals:
            key = arrival.key
            if key is None:
                admitted.append(arrival)
            elif arrival.retry is not None:
                work.retried.append(key)
                if known.get(key) == "retrying":
                    known = {**known, key: "handled"}
                    work.marks[key] = "handled"
                    admitted.append(arrival)
            elif arrival.replay is not None and key not in new:
                if key in work.admitted or self._admit_replay(arrival, known.get(key), work):
                    work.admitted.add(key)
                    admitted.append(arrival)
            elif key in new:
                new.discard(key)
                work.admitted.add(key)
                admitted.append(arrival)
            else:
                work.outcomes.append((self._name(arrival), "duplicate"))
        return admitted, work

    def _admit_replay(self, arrival: Arrival, state: str | None, work: _Work) -> bool:
        """A replay runs only from `dead`. What was handled is answered again where there is an answer, never run again."""
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
        self._report(arrival.decoded, Verdict.ABSORB if state == "retrying" else Verdict.ANSWER_AGAIN, work)
        return False

    async def _claim(self, connection: AsyncConnection, admitted: Sequence[Arrival], settle: Sequence[str], work: _Work) -> None:
        correlations = dict(claim for arrival in admitted if (claim := self._claim_of(arrival)) is not None)
        if correlations:
            work.operations = await operation_rows.claim(connection, correlations, work.received)
        missing = [one for one in settle if one not in work.operations]
        if missing:
            # Claimed and settled ids are locked in two statements; the settling consumer is the only one that locks in both.
            work.operations |= await operation_rows.lock(connection, missing)
        # What this transaction has made has no calls yet.
        known = [one for one in work.operations if not work.received.get(one)]
        if self._external and known:
            work.known_calls = await calls.of_operations(connection, known)

    def _claim_of(self, arrival: Arrival) -> Claim | None:
        operation_id = self._operation_id(arrival)
        correlation_id = arrival.envelope.correlationid if arrival.envelope else None
        return (operation_id, correlation_id) if operation_id is not None and correlation_id is not None else None

    def _operation_id(self, arrival: Arrival) -> str | None:
        """The operation of a command that its sender may claim, also when its payload is not valid."""
        envelope = arrival.envelope
        if envelope is None or not envelope.operationid or not envelope.correlationid or arrival.raw.sender not in COMMANDERS:
            return None
        return envelope.operationid if self._direction(arrival) != "event" else None

    def _direction(self, arrival: Arrival) -> Direction:
        # By the name without its version: a command that cannot be read still belongs to its operation.
        return self._directions.get(unversioned(arrival.envelope.type), "event") if arrival.envelope else "event"

    async def _load(
        self,
        connection: AsyncConnection,
        admitted: Sequence[Arrival],
        settle: Sequence[str],
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]],
        work: _Work,
    ) -> None:
        keys: list[Any] = [row.key for _, row in rows]
        for arrival in admitted:
            keys += self._keys(arrival, work)
        for operation_id in settle:
            for arrival in self._pending(work.operations.get(operation_id), work):
                keys += self._keys(arrival, work)
        if keys:
            work.states = dict(await self._consumer.repository.load(connection, keys))

    def _keys(self, arrival: Arrival, work: _Work) -> Sequence[Any]:
        """The states that its decision needs: none where it will not be decided, since loading them may be what fails."""
        decoded = arrival.decoded
        if decoded is None or arrival.failure is not None:
            return ()
        if decoded.route.direction != "event":
            operation = work.operations[decoded.envelope.operationid or ""]
            if operation.answer(decoded.route.direction) is not None:
                return ()
        return decoded.route.keys(decoded.message, decoded.envelope)

    def _pending(self, operation: Operation | None, work: _Work) -> list[Arrival]:
        stored = (operation.pending_do, operation.pending_undo) if operation else ()
        return [self.admit(Raw.from_json(raw), work.started_at) for raw in stored if raw is not None]

    # Decisions: each of the following handles one input and leaves its whole effect in `work`, or raises and leaves none.

    def _take(self, arrival: Arrival, work: _Work) -> None:
        try:
            if arrival.failure is not None:
                raise arrival.failure
            assert arrival.decoded is not None
            outcome = self._decide(arrival.decoded, arrival, work)
            if arrival.key is not None and work.marks.get(arrival.key, "handled") == "handled":
                work.handled.add(arrival.key)
        except Exception as error:  # noqa: BLE001 - the one broad catch: an unknown exception of a decision is permanent for its message
            outcome = self._fail(arrival, error, work)
        work.outcomes.append((self._name(arrival), outcome))

    def _decide(self, decoded: Decoded, arrival: Arrival, work: _Work) -> str:
        route, envelope = decoded.route, decoded.envelope
        timing = Timing(arrival.received_at, work.started_at)
        if route.direction == "event":
            key = (envelope.source, envelope.id)
            if key in work.decided:
                # Folded into an equal one of this batch. Where that one failed, its retry or dead letter speaks for both.
                if work.marks.get(key, "handled") == "handled":
                    self._report(decoded, Verdict.ANSWER_AGAIN, work)
                return "duplicate"
            work.decided.add(key)
            decision = route.decide(decoded.message, work.states, self._context(decoded, work), None)
            if decision.answer is not None or decision.calls:
                raise Permanent(f"the decision of {route.wire_name} gave an answer or calls; an event can have neither")
            self._merge(decoded, decision, None, timing, work)
            self._report(decoded, Verdict.RUN, work)
            return "handled"
        operation = work.operations[envelope.operationid or ""]
        do_type = unversioned((route.undoes or route.model).wire_name)
        verdict = judge(operation, route.direction, do_type, envelope.revision)
        if verdict is Verdict.RUN:
            start(operation, route.direction, do_type, envelope.revision, envelope.id)
            self._run(decoded, operation, timing, work)
            return "handled"
        if verdict is Verdict.ANSWER_AGAIN:
            self._answer_again(decoded, operation, work)
        elif verdict is Verdict.NOTE_UNDO:
            operation.pending_undo, operation.changed = decoded.raw.to_json(), True
        self._report(decoded, Verdict.ABSORB if verdict is Verdict.NOTE_UNDO else verdict, work)
        return verdict.value

    def _run(self, decoded: Decoded, operation: Operation, timing: Timing, work: _Work) -> None:
        """The decision of a do or an undo that has no outcome yet."""
        context = self._context(decoded, work)
        done = self._done(decoded.route, operation) if decoded.route.direction == "undo" else None
        decision = decoded.route.decide(decoded.message, work.states, context, done)
        self._conclude(decoded, operation, decision, timing, work)

    def _conclude(self, decoded: Decoded, operation: Operation, decision: Decision[Any], timing: Timing, work: _Work) -> None:
        """An answer ends the operation's direction; calls leave it pending until their results come."""
        direction = decoded.route.direction
        if decision.answer is None and not decision.calls:
            raise Permanent(f"the decision of {decoded.route.wire_name} gave neither an answer nor calls")
        if decision.calls:
            if decoded.route.settle is None or not self._external:
                raise Permanent(f"the decision of {decoded.route.wire_name} makes calls, but nothing would settle them")
            self._merge(decoded, decision, None, timing, work)
            stored = decoded.raw.to_json()
            if direction == "undo":
                operation.pending_undo = stored
            else:
                operation.pending_do, operation.state = stored, "pending"
            operation.changed = True
            work.new_calls += [calls.NewCall(operation.id, direction, call) for call in decision.calls]
            return
        assert decision.answer is not None
        outcome = outcome_of(REGISTRY[decoded.route.wire_name].answers, type(decision.answer))
        self._merge(decoded, decision, decision.answer, timing, work)
        finish(operation, direction, StoredAnswer(decision.answer.wire_name, to_json(decision.answer)), outcome)
        self._prove(decoded, operation, work)

    def _prove(self, decoded: Decoded, operation: Operation, work: _Work) -> None:
        """A replay that ran is reported; so is the re-send that succeeded where an earlier message is a dead letter."""
        direction = decoded.route.direction
        was_dead = operation.dead_undo if direction == "undo" else operation.dead_do
        if direction == "undo":
            operation.dead_undo = False
        else:
            operation.dead_do = False
        if decoded.replay is not None:
            self._report(decoded, Verdict.RUN, work)
        elif was_dead:
            letter = dead_letter_id((self._queue, operation.id, direction))
            self._emit_proof(decoded, Replay(letter, 0), Verdict.RUN, work)

    def _answer_again(self, decoded: Decoded, operation: Operation, work: _Work) -> None:
        answer = operation.answer(decoded.route.direction)
        assert answer is not None
        out = Outbound(
            message=REGISTRY[answer.type].model.model_construct(),
            operation_id=operation.id,
            subject=decoded.envelope.subject or operation.id,
        )
        payload = from_json(answer.data)
        work.rows.append(encode_payload(self._service, out, answer.type, payload, decoded.envelope, now=work.now))

    def _done(self, route: Route, operation: Operation) -> Event | None:
        """What the do answered, in the version that we speak now; None when there is nothing to take back."""
        assert route.undoes is not None
        if operation.state != "done" or operation.do_answer is None:
            return None
        model = REGISTRY[route.undoes.wire_name].answers["done"]
        name, data = upcast(operation.do_answer.type, from_json(operation.do_answer.data), (model.wire_name,))
        if name != model.wire_name:
            raise Permanent(f"operation {operation.id} was answered with {name}, which nothing lifts to {model.wire_name}")
        return model.model_validate(data)

    def _settle(self, operation_id: str, work: _Work, crashed: bool) -> None:
        """All calls of an operation have ended: its do is decided, then an undo that came meanwhile."""
        operation = work.operations.get(operation_id)
        known = work.known_calls.get(operation_id, [])
        begun = any(new.operation_id == operation_id for new in work.new_calls)
        if operation is None or begun or any(row.state == "due" for row in known):
            return
        if operation.pending_do is not None:
            self._settle_direction(operation, "do", operation.pending_do, known, work, crashed)
        if operation.pending_undo is not None and operation.pending_do is None:
            self._settle_direction(operation, "undo", operation.pending_undo, known, work, crashed)

    def _settle_direction(
        self,
        operation: Operation,
        direction: Direction,
        stored: bytes,
        known: Sequence[calls.CallRow],
        work: _Work,
        crashed: bool,
    ) -> None:
        arrival = self.admit(Raw.from_json(stored), work.started_at)
        if crashed:
            arrival.crash("the process ended again and again while it settled the calls of this command; see its log")
        mine = [row for row in known if row.direction == direction]
        spent = sum(row.duration_ms for row in mine)
        try:
            if arrival.failure is not None:
                raise arrival.failure
            assert arrival.decoded is not None
            decoded = arrival.decoded
            timing = Timing(arrival.received_at, work.started_at, spent)
            exhausted = next((row for row in mine if row.state == "exhausted"), None)
            if exhausted is not None:
                self._drop_pending(operation, direction)
                if direction == "do" and operation.pending_undo is not None:
                    return
                raise Transient(
                    f"{exhausted.result.call.dependency} gave no answer to {exhausted.result.call.key} within its budget"
                )
            if not mine:
                # An undo that was noted while its do was pending: it has not been decided yet.
                self._drop_pending(operation, direction)
                start(operation, direction, operation.do_type or "", decoded.envelope.revision, decoded.envelope.id)
                self._run(decoded, operation, timing, work)
            else:
                assert decoded.route.settle is not None
                results = [row.result for row in known]
                decision = decoded.route.settle(decoded.message, work.states, self._context(decoded, work), results)
                self._conclude(decoded, operation, decision, timing, work)
            outcome = "handled"
        except Exception as error:  # noqa: BLE001 - as in _take
            self._drop_pending(operation, direction)
            outcome = self._fail(arrival, error, work, final=True)
        work.outcomes.append((self._name(arrival), outcome))

    def _drop_pending(self, operation: Operation, direction: Direction) -> None:
        operation.changed = True
        if direction == "undo":
            operation.pending_undo = None
            return
        operation.pending_do = None
        operation.state = "claimed"

    def _take_row(self, source: RowSource[Any, Any, Any], row: RowInput[Any, Any], work: _Work) -> None:
        envelope = source.envelope(row, work.now)
        context = Context(work.now, envelope, new_id, random.random)
        state = work.states[row.key]
        outcome = "handled"
        try:
            if row.tries > self._settings.suspect_tries_max:
                raise Permanent(f"{source.name} {row.id} has ended the process {row.tries - 1} times")
            decision = source.decide(row, state, context)
            encoded = self._encode(envelope, decision, None, None, work)
        except Exception as error:  # noqa: BLE001 - as in _take
            decision = source.give_up(row, state, f"{type(error).__name__}: {error}", context)
            encoded = self._encode(envelope, decision, None, None, work)
            outcome = "given-up"
        self._merge_states(decision if decision.state is state else _at(row.key, decision), work)
        work.rows += encoded
        work.outcomes.append((source.name, outcome))

    # What the inputs leave behind.

    def _merge(self, decoded: Decoded, decision: Decision[Any], answer: Event | None, timing: Timing, work: _Work) -> None:
        rows = self._encode(decoded.envelope, decision, answer, timing, work)
        self._merge_states(decision, work)
        work.rows += rows

    def _encode(
        self, cause: Envelope, decision: Decision[Any], answer: Event | None, timing: Timing | None, work: _Work
    ) -> list[OutboxRow]:
        rows = []
        if answer is not None:
            out = Outbound(answer, operation_id=cause.operationid)
            rows.append(encode(self._service, out, cause, now=work.now, timing=timing))
        rows += [encode(self._service, event, cause, now=work.now) for event in decision.events]
        return rows

    def _merge_states(self, decision: Decision[Any], work: _Work) -> None:
        if isinstance(decision.state, Mapping) and decision.state is not work.states:
            for key, state in decision.state.items():
                if work.states.get(key) is not state:
                    work.states[key] = state
                    work.changed[key] = state
        work.facts += decision.facts

    def _report(self, decoded: Decoded, verdict: Verdict, work: _Work) -> None:
        if decoded.replay is not None:
            self._emit_proof(decoded, decoded.replay, verdict, work)

    def _emit_proof(self, decoded: Decoded, replay: Replay, verdict: Verdict, work: _Work) -> None:
        proof = ReplayHandled.model_validate(
            {
                "dead_letter_id": replay.dead_letter_id,
                "queue": self._queue,
                "replay": replay.count,
                "operation_id": decoded.envelope.operationid,
                "revision": decoded.envelope.revision,
                "verdict": verdict.value,
            }
        )
        work.rows.append(encode(self._service, proof, decoded.envelope, now=work.now))

    def _fail(self, arrival: Arrival, error: Exception, work: _Work, *, final: bool = False) -> str:
        """The message alone waits or is dead. `final` failures have spent their own budget already."""
        attempts = (arrival.retry.attempts if arrival.retry else 0) + 1
        first = arrival.retry.first_failed_at if arrival.retry else work.now
        key = arrival.key
        if isinstance(error, Transient | UnknownVersion) and key is not None and key not in work.handled and not final:
            patient = isinstance(error, UnknownVersion)
            delay = retries.delay_seconds(
                self._settings,
                attempts=attempts,
                first=first,
                now=work.now,
                retry_after=getattr(error, "retry_after_seconds", None),
                attempts_max=self._settings.unknown_version_attempts_max if patient else self._settings.retry_attempts_max,
            )
            if delay is not None:
                work.retries.append(self._retry(arrival, error, attempts, first, delay))
                work.marks[key] = "retrying"
                return "retrying"
        kind: Kind = "crash-loop" if arrival.crashed else "transient" if isinstance(error, Transient) else "permanent"
        self._bury(arrival, error, kind, attempts, first, work)
        return "dead"

    def _retry(self, arrival: Arrival, error: Exception, attempts: int, first: datetime, delay: float) -> Retry:
        assert arrival.envelope is not None
        assert arrival.key is not None
        return Retry(
            key=arrival.key,
            type=arrival.envelope.type,
            operation_id=arrival.envelope.operationid,
            correlation_id=arrival.envelope.correlationid,
            raw=arrival.raw,
            attempts=attempts,
            first_failed_at=first,
            delay_seconds=delay,
            error_class=type(error).__name__,
            error=clean(str(error)),
        )

    def _bury(self, arrival: Arrival, error: Exception, kind: Kind, attempts: int, first: datetime, work: _Work) -> None:
        operation_id = self._operation_id(arrival)
        direction = self._direction(arrival) if operation_id is not None else "event"
        failure = describe_failure(error, kind, attempts=attempts, first=first, last=work.now)
        work.rows.append(
            dead_letter(
                queue=self._queue,
                service=self._service,
                version=self._version,
                raw=arrival.raw,
                envelope=arrival.envelope,
                identity=identity_of(self._queue, arrival.raw, arrival.envelope, direction),
                replay=arrival.replay,
                failure=failure,
            )
        )
        if arrival.key is not None and arrival.key not in work.handled:
            work.marks[arrival.key] = "dead"
        operation = work.operations.get(operation_id or "")
        if operation is not None:
            operation.changed = True
            if direction == "undo":
                operation.dead_undo = True
            else:
                operation.dead_do = True

    def _context(self, decoded: Decoded, work: _Work) -> Context:
        known = work.known_calls.get(decoded.envelope.operationid or "", ())
        return Context(
            now=work.now,
            envelope=decoded.envelope,
            new_id=new_id,
            random=random.random,
            calls=tuple(row.result for row in known),
            sender=decoded.raw.sender,
        )

    def _name(self, arrival: Arrival) -> str:
        """A metric's label: only names that we know, so that no sender can invent labels."""
        return arrival.decoded.route.wire_name if arrival.decoded else "unknown"

    async def _save(
        self,
        connection: AsyncConnection,
        rows: Sequence[tuple[RowSource[Any, Any, Any], RowInput[Any, Any]]],
        work: _Work,
    ) -> None:
        if work.changed or work.facts:
            await self._consumer.repository.save(connection, work.changed, work.facts)
        by_source: dict[str, tuple[RowSource[Any, Any, Any], list[RowInput[Any, Any]]]] = {}
        for source, row in rows:
            by_source.setdefault(source.name, (source, []))[1].append(row)
        for source, settled in by_source.values():
            await source.settle(connection, settled)
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


def _at(key: Any, decision: Decision[Any]) -> Decision[Any]:
    return Decision(state={key: decision.state}, events=decision.events, facts=decision.facts)

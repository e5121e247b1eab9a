"""Decides one message: each method leaves its whole effect in `work`, or raises and leaves nothing of it."""

import random
from typing import Any

from pydantic_core import from_json, to_json

from contracts.envelope import Envelope
from contracts.message import Event, unversioned
from contracts.registry import REGISTRY, upcast
from infra.chassis.batch.failing import Failing
from infra.chassis.batch.reporting import Reporting
from infra.chassis.batch.work import Work
from infra.chassis.calls import NewCall
from infra.chassis.decoding import Decoded
from infra.chassis.errors import Permanent
from infra.chassis.inputs import Arrival
from infra.chassis.operations import Operation, StoredAnswer, Verdict, finish, judge, outcome_of, start
from infra.chassis.outbox import OutboxRow, Timing, encode, encode_payload, new_id
from infra.chassis.service import Context, Decision, Outbound, Route
from infra.chassis.workplace import Workplace


class Deciding:
    """The decisions of one consumer, in the order of its messages: each sees what those before it have changed."""

    def __init__(self, workplace: Workplace, reporting: Reporting, failing: Failing) -> None:
        self._service = workplace.service
        self._external = workplace.external
        self._reporting = reporting
        self._failing = failing

    def take(self, arrival: Arrival, work: Work) -> None:
        """Decides the message; where that raises, the message alone waits or is dead."""
        try:
            if arrival.failure is not None:
                raise arrival.failure
            assert arrival.decoded is not None
            timing = Timing(arrival.received_at, work.started_at)
            outcome = self._decide(arrival.decoded, timing, work)
            if arrival.key is not None and work.marks.get(arrival.key, "handled") == "handled":
                work.handled.add(arrival.key)
        except Exception as error:  # noqa: BLE001 - the one broad catch: an unknown exception of a decision is permanent for its message
            outcome = self._failing.fail(arrival, error, work)
        work.outcomes.append((arrival.name, outcome))

    def _decide(self, decoded: Decoded, timing: Timing, work: Work) -> str:
        if decoded.route.direction == "event":
            return self._decide_event(decoded, timing, work)
        return self._decide_command(decoded, timing, work)

    def _decide_event(self, decoded: Decoded, timing: Timing, work: Work) -> str:
        route, key = decoded.route, (decoded.envelope.source, decoded.envelope.id)
        if key in work.decided:
            # Folded into an equal one of this batch. Where that one failed, its retry or dead letter speaks for both.
            if work.marks.get(key, "handled") == "handled":
                self._reporting.report(decoded, Verdict.ANSWER_AGAIN, work)
            return "duplicate"
        work.decided.add(key)
        decision = route.decide(decoded.message, work.states, self.context(decoded, work), None)
        if decision.answer is not None or decision.calls:
            raise Permanent(f"the decision of {route.wire_name} gave an answer or calls; an event can have neither")
        work.merge(decision, encoded(self._service, decoded.envelope, decision, None, timing, work))
        self._reporting.report(decoded, Verdict.RUN, work)
        return "handled"

    def _decide_command(self, decoded: Decoded, timing: Timing, work: Work) -> str:
        route, envelope = decoded.route, decoded.envelope
        operation = work.operations[envelope.operationid or ""]
        do_type = unversioned((route.undoes or route.model).wire_name)
        verdict = judge(operation, route.direction, do_type, envelope.revision)
        if verdict is Verdict.RUN:
            start(operation, route.direction, do_type, envelope.revision, envelope.id)
            self.run(decoded, operation, timing, work)
            return "handled"
        if verdict is Verdict.ANSWER_AGAIN:
            self._answer_again(decoded, operation, work)
        elif verdict is Verdict.NOTE_UNDO:
            operation.pending_undo, operation.changed = decoded.raw.to_json(), True
        self._reporting.report(decoded, Verdict.ABSORB if verdict is Verdict.NOTE_UNDO else verdict, work)
        return verdict.value

    def run(self, decoded: Decoded, operation: Operation, timing: Timing, work: Work) -> None:
        """The decision of a do or an undo that has no outcome yet."""
        context = self.context(decoded, work)
        done = _done(decoded.route, operation) if decoded.route.direction == "undo" else None
        decision = decoded.route.decide(decoded.message, work.states, context, done)
        self.conclude(decoded, operation, decision, timing, work)

    def conclude(self, decoded: Decoded, operation: Operation, decision: Decision[Any], timing: Timing, work: Work) -> None:
        """An answer ends the operation's direction; calls leave it pending until their results come."""
        route = decoded.route
        if decision.answer is None and not decision.calls:
            raise Permanent(f"the decision of {route.wire_name} gave neither an answer nor calls")
        if decision.calls:
            self._await_calls(decoded, operation, decision, timing, work)
            return
        assert decision.answer is not None
        outcome = outcome_of(REGISTRY[route.wire_name].answers, type(decision.answer))
        work.merge(decision, encoded(self._service, decoded.envelope, decision, decision.answer, timing, work))
        finish(operation, route.direction, StoredAnswer(decision.answer.wire_name, to_json(decision.answer)), outcome)
        self._reporting.report_outcome(decoded, operation, work)

    def _await_calls(self, decoded: Decoded, operation: Operation, decision: Decision[Any], timing: Timing, work: Work) -> None:
        route = decoded.route
        if route.conclude is None or not self._external:
            raise Permanent(f"the decision of {route.wire_name} makes calls, but nothing would conclude them")
        work.merge(decision, encoded(self._service, decoded.envelope, decision, None, timing, work))
        operation.await_calls(route.direction, decoded.raw.to_json())
        work.new_calls += [NewCall(operation.id, route.direction, call) for call in decision.calls]

    def _answer_again(self, decoded: Decoded, operation: Operation, work: Work) -> None:
        answer = operation.answer(decoded.route.direction)
        assert answer is not None
        out = Outbound(
            message=REGISTRY[answer.type].model.model_construct(),
            operation_id=operation.id,
            subject=decoded.envelope.subject or operation.id,
        )
        payload = from_json(answer.data)
        work.rows.append(encode_payload(self._service, out, answer.type, payload, decoded.envelope, now=work.now))

    def context(self, decoded: Decoded, work: Work) -> Context:
        """What the decision may know besides message and state."""
        known = work.known_calls.get(decoded.envelope.operationid or "", ())
        return Context(
            now=work.now,
            envelope=decoded.envelope,
            new_id=new_id,
            random=random.random,
            calls=tuple(row.result for row in known),
            sender=decoded.raw.sender,
        )


def _done(route: Route, operation: Operation) -> Event | None:
    """What the do answered, in the version that we speak now; None when there is nothing to take back."""
    assert route.undoes is not None
    if operation.state != "done" or operation.do_answer is None:
        return None
    model = REGISTRY[route.undoes.wire_name].answers["done"]
    name, data = upcast(operation.do_answer.type, from_json(operation.do_answer.data), (model.wire_name,))
    if name != model.wire_name:
        raise Permanent(f"operation {operation.id} was answered with {name}, which nothing lifts to {model.wire_name}")
    return model.model_validate(data)


def encoded(
    service: str, cause: Envelope, decision: Decision[Any], answer: Event | None, timing: Timing | None, work: Work
) -> list[OutboxRow]:
    """The messages of a decision: its answer first, then its events. Raises before anything has been merged."""
    rows = []
    if answer is not None:
        out = Outbound(answer, operation_id=cause.operationid)
        rows.append(encode(service, out, cause, now=work.now, timing=timing))
    rows += [encode(service, event, cause, now=work.now) for event in decision.events]
    return rows

"""Message or row, and instance in; instance, messages and history out. Every decision is the engine's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts import operation_id
from contracts.deadletters.v1 import DeadLetterOpened
from contracts.message import Message
from infra.chassis.errors import Permanent
from infra.chassis.service import Context, Decision, Outbound, Route
from orchestrator.catalogue import Catalogue
from orchestrator.engine import (
    Advance,
    Answer,
    Cancel,
    DeadLettered,
    Input,
    Limits,
    Started,
    TimerDue,
    advance,
    cancel_before_start,
    freeze,
    ignored,
)
from orchestrator.instance import Instance, State
from orchestrator.ports import Act, ActVerdict, HistoryRow

Keys = Mapping[str, Instance]


@dataclass(frozen=True, slots=True)
class Sagas:
    """The decisions about one saga, for each kind of input that there is."""

    catalogue: Catalogue
    limits: Limits

    def start(self, event: Message, instance: Instance, context: Context) -> Decision[Instance]:
        """Begins a saga on the newest version of the first workflow whose condition holds."""
        envelope = context.envelope
        started = Started(
            # Every field with its default, quantities as strings: what the expressions were checked against.
            payload=event.model_dump(mode="json"),
            message_id=envelope.id,
            subject=envelope.subject or event.subject,
            partner=envelope.partnerid,
            actor=envelope.actor,
            traceparent=envelope.traceparent,
        )
        made = ignored(instance, started, f"no workflow starts on {event.wire_name}")
        for workflow in self.catalogue.started_by(event.wire_name):
            made = self._advance_on(workflow, instance, started, context)
            if made.accepted:
                break
        return decision(instance, made, context)

    def answer(self, event: Message, instance: Instance, context: Context) -> Decision[Instance]:
        """Takes what a service answers to a step."""
        envelope = context.envelope
        answer = Answer(
            operation_id=context.operation_id,
            wire_name=event.wire_name,
            data=event.model_dump(mode="json"),
            message_id=envelope.id,
            processing_ms=max(0, _milliseconds(envelope.startedat, envelope.finishedat) - (envelope.dependencyms or 0)),
            dependency_ms=envelope.dependencyms or 0,
        )
        return decision(instance, self._advance(instance, answer, context), context)

    def dead_letter(self, event: DeadLetterOpened, instance: Instance, context: Context) -> Decision[Instance]:
        """Shows that a command of a step lies in the dead letters."""
        letter = DeadLettered(
            operation_id=event.operation_id or "",
            wire_name=event.type,
            dead_letter_id=event.dead_letter_id,
            error=f"{event.error_class}: {event.error}",
            message_id=context.envelope.id,
        )
        return decision(instance, self._advance(instance, letter, context), context)

    def timer(self, instance: Instance, context: Context) -> Decision[Instance]:
        """Deals with everything that is due. A timer that an answer has overtaken leaves no trace: nobody sent it."""
        if instance.workflow and (instance.workflow, instance.version) not in self.catalogue:
            # Left to a newer replica, and not written: what it put into the document, this one has not read. Settling moves it on.
            return Decision(instance)
        made = self._advance(instance, TimerDue(), context)
        return decision(instance, made, context) if made.accepted else Decision(instance)

    def act(self, act_id: str, act: Act, instance: Instance, context: Context) -> Decision[Instance]:
        """Does what an operator or a partner asks, or refuses it; either way with a verdict."""
        if act.kind != "cancel":
            # Asked of a newer replica, and taken by this one: no fault of the saga, which goes on.
            unknown = f"this version of the orchestrator knows no {act.kind}; ask again"
            return Decision(instance, facts=(ActVerdict(act_id, context.now, accepted=False, detail=unknown),))
        cancel = Cancel(act.reason, act.actor)
        if instance.state is State.ABSENT:
            made = cancel_before_start(instance, cancel, now=context.now)
        elif instance.workflow and (instance.workflow, instance.version) not in self.catalogue:
            made = ignored(instance, cancel, "a newer version of the orchestrator has to decide it; ask again")
        else:
            made = self._advance(instance, cancel, context)
        detail = "accepted" if made.accepted else str(made.history[0].detail.get("because", "refused"))
        return decision(instance, made, context, ActVerdict(act_id, context.now, made.accepted, detail))

    def give_up(self, instance: Instance, error: str, context: Context, *facts: object) -> Decision[Instance]:
        """A timer or an act that cannot be dealt with: the saga waits for a person."""
        made = freeze(instance, error, now=context.now, limits=self.limits)
        return decision(instance, made, context, *facts)

    def _advance(self, instance: Instance, event: Input, context: Context) -> Advance:
        if not instance.workflow:
            return ignored(instance, event, f"the process is {instance.state.value}")
        workflow = self.catalogue.get(instance.workflow, instance.version)
        return self._advance_on(workflow, instance, event, context)

    def _advance_on(self, workflow: Any, instance: Instance, event: Input, context: Context) -> Advance:
        return advance(
            workflow,
            instance,
            event,
            now=context.now,
            new_id=context.new_id,
            random=context.random,
            limits=self.limits,
        )


def decision(before: Instance, made: Advance, context: Context, *facts: object) -> Decision[Instance]:
    """What the loop is to store and send. Messages are about the saga's subject, whoever caused them."""
    after = made.instance
    sent = tuple(
        Outbound(
            message=out.message,
            message_id=out.message_id,
            operation_id=out.operation_id,
            due_by=out.due_by,
            correlation_id=after.id,
            partner_id=after.partner,
            subject=after.subject,
        )
        for out in made.messages
    )
    lines = tuple(HistoryRow(before.id, context.now, line) for line in made.history)
    return Decision(after, events=sent, facts=(*lines, *facts))


def on_start(model: type[Message], sagas: Sagas) -> Route:
    """The route of an event that may begin a saga: its correlation id becomes the saga's id."""
    return _route(model, lambda _, envelope: _known(envelope.correlationid), sagas.start)


def on_answer(model: type[Message], sagas: Sagas) -> Route:
    """The route of an answer. One without an operation answers somebody else, and is none of our business."""
    return _route(model, lambda _, envelope: _saga_of(envelope.operationid), sagas.answer)


def on_dead_letter(sagas: Sagas) -> Route:
    """The route of the failure desk's news; letters without an operation belong to no saga."""
    return _route(DeadLetterOpened, lambda event, _: _saga_of(event.operation_id), sagas.dead_letter)


def _known(correlation_id: str | None) -> Sequence[str]:
    if not correlation_id:
        raise Permanent("an event that begins a process needs a correlationid; it becomes the process's id")
    if not operation_id.saga_can_be_named(correlation_id):
        # The answers would be taken for those of another saga.
        raise Permanent(f"the correlationid {correlation_id!r} has a colon, and no process can have it as its id")
    return (correlation_id,)


def _saga_of(name: str | None) -> Sequence[str]:
    named = operation_id.split(name)
    return (named.saga,) if named.saga and named.step else ()


def _route(model: type[Message], keys: Any, decide: Any) -> Route:
    def over_states(message: Message, states: Keys, context: Context, _: object) -> Decision[Keys]:
        found = keys(message, context.envelope)
        if not found:
            return Decision(states)
        before = states[found[0]]
        made = decide(message, before, context)
        state = states if made.state is before else {found[0]: made.state}
        return Decision(state, events=made.events, facts=made.facts)

    return Route(model=model, direction="event", keys=keys, decide=over_states)


def _milliseconds(start: datetime | None, end: datetime | None) -> int:
    return max(0, round((end - start).total_seconds() * 1000)) if start and end else 0

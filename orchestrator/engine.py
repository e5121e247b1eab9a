"""The engine: one pure function from a process and one input to the process after it, what to send, and what to remember.

                              every step done or skipped
      start ──> running ───────────────────────────────────────────────> completed
                   │
                   │ a refusal, a cancellation, a step out of attempts
                   ▼
              compensating ── every undo answered ──> refused | cancelled | failed
                 │     ▲
   undo refused, │     │ a late answer of that undo
   or out of     ▼     │
   attempts    stuck ──┘        (stuck and frozen: nothing but a person moves it)

    a step:  pending ──> sent <──> backoff            done | refused        skipped (its `when` is false, or never begun)
                           └──────────┴── answer ──>  timed-out | failed
                                                           │
             done, timed-out, or still in flight when unwinding begins: undoing ──> undone | undo-failed

State. An `Instance` holds what was said to us (the starting payload, the first answer of each step) and where each step and
each entry of the compensation plan stands. What is sent follows from that and from the definition alone, so a repetition
says the same as the first time, and nothing that was sent needs to be stored.

Algorithm. An input first changes the record that it concerns. Then the process takes every move that is possible now:
forward, in an order in which a step comes after all that it waits for, so that one pass is enough; or backward, sending each
undo whose followers are undone. Last, the next timer is computed from everything that waits.

Invariants.
 1. A process is at rest (finished, or never begun) or has a timer armed, later than now. Running means that a step is in
    flight, since a process in which nothing is in flight and nothing can be sent has all its steps settled, and ends.
    Compensating means that an undo is in flight: the plan follows the acyclic order of the steps. Stuck means that an alert
    is armed. Each record in flight has a moment, and a timer input moves every moment that has passed; of a frozen
    process only the alert's, since nothing else may move it.
 2. An operation has one identity however often it is sent: `saga:step`, the do and its undo alike. Each emission has a
    message id of its own.
 3. Nothing starts, and nothing is sent again, after unwinding has begun. There is no way from `compensating` to `running`.
 4. Once the pivot is settled nothing is undone. Loading a definition has made sure that no step beyond it can be refused,
    and that each step is before it or beyond it, never beside; so what is beyond it is repeated until it is done.
 5. Finished and not completed means that every entry of the plan is undone. An entry that cannot be undone keeps the process
    stuck, with its owner's name, never failed.
 6. An end is announced once: the transition into a finished state emits its event, and nothing leaves a finished state. A
    process that was cancelled before its start is announced by the start, which brings the names to announce it with.
 7. An input that the process does not wait for changes nothing, and leaves a line of history.

Why undoing in flight is right. A step that was sent and not answered has an unknown outcome. Its undo is sent without
waiting, under the same operation: its owner either finds the do and takes it back, or leaves a tombstone on which the late
do has no effect. So a late success of a step that was given up is already being taken back; it is marked late and shown.
A step that was answered with a refusal has done nothing and is left alone.

Order of undoing. Dependence, not the clock, decides what is newest: the undo of a step waits until the steps that came after
it are undone. Steps without dependence are undone together. A step in flight has no followers yet, so it is undone at once.

The pivot. While it is in flight its answer decides: everything before it is settled, and nothing else runs. A cancellation
then waits. Done means that the cancellation came too late; refused, or timed out, means that the process unwinds as
cancelled, and the pivot, whose outcome is unknown after a timeout, is undone too. With a cancellation waiting it is not sent
a second time: each further attempt would only delay what was asked for.

Expressions that fail. `when` and `with` are checked when a definition is loaded, so a failure here is a value that the
types allow and the mapping did not expect. It would fail again the same way, so nothing is retried. Before the pivot the
step is `failed` and the process unwinds to a definite end. Beyond the pivot, in an undo, or in the mapping of an end there
is no safe move left: the process is stuck with an owner, everything that it knows is kept, and the reason is named.

Crash points. There are none here: the loop stores the new instance, the history and the messages in one transaction, and
acknowledges the input after it. A crash before the commit repeats the call with the same instance; one after it finds the
input in the inbox, or the timer moved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import JsonValue

from contracts import operation_id
from contracts.message import Message
from orchestrator.instance import (
    AT_REST,
    FINISHED,
    IN_FLIGHT,
    SETTLED,
    Cancellation,
    Compensation,
    Instance,
    Payload,
    Reason,
    State,
    StepRecord,
    StepState,
    Stuck,
    UndoState,
)
from orchestrator.names import EvaluationError, Names
from orchestrator.workflow import REFUSED, Retry, Step, Template, Undo, Workflow

DETAIL_LENGTH_MAX: Final = 1000
REASONS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Limits:
    """What no definition says. `undo` is how often an undo is sent before a person is asked; `persist` paces steps beyond the
    pivot that have no `retry` of their own (its attempts do not count); `owner` answers for what has no owner."""

    undo: Retry = field(default_factory=lambda: Retry(attempts=8, most=timedelta(minutes=5)))
    persist: Retry = field(default_factory=lambda: Retry(most=timedelta(minutes=5)))
    alert_every: timedelta = timedelta(minutes=15)
    owner: str = "order-desk"


_DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Started:
    """The event that begins a process. `payload` is complete: every field of the model is there, null where it has no value."""

    payload: Payload
    message_id: str
    subject: str | None = None
    partner: str | None = None
    actor: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the owner of a step says, to its do or to its undo: the wire name tells which. Times as the owner measured them."""

    operation_id: str
    wire_name: str
    data: Payload
    message_id: str
    processing_ms: int = 0
    dependency_ms: int = 0


@dataclass(frozen=True, slots=True)
class TimerDue:
    """A moment has passed. Everything that was due by now is dealt with, however many there are."""


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A command of this process lies in the dead letters. It is shown; the step's own timeout decides what follows."""

    operation_id: str
    wire_name: str
    dead_letter_id: str
    error: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody asks to stop. Accepted at any time before the pivot is done; repeating it changes nothing."""

    reason: str
    actor: str


Input = Started | Answer | TimerDue | DeadLettered | Cancel


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent. A command has an operation and a direction; an event has neither."""

    message: Message
    message_id: str
    direction: Literal["do", "undo", "event"]
    operation_id: str | None = None
    due_by: datetime | None = None

    @property
    def wire_name(self) -> str:
        return self.message.wire_name


@dataclass(frozen=True, slots=True)
class History:
    """One line of what happened. `kind` is one of a few words; `message_id` is the message that came in or went out."""

    kind: str
    step: str | None = None
    message_id: str | None = None
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advance:
    """The process after an input. `accepted` is False when it did not wait for it; `instance` is then the very same object."""

    instance: Instance
    messages: tuple[Outgoing, ...] = ()
    history: tuple[History, ...] = ()
    accepted: bool = True

    @property
    def next_timer_at(self) -> datetime | None:
        return self.instance.next_timer_at


def advance(
    workflow: Workflow,
    instance: Instance,
    event: Input,
    *,
    now: datetime,
    new_id: Callable[[], str],
    random: Callable[[], float],
    limits: Limits = _DEFAULT_LIMITS,
) -> Advance:
    """The one decision of the orchestrator. `workflow` is the version that the instance is pinned to, or is to start on.

    Pure: time, ids and randomness (in [0, 1)) come in as arguments. Raises EvaluationError only where `start.when` fails,
    before there is anything to lose.
    """
    turn = _Turn(workflow, instance, now, new_id, random, limits)
    problem = turn.take(event)
    if problem is not None:
        return Advance(instance, history=(_ignored(event, problem),), accepted=False)
    turn.progress()
    result = turn.result()
    if isinstance(event, TimerDue):
        # A timer that left its own moment behind would fire again at once, for ever.
        assert result.next_timer_at is None or result.next_timer_at > now
    return result


def cancel_before_start(instance: Instance, event: Cancel, *, now: datetime) -> Advance:
    """A cancellation that overtook its start: the start will find a cancelled process, and announce it."""
    assert instance.state is State.ABSENT
    cancelled = replace(
        instance,
        state=State.CANCELLED,
        ending=State.CANCELLED,
        finished_at=now,
        reasons=(_reason("cancelled", event.reason),),
        cancellation=Cancellation(event.reason, event.actor, now),
    )
    detail: dict[str, JsonValue] = {"reason": event.reason, "actor": event.actor}
    return Advance(
        cancelled,
        history=(
            History("cancel-requested", detail=detail),
            History("finished", detail={"state": "cancelled"}),
        ),
    )


def ignored(instance: Instance, event: Input, problem: str) -> Advance:
    """Nothing but a line of history: for inputs to a process that no workflow is known for."""
    return Advance(instance, history=(_ignored(event, problem),), accepted=False)


def freeze(instance: Instance, reason: str, *, now: datetime, limits: Limits = _DEFAULT_LIMITS) -> Advance:
    """For an input that could not be dealt with at all (a defect): the process waits for a person, and nothing is lost.

    Needs no definition, since that may be what is at fault. A process at rest stays as it is.
    """
    if instance.state in AT_REST:
        line = History("ignored", detail={"because": f"the process is {instance.state.value}", "reason": reason})
        return Advance(instance, history=(line,), accepted=False)
    line = History("stuck", detail={"owner": limits.owner, "reason": reason[:DETAIL_LENGTH_MAX]})
    alert_at = now + limits.alert_every
    stuck = Stuck(reason[:DETAIL_LENGTH_MAX], limits.owner, now, alert_at, frozen=True)
    return Advance(replace(instance, state=State.STUCK, stuck=stuck, next_timer_at=alert_at), history=(line,))


def cancellable(workflow: Workflow, instance: Instance) -> bool:
    """Whether a cancellation would be accepted now: not when the process is finished, frozen, or past its pivot."""
    if instance.state in FINISHED or (instance.stuck is not None and instance.stuck.frozen):
        return False
    return instance.state is not State.RUNNING or not _is_past_pivot(workflow, instance.steps)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that a process waits for: which of these answers, to which step, or what else, and by when."""

    step: str | None
    direction: Literal["do", "undo", "person"]
    answers: tuple[str, ...]
    by: datetime | None


def waits_for(workflow: Workflow, instance: Instance) -> tuple[Waiting, ...]:
    """What would move the process on."""
    if instance.state in AT_REST:
        return ()
    if instance.stuck is not None and instance.stuck.frozen:
        return (Waiting(None, "person", (), instance.stuck.alert_at),)
    waits = [
        Waiting(step.id, "do", tuple(step.answers), instance.steps[step.id].due_at)
        for step in workflow.steps
        if instance.state is State.RUNNING and instance.steps[step.id].state in IN_FLIGHT
    ]
    for entry in instance.plan:
        if entry.state in (UndoState.SENT, UndoState.BACKOFF, UndoState.FAILED):
            undo = workflow.by_id[entry.step].undo
            waits.append(Waiting(entry.step, "undo", tuple(undo.answers) if undo else (), entry.due_at))
    if instance.stuck is not None:
        waits.append(Waiting(None, "person", (), instance.stuck.alert_at))
    return tuple(waits)


class _Turn:
    """One call of `advance`: a draft of the next instance, thrown away unless the input was waited for."""

    def __init__(
        self,
        workflow: Workflow,
        instance: Instance,
        now: datetime,
        new_id: Callable[[], str],
        random: Callable[[], float],
        limits: Limits,
    ) -> None:
        self.workflow = workflow
        self.before = instance
        self.now = now
        self.new_id = new_id
        self.random = random
        self.limits = limits
        self.state = instance.state
        self.ending = instance.ending
        self.reasons = instance.reasons
        self.input = instance.input
        self.steps: dict[str, StepRecord] = dict(instance.steps)
        self.plan: dict[str, Compensation] = {entry.step: entry for entry in instance.plan}
        self.cancellation = instance.cancellation
        self.stuck = instance.stuck
        self.started: Started | None = None
        self.messages: list[Outgoing] = []
        self.history: list[History] = []
        self._names: Names | None = None

    # What came in. Each returns None, or why the process does not wait for it.

    def take(self, event: Input) -> str | None:
        match event:
            case Started():
                return self._start(event)
            case Answer():
                return self._answer(event)
            case TimerDue():
                return self._timer()
            case DeadLettered():
                return self._dead_lettered(event)
            case Cancel():
                return self._cancel(event)

    def _start(self, event: Started) -> str | None:
        if self.before.workflow:
            return "it has started already"
        self.input = event.payload
        if self.workflow.start_when is not None and self.workflow.start_when.evaluate(self.names()) is not True:
            return "the workflow's start condition is false"
        self.started = event
        self.steps = {step.id: StepRecord() for step in self.workflow.steps}
        self._names = None
        self._log("started", message_id=event.message_id, workflow=self.workflow.name, version=self.workflow.version)
        if self.state is State.CANCELLED:
            self.steps = {step.id: StepRecord(state=StepState.SKIPPED) for step in self.workflow.steps}
            self._end(State.CANCELLED)
        else:
            self.state = State.RUNNING
        return None

    def _answer(self, event: Answer) -> str | None:
        problem = self._not_moving()
        step = self._step_of(event.operation_id)
        if problem is not None or step is None:
            return problem or "it is no step of this process"
        if event.wire_name in step.answers:
            return self._answered(step, step.answers[event.wire_name], event)
        if step.undo is not None and event.wire_name in step.undo.answers:
            return self._undo_answered(step, step.undo.answers[event.wire_name], event)
        return "it is no answer to this step"

    def _answered(self, step: Step, outcome: str, event: Answer) -> str | None:
        record = self.steps[step.id]
        if self.state is not State.RUNNING:
            return self._answered_late(step, outcome, event)
        if record.state not in IN_FLIGHT:
            return f"the step is {record.state.value}"
        self._put(
            step,
            replace(
                record,
                state=StepState.REFUSED if outcome == REFUSED else StepState.DONE,
                outcome=outcome,
                answer=event.data,
                answered_at=self.now,
                due_at=None,
                processing_ms=event.processing_ms,
                dependency_ms=event.dependency_ms,
            ),
        )
        self._log("answered", step, event.message_id, outcome=outcome, type=event.wire_name)
        if outcome == REFUSED:
            self._refused(step, event)
        elif step.pivot and self.cancellation is not None:
            self.cancellation = replace(self.cancellation, too_late=True)
            self._log("cancel-too-late", step)
        return None

    def _answered_late(self, step: Step, outcome: str, event: Answer) -> str | None:
        entry = self.plan.get(step.id)
        record = self.steps[step.id]
        given_up = record.state is StepState.TIMED_OUT or (entry is not None and entry.state is not UndoState.UNDONE)
        if record.answered_at is not None or not given_up:
            return f"the step is {record.state.value}"
        # Its undo is on the way, or it has none because it changes nothing: there is nothing more to do than to show it.
        self._put(step, replace(record, late=True, outcome=outcome, answered_at=self.now))
        self._log("late", step, event.message_id, outcome=outcome, type=event.wire_name)
        return None

    def _refused(self, step: Step, event: Answer) -> None:
        self._because(*_reasons_of(event))
        if step.beyond_pivot:
            self._freeze(f"{step.id} was refused beyond the pivot, where nothing is undone any more")
            return
        self._unwind(State.CANCELLED if self.cancellation is not None else State.REFUSED)

    def _undo_answered(self, step: Step, outcome: str, event: Answer) -> str | None:
        entry = self.plan.get(step.id)
        if entry is None or entry.state in (UndoState.WAITING, UndoState.UNDONE):
            return "its undo is not waited for"
        if outcome == REFUSED:
            if entry.state is UndoState.FAILED:
                return "its undo was refused before"
            detail = "; ".join(reason.detail for reason in _reasons_of(event))
            self._undo_failed(step, entry, f"{event.wire_name}: {detail}", event.message_id)
            return None
        self.plan[step.id] = replace(entry, state=UndoState.UNDONE, answered_at=self.now, due_at=None)
        self._put(step, replace(self.steps[step.id], state=StepState.UNDONE))
        self._log("undone", step, event.message_id, type=event.wire_name)
        return None

    def _timer(self) -> str | None:
        if self.state in AT_REST:
            return "the process is at rest"
        due = False
        for step in self.workflow.steps:
            # The state is asked for each step: the first one to give up ends the waiting of all.
            if self.state is State.RUNNING and self._is_due(self.steps[step.id].due_at):
                due = True
                self._step_due(step, self.steps[step.id])
        frozen = self.stuck is not None and self.stuck.frozen
        for entry in tuple(self.plan.values()):
            # Frozen, the plan keeps its moments for the person who looks at it; they move nothing.
            if self.state in (State.COMPENSATING, State.STUCK) and not frozen and self._is_due(entry.due_at):
                due = True
                self._undo_due(self.workflow.by_id[entry.step], entry)
        if self.stuck is not None and self._is_due(self.stuck.alert_at):
            due = True
            self.stuck = replace(self.stuck, alert_at=self.now + self.limits.alert_every)
            self._log("alert", owner=self.stuck.owner, reason=self.stuck.reason)
        return None if due else "nothing is due"

    def _step_due(self, step: Step, record: StepRecord) -> None:
        if record.state is StepState.BACKOFF:
            self._send(step, record)
            return
        retry = step.retry or (self.limits.persist if step.beyond_pivot else Retry())
        delay = retry.delay(record.attempts, self.random())
        assert record.sent_at is not None
        in_budget = retry.budget is None or self.now + delay <= record.sent_at + retry.budget
        again = record.attempts < retry.attempts and in_budget and self.cancellation is None
        if again or step.beyond_pivot:
            waits = round(delay.total_seconds() * 1000)
            self._put(
                step,
                replace(
                    record,
                    state=StepState.BACKOFF,
                    due_at=self.now + delay,
                    backoff_ms=record.backoff_ms + waits,
                ),
            )
            self._log("backing-off", step, attempts=record.attempts, delay_ms=waits)
            return
        self._give_up(step, record, StepState.TIMED_OUT, "step-timed-out", f"{step.id} gave no answer in time")

    def _undo_due(self, step: Step, entry: Compensation) -> None:
        if entry.state is UndoState.BACKOFF:
            self._send_undo(step, entry)
        elif entry.attempts < self.limits.undo.attempts:
            delay = self.limits.undo.delay(entry.attempts, self.random())
            self.plan[step.id] = replace(entry, state=UndoState.BACKOFF, due_at=self.now + delay)
            self._log("undo-backing-off", step, attempts=entry.attempts)
        else:
            self._undo_failed(step, entry, f"no answer after {entry.attempts} attempts")

    def _dead_lettered(self, event: DeadLettered) -> str | None:
        step = self._step_of(event.operation_id)
        if step is None or self.state in AT_REST:
            return "it is no step of this process, or the process is at rest"
        entry = self.plan.get(step.id)
        if event.wire_name == step.template.wire_name:
            self._put(step, replace(self.steps[step.id], dead_letter=event.dead_letter_id))
        elif entry is not None and event.wire_name == entry.command:
            self.plan[step.id] = replace(entry, dead_letter=event.dead_letter_id)
        else:
            return "it is no command of this step"
        self._log(
            "dead-lettered",
            step,
            event.message_id,
            dead_letter=event.dead_letter_id,
            error=event.error,
            type=event.wire_name,
        )
        return None

    def _cancel(self, event: Cancel) -> str | None:
        problem = self._not_moving()
        if problem is not None:
            return problem
        if self.state is not State.RUNNING:
            self._log(
                "cancel-requested",
                actor=event.actor,
                reason=event.reason,
                note="it is being taken back already",
            )
            return None
        if _is_past_pivot(self.workflow, self.steps):
            return "the process is past its pivot"
        if self.cancellation is not None:
            self._log("cancel-requested", actor=event.actor, reason=event.reason, note="it was asked for before")
            return None
        self.cancellation = Cancellation(event.reason, event.actor, self.now)
        self._because(_reason("cancelled", event.reason))
        self._log("cancel-requested", actor=event.actor, reason=event.reason)
        pivot = self.workflow.pivot
        in_flight = self.steps[pivot.id].state if pivot is not None else None
        if pivot is not None and in_flight is StepState.BACKOFF:
            self._give_up(
                pivot,
                self.steps[pivot.id],
                StepState.TIMED_OUT,
                "step-timed-out",
                f"{pivot.id} gave no answer in time",
            )
        elif in_flight is not StepState.SENT:
            self._unwind(State.CANCELLED)
        return None

    # What follows from it.

    def progress(self) -> None:
        """Takes every move that is possible now."""
        if self.state is State.RUNNING:
            self._forward()
        if self.state in (State.COMPENSATING, State.STUCK):
            self._backward()

    def _forward(self) -> None:
        for step in self.workflow.steps:
            if self.steps[step.id].state is not StepState.PENDING:
                continue
            if any(self.steps[earlier].state not in SETTLED for earlier in step.after):
                continue
            try:
                self._begin(step)
            except EvaluationError as error:
                self._give_up(step, self.steps[step.id], StepState.FAILED, "step-failed", f"{step.id}: {error}")
            if self.state is not State.RUNNING:
                return
        if all(record.state in SETTLED for record in self.steps.values()):
            self._end(State.COMPLETED)

    def _begin(self, step: Step) -> None:
        if step.when is not None and step.when.evaluate(self.names()) is not True:
            self._put(step, StepRecord(state=StepState.SKIPPED, answered_at=self.now))
            self._log("skipped", step)
        elif step.is_command:
            self._send(step, self.steps[step.id])
        else:
            event = self._emit(step.template)
            self._put(
                step,
                StepRecord(state=StepState.DONE, outcome="done", attempts=1, sent_at=self.now, answered_at=self.now),
            )
            self._log("emitted", step, event.message_id, type=event.wire_name)

    def _send(self, step: Step, record: StepRecord) -> None:
        message = step.template.compose(self.names())
        message_id = self.new_id()
        first = record.sent_at or self.now
        self.messages.append(
            Outgoing(
                message,
                message_id,
                "do",
                operation_id=operation_id.of(self.before.id, step.id),
                due_by=None if step.beyond_pivot else first + step.patience,
            )
        )
        self._put(
            step,
            replace(
                record,
                state=StepState.SENT,
                attempts=record.attempts + 1,
                message_id=message_id,
                sent_at=first,
                due_at=self.now + step.timeout,
            ),
        )
        self._log("sent", step, message_id, type=message.wire_name, attempt=record.attempts + 1)

    def _give_up(self, step: Step, record: StepRecord, state: StepState, code: str, detail: str) -> None:
        self._put(step, replace(record, state=state, due_at=None))
        self._log(state.value, step, detail=detail)
        self._because(_reason(code, detail))
        if step.beyond_pivot:
            self._freeze(detail)
        else:
            self._unwind(State.CANCELLED if self.cancellation is not None else State.FAILED)

    def _unwind(self, ending: State) -> None:
        """Writes the plan. From here on there is no way forward."""
        self.state = State.COMPENSATING
        self.ending = ending
        self._log("unwinding", ending=ending.value)
        for step in reversed(self.workflow.steps):
            record = self.steps[step.id]
            unknown = record.state in IN_FLIGHT or record.state is StepState.TIMED_OUT
            if step.undo is not None and (unknown or record.state is StepState.DONE):
                followers = tuple(name for name in self.plan if name in step.dependents)
                self.plan[step.id] = Compensation(step.id, step.undo.template.wire_name, step.undo.owner, followers)
                self._put(step, replace(record, due_at=None))
            elif record.state in IN_FLIGHT:
                self._put(step, replace(record, state=StepState.UNDONE, due_at=None))
                self._log("undone", step, note=step.because or "it has no undo")
            elif record.state is StepState.PENDING:
                self._put(step, replace(record, state=StepState.SKIPPED))

    def _backward(self) -> None:
        if self.stuck is not None and self.stuck.frozen:
            return
        for entry in tuple(self.plan.values()):
            if entry.state is UndoState.WAITING and all(self.plan[name].state is UndoState.UNDONE for name in entry.after):
                self._send_undo(self.workflow.by_id[entry.step], entry)
        failed = [entry for entry in self.plan.values() if entry.state is UndoState.FAILED]
        if failed:
            self._stick_on(failed)
            return
        if self.stuck is not None:
            self.stuck = None
            self._log("unstuck")
        self.state = State.COMPENSATING
        if all(entry.state is UndoState.UNDONE for entry in self.plan.values()):
            assert self.ending is not None
            self._end(self.ending)

    def _send_undo(self, step: Step, entry: Compensation) -> None:
        undo = _undo_of(step)
        try:
            message = undo.template.compose(self.names())
        except EvaluationError as error:
            self._undo_failed(step, entry, str(error))
            return
        message_id = self.new_id()
        self.messages.append(Outgoing(message, message_id, "undo", operation_id=operation_id.of(self.before.id, step.id)))
        self.plan[step.id] = replace(
            entry,
            state=UndoState.SENT,
            attempts=entry.attempts + 1,
            message_id=message_id,
            sent_at=entry.sent_at or self.now,
            due_at=self.now + undo.timeout,
        )
        self._put(step, replace(self.steps[step.id], state=StepState.UNDOING))
        self._log("undo-sent", step, message_id, type=message.wire_name, attempt=entry.attempts + 1)

    def _undo_failed(self, step: Step, entry: Compensation, problem: str, message_id: str | None = None) -> None:
        problem = problem[:DETAIL_LENGTH_MAX]
        self.plan[step.id] = replace(entry, state=UndoState.FAILED, due_at=None, problem=problem)
        self._put(step, replace(self.steps[step.id], state=StepState.UNDO_FAILED))
        self._log("undo-failed", step, message_id, problem=problem, owner=entry.owner)

    def _stick_on(self, failed: Sequence[Compensation]) -> None:
        """One owner is reminded at a time. When theirs is undone after all, the owner of the next one has to hear of it."""
        owners = {f"{one.command} for {one.step} failed: {one.problem}"[:DETAIL_LENGTH_MAX]: one.owner for one in failed}
        if self.stuck is None or self.stuck.reason not in owners:
            reason, owner = next(iter(owners.items()))
            self._stick(reason, owner, frozen=False)

    def _freeze(self, reason: str) -> None:
        self._stick(reason, self.limits.owner, frozen=True)

    def _stick(self, reason: str, owner: str, *, frozen: bool) -> None:
        self.state = State.STUCK
        self.stuck = Stuck(reason[:DETAIL_LENGTH_MAX], owner, self.now, self.now + self.limits.alert_every, frozen)
        self._log("stuck", owner=owner, reason=reason[:DETAIL_LENGTH_MAX])

    def _end(self, ending: State) -> None:
        try:
            event = self._emit(self.workflow.ends[ending.value])
        except EvaluationError as error:
            self.ending = ending
            self._freeze(f"the end {ending.value} cannot be announced: {error}")
            return
        self.state = ending
        self.ending = ending
        self._log("finished", message_id=event.message_id, state=ending.value, type=event.wire_name)

    def _emit(self, template: Template) -> Outgoing:
        event = Outgoing(template.compose(self.names()), self.new_id(), "event")
        self.messages.append(event)
        return event

    # Small parts.

    def names(self) -> Names:
        """What expressions see now. A step that has no answer is there with its outcome only."""
        if self._names is None:
            values: dict[str, JsonValue] = {
                self.workflow.input_name: dict(self.input),
                "process": {
                    "id": self.before.id,
                    "workflow": self.workflow.name,
                    "version": self.workflow.version,
                    "subject": self.started.subject if self.started else self.before.subject,
                    "partner": self.started.partner if self.started else self.before.partner,
                    "reasons": [{"code": reason.code, "detail": reason.detail} for reason in self.reasons],
                },
            }
            for step in self.workflow.steps:
                record = self.steps.get(step.id, _NOT_BEGUN)
                values[step.name] = {**(record.answer or {}), "outcome": record.outcome or record.state.value}
            self._names = Names(values)
        return self._names

    def _put(self, step: Step, record: StepRecord) -> None:
        self.steps[step.id] = record
        self._names = None

    def _because(self, *reasons: Reason) -> None:
        self.reasons = (self.reasons + reasons)[:REASONS_MAX]
        self._names = None

    def _log(self, kind: str, step: Step | None = None, message_id: str | None = None, **detail: JsonValue) -> None:
        self.history.append(History(kind, step.id if step else None, message_id, detail))

    def _is_due(self, moment: datetime | None) -> bool:
        return moment is not None and moment <= self.now

    def _not_moving(self) -> str | None:
        if self.state in AT_REST:
            return f"the process is {self.state.value}"
        if self.stuck is not None and self.stuck.frozen:
            return "the process is frozen until a person has looked at it"
        return None

    def _step_of(self, name: str) -> Step | None:
        named = operation_id.split(name)
        return self.workflow.by_id.get(named.step) if named.saga == self.before.id and self.steps else None

    def result(self) -> Advance:
        resting = self.state in AT_REST
        next_timer_at = None if resting else min(self._moments(), default=None)
        # Invariant 1. A violation is a defect of the engine, and the database's own check stands behind it. The moment may have
        # come already, but for a timer: after a pause answers are taken before the timers that fell due meanwhile.
        assert resting or next_timer_at is not None
        instance = replace(
            self.before,
            state=self.state,
            ending=self.ending,
            reasons=self.reasons,
            input=self.input,
            steps=self.steps,
            plan=tuple(self.plan.values()),
            cancellation=self.cancellation,
            stuck=None if resting else self.stuck,
            next_timer_at=next_timer_at,
            finished_at=(self.before.finished_at or self.now) if resting else None,
        )
        if self.started is not None:
            instance = replace(
                instance,
                workflow=self.workflow.name,
                version=self.workflow.version,
                subject=self.started.subject,
                partner=self.started.partner,
                actor=self.started.actor,
                traceparent=self.started.traceparent,
                started_at=self.now,
            )
        return Advance(instance, tuple(self.messages), tuple(self.history))

    def _moments(self) -> list[datetime]:
        frozen = self.stuck is not None and self.stuck.frozen
        moments: list[datetime | None] = [self.stuck.alert_at if self.stuck is not None else None]
        if not frozen:
            moments += [record.due_at for record in self.steps.values()]
            moments += [entry.due_at for entry in self.plan.values()]
        return [moment for moment in moments if moment is not None]


_NOT_BEGUN: Final = StepRecord()


def _is_past_pivot(workflow: Workflow, steps: Mapping[str, StepRecord]) -> bool:
    pivot = workflow.pivot
    return pivot is not None and pivot.id in steps and steps[pivot.id].state in SETTLED


def _undo_of(step: Step) -> Undo:
    assert step.undo is not None, "only steps with an undo are in a plan"
    return step.undo


def _reason(code: str, detail: str) -> Reason:
    # Reasons quote other systems, and whoever hears of the end stores them: no database takes a NUL in a text.
    return Reason(code, detail[:DETAIL_LENGTH_MAX].replace("\x00", "\ufffd") or code)


def _reasons_of(event: Answer) -> tuple[Reason, ...]:
    """The reasons that a refusal gives; where it gives none, its own name is the reason."""
    found = event.data.get("reasons")
    given = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    short = event.wire_name.split(".")[1]
    if not given:
        return (Reason(short, f"{event.wire_name} was answered"),)
    return tuple(_reason(str(item.get("code", short)), str(item.get("detail", short))) for item in given)


def _ignored(event: Input, problem: str) -> History:
    match event:
        case Answer() | DeadLettered():
            detail: dict[str, JsonValue] = {"type": event.wire_name, "operation_id": event.operation_id}
            message_id: str | None = event.message_id
        case Started():
            detail, message_id = {}, event.message_id
        case Cancel():
            detail, message_id = {"reason": event.reason}, None
        case TimerDue():
            detail, message_id = {}, None
    return History("ignored", None, message_id, {"input": type(event).__name__, "because": problem, **detail})

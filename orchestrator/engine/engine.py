"""The engine: one pure function from a saga and one input to the saga after it, what to send, and what to remember.

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

Algorithm. An input first changes the record that it concerns. Then the saga takes every move that is possible now:
forward, in an order in which a step comes after all that it waits for, so that one pass is enough; or backward, sending each
undo whose followers are undone. What a step makes of an input is said by its kind (`orchestrator/steps/`), what follows from
that for the saga is said here. Last, the next timer is computed from everything that waits.

Invariants.
 1. A saga is at rest (finished, or never begun) or has a timer armed, later than now. Running means that a step is in
    flight, since a saga in which nothing is in flight and nothing can be sent has all its steps over, and ends.
    Compensating means that an undo is in flight: the plan follows the acyclic order of the steps. Stuck means that an alert
    is armed. Each record in flight has a moment, and a timer input moves every moment that has passed; of a frozen
    saga only the alert's, since nothing else may move it.
 2. An operation has one identity however often it is sent: `saga:step`, the do and its undo alike. Each emission has a
    message id of its own.
 3. Nothing starts, and nothing is sent again, after unwinding has begun. There is no way from `compensating` to `running`.
 4. Once the pivot is over nothing is undone. Loading a definition has made sure that no step beyond it can be refused,
    and that each step is before it or beyond it, never beside; so what is beyond it is repeated until it is done.
 5. Finished and not completed means that every entry of the plan is undone. An entry that cannot be undone keeps the saga
    stuck, with its owner's name, never failed.
 6. An end is announced once: the transition into a finished state emits its event, and nothing leaves a finished state. A
    saga that was cancelled before its start is announced by the start, which brings the names to announce it with.
 7. An input that the saga does not wait for changes nothing, and leaves a line of history. Which moves are legal, and why
    the others are not, is `moves.py`: a table of the steps and one of the undos, in which this code looks.

Why undoing in flight is right. A step that was sent and not answered has an unknown outcome. Its undo is sent without
waiting, under the same operation: its owner either finds the do and takes it back, or leaves a tombstone on which the late
do has no effect. So a late success of a step that was given up is already being taken back; it is marked late and shown.
A step that was answered with a refusal has done nothing and is left alone.

Order of undoing. Dependence, not the clock, decides what is newest: the undo of a step waits until the steps that came after
it are undone. Steps without dependence are undone together. A step in flight has no followers yet, so it is undone at once.

The pivot. While it is in flight its answer decides: everything before it is over, and nothing else runs. A cancellation
then waits. Done means that the cancellation came too late; refused, or timed out, means that the saga unwinds as
cancelled, and the pivot, whose outcome is unknown after a timeout, is undone too. With a cancellation waiting it is not sent
a second time: each further attempt would only delay what was asked for.

Expressions that fail. `when` and `with` are checked when a definition is loaded, so a failure here is a value that the
types allow and the mapping did not expect. It would fail again the same way, so nothing is retried. Before the pivot the
step is `failed` and the saga unwinds to a definite end. Beyond the pivot, in an undo, or in the mapping of an end there
is no safe move left: the saga is stuck with an owner, everything that it knows is kept, and the reason is named.

Crash points. There are none here: the loop stores the new instance, the history and the messages in one transaction, and
acknowledges the input after it. A crash before the commit repeats the call with the same instance; one after it finds the
input in the inbox, or the timer moved.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from pydantic import JsonValue

from orchestrator.engine import backward, cancelling, forward
from orchestrator.engine.moves import STEP, UNDO, StepInput, UndoInput
from orchestrator.engine.outputs import Advance, History
from orchestrator.engine.reasons import DETAIL_LENGTH_MAX
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Answer, Cancel, DeadLettered, Input, Started, TimerDue
from orchestrator.instance import (
    AT_REST,
    Instance,
    State,
    StepRecord,
    StepState,
    Stuck,
)
from orchestrator.patience import Limits
from orchestrator.workflow import Workflow

_DEFAULT_LIMITS: Final = Limits()


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
    turn = Turn(workflow, instance, now, new_id, random, limits)
    problem = _take(turn, event)
    if problem is not None:
        return ignored(instance, event, problem)
    _progress(turn)
    result = turn.result()
    if isinstance(event, TimerDue):
        # A timer that left its own moment behind would fire again at once, for ever.
        assert result.next_timer_at is None or result.next_timer_at > now
    return result


def ignored(instance: Instance, event: Input, problem: str) -> Advance:
    """Nothing but a line of history: for an input that is not waited for, and for a saga that no workflow is known for."""
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
    line = History("ignored", None, message_id, {"input": type(event).__name__, "because": problem, **detail})
    return Advance(instance, history=(line,), accepted=False)


def freeze(instance: Instance, reason: str, *, now: datetime, limits: Limits = _DEFAULT_LIMITS) -> Advance:
    """For an input that could not be dealt with at all (a defect): the saga waits for a person, and nothing is lost.

    Needs no definition, since that may be what is at fault. A saga at rest stays as it is.
    """
    if instance.state in AT_REST:
        line = History("ignored", detail={"because": f"the process is {instance.state.value}", "reason": reason})
        return Advance(instance, history=(line,), accepted=False)
    line = History("stuck", detail={"owner": limits.owner, "reason": reason[:DETAIL_LENGTH_MAX]})
    alert_at = now + limits.alert_every
    stuck = Stuck(reason[:DETAIL_LENGTH_MAX], limits.owner, now, alert_at, frozen=True)
    return Advance(replace(instance, state=State.STUCK, stuck=stuck, next_timer_at=alert_at), history=(line,))


def _take(turn: Turn, event: Input) -> str | None:
    """Changes the record that the input concerns. Otherwise says why the saga does not wait for it."""
    match event:
        case Answer():
            return _answer(turn, event)
        case TimerDue():
            return _timer(turn)
        case Started():
            return _start(turn, event)
        case DeadLettered():
            return _dead_lettered(turn, event)
        case Cancel():
            return cancelling.cancel(turn, event)


def _progress(turn: Turn) -> None:
    """Takes every move that is possible now."""
    if turn.state is State.RUNNING:
        forward.proceed(turn)
    if turn.state in (State.COMPENSATING, State.STUCK):
        backward.proceed(turn)


def _start(turn: Turn, event: Started) -> str | None:
    if turn.before.workflow:
        return "it has started already"
    turn.input = event.payload
    condition = turn.workflow.start_when
    if condition is not None and condition.evaluate(turn.names()) is not True:
        return "the workflow's start condition is false"
    cancelled = turn.state is State.CANCELLED
    turn.begin(event, StepRecord(state=StepState.SKIPPED) if cancelled else StepRecord())
    turn.log("started", message_id=event.message_id, workflow=turn.workflow.name, version=turn.workflow.version)
    if cancelled:
        turn.end(State.CANCELLED)
    else:
        turn.state = State.RUNNING
    return None


def _answer(turn: Turn, event: Answer) -> str | None:
    problem = turn.not_moving()
    step = turn.step_of(event.operation_id)
    if problem is not None or step is None:
        return problem or "it is no step of this process"
    if event.wire_name in step.answers:
        take = forward.answered if turn.state is State.RUNNING else backward.answered_late
        return take(turn, step, event)
    if step.undo is not None and event.wire_name in step.undo.answers:
        return backward.answered(turn, step, event)
    return "it is no answer to this step"


def _timer(turn: Turn) -> str | None:
    if turn.state in AT_REST:
        return "the process is at rest"
    due = forward.due(turn)
    due = backward.due(turn) or due
    if turn.stuck is not None and turn.is_due(turn.stuck.alert_at):
        due = True
        turn.stuck = replace(turn.stuck, alert_at=turn.now + turn.limits.alert_every)
        turn.log("alert", owner=turn.stuck.owner, reason=turn.stuck.reason)
    return None if due else "nothing is due"


def _dead_lettered(turn: Turn, event: DeadLettered) -> str | None:
    step = turn.step_of(event.operation_id)
    if step is None or turn.state in AT_REST:
        return "it is no step of this process, or the process is at rest"
    record, entry = turn.steps[step.id], turn.plan.get(step.id)
    of_do = step.is_asked_by(event.wire_name)
    undo = entry.state if entry is not None and event.wire_name == entry.command else None
    move = STEP[StepInput.DEAD_LETTER][record.state] if of_do else UNDO[UndoInput.DEAD_LETTER][undo]
    if isinstance(move, str):
        return move
    if of_do:
        turn.put(step, replace(record, dead_letter=event.dead_letter_id))
    else:
        assert entry is not None
        turn.plan[step.id] = replace(entry, dead_letter=event.dead_letter_id)
    turn.log(
        "dead-lettered",
        step,
        event.message_id,
        dead_letter=event.dead_letter_id,
        error=event.error,
        type=event.wire_name,
    )
    return None

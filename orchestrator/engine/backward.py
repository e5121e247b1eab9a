"""Backward: the plan that takes a saga back, and each of its entries until it is undone or a person is needed."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.engine.reasons import DETAIL_LENGTH_MAX, reasons_of
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Answer
from orchestrator.instance import IN_FLIGHT, Compensation, State, StepState, UndoState
from orchestrator.names import EvaluationError
from orchestrator.steps.step import REFUSED, Step
from orchestrator.template import Undo


def unwind(turn: Turn, ending: State) -> None:
    """Writes the plan. From here on there is no way forward."""
    turn.state = State.COMPENSATING
    turn.ending = ending
    turn.log("unwinding", ending=ending.value)
    for step in reversed(turn.workflow.steps):
        record = turn.steps[step.id]
        unknown = record.state in IN_FLIGHT or record.state is StepState.TIMED_OUT
        entry = None
        if unknown or record.state is StepState.DONE:
            entry = step.undo_entry(tuple(name for name in turn.plan if name in step.dependents))
        if entry is not None:
            turn.plan[step.id] = entry
            turn.put(step, replace(record, due_at=None))
        elif record.state in IN_FLIGHT:
            turn.put(step, replace(record, state=StepState.UNDONE, due_at=None))
            turn.log("undone", step, note=step.because or "it has no undo")
        elif record.state is StepState.PENDING:
            turn.put(step, replace(record, state=StepState.SKIPPED))


def proceed(turn: Turn) -> None:
    """Sends every undo whose followers are undone; ends the saga when all entries are, or names whom it waits for."""
    if turn.frozen:
        return
    for entry in tuple(turn.plan.values()):
        if entry.state is UndoState.WAITING and all(turn.plan[name].state is UndoState.UNDONE for name in entry.after):
            _send(turn, turn.workflow.by_id[entry.step], entry)
    failed = [entry for entry in turn.plan.values() if entry.state is UndoState.FAILED]
    if failed:
        _stick_on(turn, failed)
        return
    if turn.stuck is not None:
        turn.stuck = None
        turn.log("unstuck")
    turn.state = State.COMPENSATING
    if all(entry.state is UndoState.UNDONE for entry in turn.plan.values()):
        assert turn.ending is not None
        turn.end(turn.ending)


def answered(turn: Turn, step: Step, event: Answer) -> str | None:
    """Takes the answer to an undo; or says why it is not waited for."""
    undo = _undo_of(step)
    entry = turn.plan.get(step.id)
    if entry is None or entry.state in (UndoState.WAITING, UndoState.UNDONE):
        return "its undo is not waited for"
    if undo.answers[event.wire_name] == REFUSED:
        if entry.state is UndoState.FAILED:
            return "its undo was refused before"
        detail = "; ".join(reason.detail for reason in reasons_of(event))
        _failed(turn, step, entry, f"{event.wire_name}: {detail}", event.message_id)
        return None
    turn.plan[step.id] = replace(entry, state=UndoState.UNDONE, answered_at=turn.now, due_at=None)
    turn.put(step, replace(turn.steps[step.id], state=StepState.UNDONE))
    turn.log("undone", step, event.message_id, type=event.wire_name)
    return None


def answered_late(turn: Turn, step: Step, event: Answer) -> str | None:
    """Shows the answer to a do that was given up; or says why it is none."""
    outcome = step.answers[event.wire_name]
    entry = turn.plan.get(step.id)
    record = turn.steps[step.id]
    given_up = record.state is StepState.TIMED_OUT or (entry is not None and entry.state is not UndoState.UNDONE)
    if record.answered_at is not None or not given_up:
        return f"the step is {record.state.value}"
    # Its undo is on the way, or it has none because it changes nothing: there is nothing more to do than to show it.
    turn.put(step, replace(record, late=True, outcome=outcome, answered_at=turn.now))
    turn.log("late", step, event.message_id, outcome=outcome, type=event.wire_name)
    return None


def due(turn: Turn) -> bool:
    """Moves every undo whose moment has passed; whether there was one."""
    found = False
    for entry in tuple(turn.plan.values()):
        # Frozen, the plan keeps its moments for the person who looks at it; they move nothing.
        if turn.state in (State.COMPENSATING, State.STUCK) and not turn.frozen and turn.is_due(entry.due_at):
            found = True
            _due(turn, turn.workflow.by_id[entry.step], entry)
    return found


def _send(turn: Turn, step: Step, entry: Compensation) -> None:
    undo = _undo_of(step)
    try:
        message = undo.template.compose(turn.names())
    except EvaluationError as error:
        _failed(turn, step, entry, str(error))
        return
    message_id = turn.send_undo(step, message)
    turn.plan[step.id] = replace(
        entry,
        state=UndoState.SENT,
        attempts=entry.attempts + 1,
        message_id=message_id,
        sent_at=entry.sent_at or turn.now,
        due_at=turn.now + undo.timeout,
    )
    turn.put(step, replace(turn.steps[step.id], state=StepState.UNDOING))
    turn.log("undo-sent", step, message_id, type=message.wire_name, attempt=entry.attempts + 1)


def _due(turn: Turn, step: Step, entry: Compensation) -> None:
    if entry.state is UndoState.BACKOFF:
        _send(turn, step, entry)
    elif entry.attempts < turn.limits.undo.attempts:
        delay = turn.limits.undo.delay(entry.attempts, turn.random())
        turn.plan[step.id] = replace(entry, state=UndoState.BACKOFF, due_at=turn.now + delay)
        turn.log("undo-backing-off", step, attempts=entry.attempts)
    else:
        _failed(turn, step, entry, f"no answer after {entry.attempts} attempts")


def _failed(turn: Turn, step: Step, entry: Compensation, problem: str, message_id: str | None = None) -> None:
    problem = problem[:DETAIL_LENGTH_MAX]
    turn.plan[step.id] = replace(entry, state=UndoState.FAILED, due_at=None, problem=problem)
    turn.put(step, replace(turn.steps[step.id], state=StepState.UNDO_FAILED))
    turn.log("undo-failed", step, message_id, problem=problem, owner=entry.owner)


def _stick_on(turn: Turn, failed: Sequence[Compensation]) -> None:
    """One owner is reminded at a time. When theirs is undone after all, the owner of the next one has to hear of it."""
    owners = {f"{one.command} for {one.step} failed: {one.problem}"[:DETAIL_LENGTH_MAX]: one.owner for one in failed}
    if turn.stuck is None or turn.stuck.reason not in owners:
        reason, owner = next(iter(owners.items()))
        turn.stick(reason, owner, frozen=False)


def _undo_of(step: Step) -> Undo:
    assert step.undo is not None, "only steps with an undo are in a plan"
    return step.undo

"""Backward: the plan that takes a saga back, and each of its entries until it is undone or a person is needed."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.engine.moves import STEP, UNDO, Move, StepInput, UndoInput
from orchestrator.engine.reasons import DETAIL_LENGTH_MAX, reasons_of
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Answer
from orchestrator.instance import Compensation, State, StepState, UndoState
from orchestrator.names import EvaluationError
from orchestrator.steps.step import REFUSED, Step
from orchestrator.template import Undo

_UNWINDING = STEP[StepInput.UNWINDING]
_LATE_ANSWER = STEP[StepInput.LATE_ANSWER]
_REPEATED_ANSWER = STEP[StepInput.REPEATED_ANSWER]
_AT_ITS_TURN = UNDO[UndoInput.TURN]
_DONE = UNDO[UndoInput.DONE]
_REFUSED = UNDO[UndoInput.REFUSED]
_DUE = UNDO[UndoInput.DUE]


def unwind(turn: Turn, ending: State) -> None:
    """Writes the plan. From here on there is no way forward."""
    turn.state = State.COMPENSATING
    turn.ending = ending
    turn.log("unwinding", ending=ending.value)
    for step in reversed(turn.workflow.steps):
        record = turn.steps[step.id]
        move = _UNWINDING[record.state]
        if move is Move.SKIP:
            turn.put(step, replace(record, state=StepState.SKIPPED))
        elif move in (Move.TAKE_BACK, Move.RECALL):
            entry = step.undo_entry(tuple(name for name in turn.plan if name in step.dependents))
            if entry is not None:
                turn.plan[step.id] = entry
                turn.put(step, replace(record, due_at=None))
            elif move is Move.RECALL:
                turn.put(step, replace(record, state=StepState.UNDONE, due_at=None))
                turn.log("undone", step, note=step.because or "it has no undo")


def proceed(turn: Turn) -> None:
    """Sends every undo whose followers are undone; ends the saga when all entries are, or names whom it waits for."""
    if turn.frozen:
        return
    for entry in tuple(turn.plan.values()):
        if _AT_ITS_TURN[entry.state] is Move.SEND and all(turn.plan[name].state is UndoState.UNDONE for name in entry.after):
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
    entry = turn.plan.get(step.id)
    law = _REFUSED if _undo_of(step).answers[event.wire_name] == REFUSED else _DONE
    move = law[entry.state if entry is not None else None]
    if isinstance(move, str):
        return move
    assert entry is not None
    if move is Move.FAIL:
        detail = "; ".join(reason.detail for reason in reasons_of(event))
        _failed(turn, step, entry, f"{event.wire_name}: {detail}", event.message_id)
        return None
    turn.plan[step.id] = replace(entry, state=UndoState.UNDONE, answered_at=turn.now, due_at=None)
    turn.put(step, replace(turn.steps[step.id], state=StepState.UNDONE))
    turn.log("undone", step, event.message_id, type=event.wire_name)
    return None


def answered_late(turn: Turn, step: Step, event: Answer) -> str | None:
    """Shows the answer to a do that was given up; or says why it is none."""
    record = turn.steps[step.id]
    move = (_LATE_ANSWER if record.answered_at is None else _REPEATED_ANSWER)[record.state]
    if isinstance(move, str):
        return move
    outcome = step.answers[event.wire_name]
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
            move = _DUE[entry.state]
            if not isinstance(move, str):
                found = True
                _move_on(turn, turn.workflow.by_id[entry.step], entry, move)
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


def _move_on(turn: Turn, step: Step, entry: Compensation, move: Move) -> None:
    if move is Move.SEND:
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

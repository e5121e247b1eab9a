"""Forward: steps begin as soon as all that they wait for is over, and each is over in its turn, or given up."""

from dataclasses import replace

from orchestrator.engine import backward
from orchestrator.engine.moves import STEP, Move, StepInput
from orchestrator.engine.reasons import reason, reasons_of
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Answer
from orchestrator.instance import OVER, State, StepRecord, StepState
from orchestrator.names import EvaluationError
from orchestrator.steps.step import REFUSED, GivenUp, Step, Verdict

_AT_ITS_TURN = STEP[StepInput.TURN]
_ANSWERED = STEP[StepInput.ANSWER]
_DUE = STEP[StepInput.DUE]


def proceed(turn: Turn) -> None:
    """Begins every step that can begin now; ends the saga when all are over."""
    for step in turn.workflow.steps:
        if _AT_ITS_TURN[turn.steps[step.id].state] is not Move.BEGIN:
            continue
        if any(turn.steps[earlier].state not in OVER for earlier in step.after):
            continue
        _begin(turn, step)
        if turn.state is not State.RUNNING:
            return
    if all(record.state in OVER for record in turn.steps.values()):
        turn.end(State.COMPLETED)


def answered(turn: Turn, step: Step, event: Answer) -> str | None:
    """Takes the answer to a step of a running saga; or says why it is not waited for."""
    move = _ANSWERED[turn.steps[step.id].state]
    if isinstance(move, str):
        return move
    conclude(turn, step, step.take(turn, event), event)
    return None


def due(turn: Turn) -> bool:
    """Moves every step whose moment has passed; whether there was one."""
    found = False
    for step in turn.workflow.steps:
        # The state is asked for each step: the first one to give up ends the waiting of all.
        if turn.state is State.RUNNING and turn.is_due(turn.steps[step.id].due_at):
            move = _DUE[turn.steps[step.id].state]
            if not isinstance(move, str):
                found = True
                conclude(turn, step, step.begin(turn) if move is Move.BEGIN_AGAIN else step.due(turn))
    return found


def conclude(turn: Turn, step: Step, verdict: Verdict, answer: Answer | None = None) -> None:
    """What follows for the saga from what the step made of an input."""
    if isinstance(verdict, GivenUp):
        _give_up(turn, step, verdict)
    elif verdict is not None:
        _finish(turn, step, verdict, answer)


def _begin(turn: Turn, step: Step) -> None:
    verdict: Verdict = None
    try:
        if step.when is not None and step.when.evaluate(turn.names()) is not True:
            turn.put(step, StepRecord(state=StepState.SKIPPED, answered_at=turn.now))
            turn.log("skipped", step)
        else:
            verdict = step.begin(turn)
    except EvaluationError as error:
        verdict = GivenUp(StepState.FAILED, "step-failed", f"{step.id}: {error}")
    conclude(turn, step, verdict)


def _finish(turn: Turn, step: Step, outcome: str, answer: Answer | None) -> None:
    state = StepState.REFUSED if outcome == REFUSED else StepState.DONE
    record = turn.steps[step.id]
    if answer is None:
        turn.put(step, replace(record, state=state, outcome=outcome, answered_at=turn.now, due_at=None))
    else:
        turn.put(
            step,
            replace(
                record,
                state=state,
                outcome=outcome,
                answer=answer.data,
                answered_at=turn.now,
                due_at=None,
                processing_ms=answer.processing_ms,
                dependency_ms=answer.dependency_ms,
            ),
        )
        turn.log("answered", step, answer.message_id, outcome=outcome, type=answer.wire_name)
    if outcome == REFUSED:
        _refused(turn, step, answer)
    elif step.pivot and turn.cancellation is not None:
        turn.cancellation = replace(turn.cancellation, too_late=True)
        turn.log("cancel-too-late", step)


def _refused(turn: Turn, step: Step, answer: Answer | None) -> None:
    turn.because(*(reasons_of(answer) if answer is not None else (reason("step-refused", f"{step.id} was refused"),)))
    if step.beyond_pivot:
        turn.freeze(f"{step.id} was refused beyond the pivot, where nothing is undone any more")
        return
    backward.unwind(turn, State.CANCELLED if turn.cancellation is not None else State.REFUSED)


def _give_up(turn: Turn, step: Step, given_up: GivenUp) -> None:
    """The step will not be done: the saga unwinds, or is frozen where nothing is undone any more."""
    turn.put(step, replace(turn.steps[step.id], state=given_up.state, due_at=None))
    turn.log(given_up.state.value, step, detail=given_up.detail)
    turn.because(reason(given_up.code, given_up.detail))
    if step.beyond_pivot:
        turn.freeze(given_up.detail)
    else:
        backward.unwind(turn, State.CANCELLED if turn.cancellation is not None else State.FAILED)

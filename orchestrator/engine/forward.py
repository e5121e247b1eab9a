"""Forward: steps begin as soon as all that they wait for is settled, and are settled, sent again, or given up."""

from dataclasses import replace

from orchestrator.engine import backward
from orchestrator.engine.reasons import reason, reasons_of
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Answer
from orchestrator.instance import IN_FLIGHT, SETTLED, State, StepRecord, StepState
from orchestrator.names import EvaluationError
from orchestrator.patience import Retry
from orchestrator.workflow import REFUSED, Step


def proceed(turn: Turn) -> None:
    """Begins every step that can begin now; ends the saga when all are settled."""
    for step in turn.workflow.steps:
        if turn.steps[step.id].state is not StepState.PENDING:
            continue
        if any(turn.steps[earlier].state not in SETTLED for earlier in step.after):
            continue
        try:
            _begin(turn, step)
        except EvaluationError as error:
            give_up(turn, step, turn.steps[step.id], StepState.FAILED, "step-failed", f"{step.id}: {error}")
        if turn.state is not State.RUNNING:
            return
    if all(record.state in SETTLED for record in turn.steps.values()):
        turn.end(State.COMPLETED)


def answered(turn: Turn, step: Step, event: Answer) -> str | None:
    """Takes the answer to a do of a running saga; or says why it is not waited for."""
    record = turn.steps[step.id]
    if record.state not in IN_FLIGHT:
        return f"the step is {record.state.value}"
    outcome = step.answers[event.wire_name]
    turn.put(
        step,
        replace(
            record,
            state=StepState.REFUSED if outcome == REFUSED else StepState.DONE,
            outcome=outcome,
            answer=event.data,
            answered_at=turn.now,
            due_at=None,
            processing_ms=event.processing_ms,
            dependency_ms=event.dependency_ms,
        ),
    )
    turn.log("answered", step, event.message_id, outcome=outcome, type=event.wire_name)
    if outcome == REFUSED:
        _refused(turn, step, event)
    elif step.pivot and turn.cancellation is not None:
        turn.cancellation = replace(turn.cancellation, too_late=True)
        turn.log("cancel-too-late", step)
    return None


def due(turn: Turn) -> bool:
    """Moves every step whose moment has passed; whether there was one."""
    found = False
    for step in turn.workflow.steps:
        # The state is asked for each step: the first one to give up ends the waiting of all.
        if turn.state is State.RUNNING and turn.is_due(turn.steps[step.id].due_at):
            found = True
            _due(turn, step, turn.steps[step.id])
    return found


def give_up(turn: Turn, step: Step, record: StepRecord, state: StepState, code: str, detail: str) -> None:
    """The step will not be done: the saga unwinds, or is frozen where nothing is undone any more."""
    turn.put(step, replace(record, state=state, due_at=None))
    turn.log(state.value, step, detail=detail)
    turn.because(reason(code, detail))
    if step.beyond_pivot:
        turn.freeze(detail)
    else:
        backward.unwind(turn, State.CANCELLED if turn.cancellation is not None else State.FAILED)


def time_out(turn: Turn, step: Step, record: StepRecord) -> None:
    """No answer came in all its time."""
    give_up(turn, step, record, StepState.TIMED_OUT, "step-timed-out", f"{step.id} gave no answer in time")


def _begin(turn: Turn, step: Step) -> None:
    if step.when is not None and step.when.evaluate(turn.names()) is not True:
        turn.put(step, StepRecord(state=StepState.SKIPPED, answered_at=turn.now))
        turn.log("skipped", step)
    elif step.is_command:
        _send(turn, step, turn.steps[step.id])
    else:
        message_id = turn.emit(step.template)
        turn.put(
            step,
            StepRecord(state=StepState.DONE, outcome="done", attempts=1, sent_at=turn.now, answered_at=turn.now),
        )
        turn.log("emitted", step, message_id, type=step.template.wire_name)


def _send(turn: Turn, step: Step, record: StepRecord) -> None:
    message = step.template.compose(turn.names())
    first = record.sent_at or turn.now
    message_id = turn.send(step, message, None if step.beyond_pivot else first + step.patience)
    turn.put(
        step,
        replace(
            record,
            state=StepState.SENT,
            attempts=record.attempts + 1,
            message_id=message_id,
            sent_at=first,
            due_at=turn.now + step.timeout,
        ),
    )
    turn.log("sent", step, message_id, type=message.wire_name, attempt=record.attempts + 1)


def _due(turn: Turn, step: Step, record: StepRecord) -> None:
    if record.state is StepState.BACKOFF:
        _send(turn, step, record)
        return
    retry = step.retry or (turn.limits.persist if step.beyond_pivot else Retry())
    delay = retry.delay(record.attempts, turn.random())
    assert record.sent_at is not None
    in_budget = retry.budget is None or turn.now + delay <= record.sent_at + retry.budget
    again = record.attempts < retry.attempts and in_budget and turn.cancellation is None
    if again or step.beyond_pivot:
        waits = round(delay.total_seconds() * 1000)
        turn.put(
            step,
            replace(
                record,
                state=StepState.BACKOFF,
                due_at=turn.now + delay,
                backoff_ms=record.backoff_ms + waits,
            ),
        )
        turn.log("backing-off", step, attempts=record.attempts, delay_ms=waits)
        return
    time_out(turn, step, record)


def _refused(turn: Turn, step: Step, event: Answer) -> None:
    turn.because(*reasons_of(event))
    if step.beyond_pivot:
        turn.freeze(f"{step.id} was refused beyond the pivot, where nothing is undone any more")
        return
    backward.unwind(turn, State.CANCELLED if turn.cancellation is not None else State.REFUSED)

"""Somebody asks to stop: before the start, while the saga runs, while its pivot decides, or too late."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from pydantic import JsonValue

from orchestrator.engine import backward, forward
from orchestrator.engine.moves import STEP, Move, StepInput
from orchestrator.engine.outputs import Advance, History
from orchestrator.engine.reasons import reason
from orchestrator.engine.turn import Turn
from orchestrator.inputs import Cancel
from orchestrator.instance import FINISHED, Cancellation, Instance, State, StepRecord
from orchestrator.steps.step import Step
from orchestrator.workflow import Workflow


def cancel_before_start(instance: Instance, event: Cancel, *, now: datetime) -> Advance:
    """A cancellation that overtook its start: the start will find a cancelled saga, and announce it."""
    assert instance.state is State.ABSENT
    cancelled = replace(
        instance,
        state=State.CANCELLED,
        ending=State.CANCELLED,
        finished_at=now,
        reasons=(reason("cancelled", event.reason),),
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


def cancellable(workflow: Workflow, instance: Instance) -> bool:
    """Whether a cancellation would be accepted now: not when the saga is finished, frozen, or past its pivot."""
    if instance.state in FINISHED or (instance.stuck is not None and instance.stuck.frozen):
        return False
    return instance.state is not State.RUNNING or isinstance(_when_cancelled(workflow.pivot, instance.steps), Move)


def cancel(turn: Turn, event: Cancel) -> str | None:
    """Unwinds, or lets the pivot decide; otherwise says why it is too late. Asking again changes nothing."""
    problem = turn.not_moving()
    if problem is not None:
        return problem
    if turn.state is not State.RUNNING:
        turn.log(
            "cancel-requested",
            actor=event.actor,
            reason=event.reason,
            note="it is being taken back already",
        )
        return None
    pivot = turn.workflow.pivot
    move = _when_cancelled(pivot, turn.steps)
    if isinstance(move, str):
        return move
    if turn.cancellation is not None:
        turn.log("cancel-requested", actor=event.actor, reason=event.reason, note="it was asked for before")
        return None
    turn.cancellation = Cancellation(event.reason, event.actor, turn.now)
    turn.because(reason("cancelled", event.reason))
    turn.log("cancel-requested", actor=event.actor, reason=event.reason)
    if move is Move.UNWIND:
        backward.unwind(turn, State.CANCELLED)
    elif move is Move.ASK:
        assert pivot is not None
        forward.conclude(turn, pivot, pivot.due(turn))
    return None


def _when_cancelled(pivot: Step | None, steps: Mapping[str, StepRecord]) -> Move | str:
    if pivot is None or pivot.id not in steps:
        return Move.UNWIND
    return STEP[StepInput.CANCELLING][steps[pivot.id].state]

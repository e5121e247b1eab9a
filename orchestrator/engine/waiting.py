"""What a saga waits for: read by operators, and by ingress for its partners."""

from orchestrator.engine.moves import STEP, UNDO, Move, StepInput, UndoInput
from orchestrator.instance import AT_REST, Instance, State
from orchestrator.steps.step import Waiting
from orchestrator.workflow import Workflow


def waits_for(workflow: Workflow, instance: Instance) -> tuple[Waiting, ...]:
    """What would move the saga on."""
    if instance.state in AT_REST:
        return ()
    if instance.stuck is not None and instance.stuck.frozen:
        return (Waiting(None, "person", (), instance.stuck.alert_at),)
    waits = [
        step.waits(instance.steps[step.id])
        for step in workflow.steps
        if instance.state is State.RUNNING and isinstance(STEP[StepInput.ANSWER][instance.steps[step.id].state], Move)
    ]
    for entry in instance.plan:
        if isinstance(UNDO[UndoInput.DONE][entry.state], Move):
            undo = workflow.by_id[entry.step].undo
            waits.append(Waiting(entry.step, "undo", tuple(undo.answers) if undo else (), entry.due_at))
    if instance.stuck is not None:
        waits.append(Waiting(None, "person", (), instance.stuck.alert_at))
    return tuple(waits)

"""The engine: what follows from one input to one saga. Read `engine.py` first; it opens with its picture and its argument."""

from orchestrator.engine.cancelling import cancel_before_start, cancellable
from orchestrator.engine.engine import advance, freeze, ignored
from orchestrator.engine.outputs import Advance, History, Outgoing
from orchestrator.engine.waiting import waits_for
from orchestrator.inputs import Answer, Cancel, DeadLettered, Input, Started, TimerDue
from orchestrator.patience import Limits
from orchestrator.steps.step import Waiting

__all__ = [
    "Advance",
    "Answer",
    "Cancel",
    "DeadLettered",
    "History",
    "Input",
    "Limits",
    "Outgoing",
    "Started",
    "TimerDue",
    "Waiting",
    "advance",
    "cancel_before_start",
    "cancellable",
    "freeze",
    "ignored",
    "waits_for",
]

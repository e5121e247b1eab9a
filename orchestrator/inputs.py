"""What can happen to a saga: the inputs that the engine decides about, and that each kind of step may take.

They stand beside the engine and not in it, since the kinds of steps, which the engine runs, name them as well.
"""

from dataclasses import dataclass

from orchestrator.instance import Payload


@dataclass(frozen=True, slots=True)
class Started:
    """The event that begins a saga. `payload` is complete: every field of the model is there, null where it has no value."""

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
    """A command of this saga lies in the dead letters. It is shown; the step's own timeout decides what follows."""

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

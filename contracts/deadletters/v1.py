"""What is said about dead letters, version 1."""

from typing import Annotated, ClassVar, Literal

from pydantic import StringConstraints

from contracts.message import Event
from contracts.values import Count

Name = Annotated[str, StringConstraints(max_length=255)]
OperationId = Annotated[str, StringConstraints(max_length=200)]
Verdict = Literal["ran", "answered-again", "absorbed", "superseded", "tombstoned", "dropped"]


class DeadLetterOpened(Event):
    """A message could not be handled and lies in the desk; its process goes on by the step's own rule."""

    wire_name: ClassVar[str] = "deadletters.dead-letter-opened.v1"
    subject_field: ClassVar[str] = "dead_letter_id"

    dead_letter_id: Name
    queue: Name
    type: Name
    operation_id: OperationId | None = None
    error_class: Name
    error: Annotated[str, StringConstraints(max_length=2000)]


class ReplayHandled(Event):
    """Proof that a replayed message was dealt with, written in the transaction of its effect. `verdict` says how."""

    wire_name: ClassVar[str] = "deadletters.replay-handled.v1"
    subject_field: ClassVar[str] = "dead_letter_id"

    dead_letter_id: Name
    queue: Name
    replay: Count
    operation_id: OperationId | None = None
    revision: Count = 0
    verdict: Verdict


MESSAGES = (DeadLetterOpened, ReplayHandled)

"""What the engine may ask of a step, of whatever kind, and what a step may do to the saga that it is a step of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

from pydantic import JsonValue

from contracts.message import Message
from orchestrator.inputs import Answer
from orchestrator.instance import Compensation, StepRecord, StepState
from orchestrator.names import Expression, Names
from orchestrator.patience import Limits
from orchestrator.template import Template, Undo

# Outcomes that every kind may have; a definition adds names of its own.
DONE: Final = "done"
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The step will not be done: in which state it is left, and the reason that the end of the saga tells."""

    state: StepState
    code: str
    detail: str


# What a step made of an input: it is over with this outcome; it is given up; or, None, it goes on waiting.
Verdict = str | GivenUp | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that a saga waits for: which of these answers, to which step, or what else, and by when."""

    step: str | None
    direction: Literal["do", "undo", "person"]
    answers: tuple[str, ...]
    by: datetime | None


class Draft(Protocol):
    """The saga after this input, while it is being made. A step reads what it needs, and writes of itself only."""

    @property
    def now(self) -> datetime: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def cancelling(self) -> bool:
        """Whether somebody has asked to stop, so that nothing is tried again."""

    def random(self) -> float: ...
    def names(self) -> Names: ...
    def record(self, step: "Step") -> StepRecord: ...
    def put(self, step: "Step", record: StepRecord) -> None: ...
    def send(self, step: "Step", message: Message, due_by: datetime | None) -> str:
        """Sends a command as the step's operation; the id of the message."""

    def emit(self, template: Template) -> str:
        """Publishes an event; the id of the message. Raises EvaluationError."""

    def log(self, kind: str, step: "Step", message_id: str | None = None, **detail: JsonValue) -> None:
        """Adds a line to the saga's history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One thing to be done. `answers` maps wire names to outcomes: `done`, `refused`, or a name of the workflow's own.

    `dependents` are all steps that come after it, however far; `beyond_pivot` says that it comes after the pivot.
    What it is asked for changes its own record in the draft; what follows for the saga is the engine's to decide.
    """

    id: str
    after: tuple[str, ...] = ()
    when: Expression | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    undo: Undo | None = None
    because: str | None = None
    pivot: bool = False
    beyond_pivot: bool = False
    dependents: frozenset[str] = frozenset()
    # The step's name in CEL, where a hyphen is a minus.
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.id.replace("-", "_"))

    @abstractmethod
    def begin(self, draft: Draft) -> Verdict:
        """Its turn has come, or its pause before another attempt is over. Raises EvaluationError."""

    def take(self, draft: Draft, answer: Answer) -> Verdict:
        """One of its answers has come while it was in flight."""
        return self.answers[answer.wire_name]

    def due(self, draft: Draft) -> Verdict:
        """The moment that it set itself has come. A step that is not over afterwards has another moment."""
        raise NotImplementedError(f"{self.id} sets itself no moment")

    def is_asked_by(self, wire_name: str) -> bool:
        """Whether it sends this message."""
        return False

    def waits(self, record: StepRecord) -> Waiting:
        """What would move it on while it is in flight."""
        return Waiting(self.id, "do", tuple(self.answers), record.due_at)

    def undo_entry(self, followers: tuple[str, ...]) -> Compensation | None:
        """Its entry in the plan that takes the saga back; None where there is nothing to be taken back."""
        if self.undo is None:
            return None
        return Compensation(self.id, self.undo.template.wire_name, self.undo.owner, followers)

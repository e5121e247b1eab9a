"""A workflow as the engine runs it: checked, compiled, ordered. `definition.py` makes these from YAML and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from pydantic import JsonValue, ValidationError

from contracts.message import Command, Message
from orchestrator.names import EvaluationError, Expression, Names

DONE: Final = "done"
REFUSED: Final = "refused"
ENDS: Final = ("completed", "refused", "cancelled", "failed")
# Full jitter may draw zero; a timer must still lie in the future.
RETRY_DELAY_MIN: Final = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Template:
    """A message to be written: its model and the expression of each field."""

    model: type[Message]
    fields: tuple[tuple[str, Expression], ...]

    @property
    def wire_name(self) -> str:
        return self.model.wire_name

    def compose(self, names: Names) -> Message:
        """The message. Raises EvaluationError where an expression fails or its value is not allowed in the field."""
        data: dict[str, JsonValue] = {name: expression.evaluate(names) for name, expression in self.fields}
        try:
            return self.model.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'message'}: {item['msg']}" for item in error.errors()[:3])
            raise EvaluationError(f"{self.wire_name} cannot be written: {problems}") from None


@dataclass(frozen=True, slots=True)
class Retry:
    """When to send again: at most `attempts` in all, after growing pauses, and not later than `budget` after the first."""

    attempts: int = 1
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    most: timedelta = timedelta(minutes=1)
    jitter: bool = True
    budget: timedelta | None = None

    def delay(self, attempts: int, random: float) -> timedelta:
        """The pause after so many attempts. `random` in [0, 1) spreads it over the whole span (full jitter)."""
        # 2**64 is past any `most`; without the bound a long outage would overflow the float.
        longest = min(self.most.total_seconds(), self.first.total_seconds() * self.factor ** min(attempts - 1, 64))
        return max(RETRY_DELAY_MIN, timedelta(seconds=longest * (random if self.jitter else 1.0)))

    def patience(self, timeout: timedelta) -> timedelta:
        """The longest time from the first attempt to giving up."""
        waits = sum((self.delay(number, 1.0) for number in range(1, self.attempts)), start=timedelta())
        whole = timeout * self.attempts + waits
        return whole if self.budget is None else min(whole, self.budget + timeout)


@dataclass(frozen=True, slots=True)
class Undo:
    """What takes a step back, who is told when it cannot be, and which answers mean what (wire name to outcome)."""

    template: Template
    answers: Mapping[str, str]
    owner: str
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to be done. `answers` maps wire names to outcomes: `done`, `refused`, or a name of the workflow's own.

    `dependents` are all steps that come after it, however far; `beyond_pivot` says that it comes after the pivot;
    `patience` is the longest time from its first attempt to giving up.
    A step without answers emits an event and is done at once.
    """

    id: str
    template: Template
    after: tuple[str, ...] = ()
    when: Expression | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    timeout: timedelta = timedelta(seconds=30)
    retry: Retry | None = None
    undo: Undo | None = None
    because: str | None = None
    pivot: bool = False
    beyond_pivot: bool = False
    dependents: frozenset[str] = frozenset()
    patience: timedelta = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", (self.retry or Retry()).patience(self.timeout))

    @property
    def name(self) -> str:
        """The step's name in CEL, where a hyphen is a minus."""
        return self.id.replace("-", "_")

    @property
    def is_command(self) -> bool:
        return issubclass(self.template.model, Command)


@dataclass(frozen=True, slots=True)
class Workflow:
    """One version of one workflow. `steps` stand in an order in which each comes after all that it waits for."""

    name: str
    version: int
    content_hash: str
    describe: str
    start_on: str
    start_when: Expression | None
    input_name: str
    steps: tuple[Step, ...]
    ends: Mapping[str, Template]
    source: str = field(default="", repr=False)
    by_id: Mapping[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {step.id: step for step in self.steps})

    @property
    def pivot(self) -> Step | None:
        return next((step for step in self.steps if step.pivot), None)

"""A workflow as the engine runs it: checked, compiled, ordered. `definition.py` makes these from YAML and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from contracts.message import Command
from orchestrator.names import Expression
from orchestrator.patience import Retry
from orchestrator.template import Template, Undo

DONE: Final = "done"
REFUSED: Final = "refused"
ENDS: Final = ("completed", "refused", "cancelled", "failed")


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

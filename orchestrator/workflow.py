"""A workflow as the engine runs it: checked, compiled, ordered. `definition.py` makes these from YAML and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.names import Expression
from orchestrator.steps.step import Step
from orchestrator.template import Template

ENDS: Final = ("completed", "refused", "cancelled", "failed")


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

"""One definition from its models to a workflow: the start, the names, the pivot, each step, each end."""

from typing import Final

from pydantic import BaseModel

from contracts.registry import ORCHESTRATOR
from orchestrator.checks.graph import Graph
from orchestrator.checks.messages import entry_of
from orchestrator.checks.reading import PROCESS, Reading
from orchestrator.checks.step import StepChecks
from orchestrator.checks.templates import Templates
from orchestrator.expressions import RESERVED
from orchestrator.language import EndPart, WorkflowPart
from orchestrator.names import Expression
from orchestrator.source import Path, Source
from orchestrator.steps.kind import kind_of
from orchestrator.steps.step import REFUSED, Step
from orchestrator.template import Template
from orchestrator.workflow import ENDS, Workflow

EVENTS_QUEUE: Final = f"{ORCHESTRATOR}.events"


class _Nothing(BaseModel):
    """Stands where the starting message is unknown, so that the other checks can go on."""


class Checker:
    """Checks one definition and compiles it. What it finds goes into the source's findings."""

    def __init__(self, part: WorkflowPart, source: Source, content_hash: str) -> None:
        self.part = part
        self.source = source
        self.content_hash = content_hash
        self.graph = Graph(part, source)
        self.reading = Reading(part, source, self.graph, self._input_model())
        self.pivot = next((step.id for step in part.steps if step.pivot), None)

    def compile(self) -> Workflow | None:
        """The workflow, or None when there are findings."""
        self._names_are_free()
        self._pivot_rules()
        steps = tuple(self._step(name) for name in self.graph.order)
        start_when = self._start_when()
        ends = {name: self._end(name) for name in ENDS}
        if self.source.findings:
            return None
        return Workflow(
            name=self.part.workflow,
            version=self.part.version,
            content_hash=self.content_hash,
            describe=self.part.describe,
            start_on=self.part.start.on,
            start_when=start_when,
            input_name=self.part.input,
            steps=steps,
            ends=ends,
            source=self.source.text,
        )

    def _input_model(self) -> type[BaseModel]:
        path = ("start", "on")
        entry = entry_of(self.source, self.part.start.on, path, command=False)
        if entry is None:
            return _Nothing
        if EVENTS_QUEUE not in entry.receivers:
            self.source.report(
                path,
                f"{entry.wire_name} never reaches the orchestrator",
                f"add {EVENTS_QUEUE} to its receivers in contracts/registry.py",
            )
        return entry.model

    def _start_when(self) -> Expression | None:
        text = self.part.start.when
        return self.reading.condition(text, ("start", "when"), self.reading.at_start()) if text is not None else None

    def _names_are_free(self) -> None:
        taken = {PROCESS: "the process itself", **dict.fromkeys(RESERVED, "CEL")}
        if self.part.input in taken:
            self.source.report(
                ("input",),
                f"the name `{self.part.input}` belongs to {taken[self.part.input]}",
                "choose another name",
            )
        taken[self.part.input] = "the starting payload"
        for number, step in enumerate(self.part.steps):
            path: Path = ("steps", number, "id")
            name = self.reading.names[step.id]
            if name in taken:
                self.source.report(path, f"the name `{name}` belongs to {taken[name]}", "give the step another id")
            if self.graph.index[step.id] != number:
                self.source.report(path, f"there is another step `{step.id}`", "give each step its own id")

    def _pivot_rules(self) -> None:
        pivots = [step.id for step in self.part.steps if step.pivot]
        for step in pivots[1:]:
            self.source.report(
                (*self.graph.path(step), "pivot"),
                f"there is a pivot already: `{pivots[0]}`",
                "a process has one point of no return; keep one",
            )
        if self.pivot is None:
            return
        for one in self.part.steps:
            if one.id == self.pivot or one.id in self.graph.upstream[self.pivot]:
                continue
            path = (*self.graph.path(one.id), "id")
            if not self._is_beyond_pivot(one.id):
                self.source.report(
                    path,
                    f"the irreversible step `{self.pivot}` may run before `{one.id}`",
                    f"add `{one.id}` to the `after` of `{self.pivot}`, or `{self.pivot}` to its own",
                )
            elif REFUSED in kind_of(one).answers(one):
                self.source.report(
                    path,
                    f"`{one.id}` can be refused after the irreversible step `{self.pivot}`",
                    f"let `{self.pivot}` come after it, or give its refusal a named outcome and a branch",
                )

    def _is_beyond_pivot(self, step: str) -> bool:
        return self.pivot is not None and self.pivot in self.graph.upstream[step]

    def _step(self, name: str) -> Step:
        part = self.graph.steps[name]
        beyond = self._is_beyond_pivot(name)
        return StepChecks(part, self.source, self.graph, self.reading, beyond_pivot=beyond).compile()

    def _end(self, name: str) -> Template:
        part: EndPart = getattr(self.part.finish, name)
        at: Path = ("finish", name)
        entry = entry_of(self.source, part.emit, (*at, "emit"), command=False)
        return Templates(self.source, self.reading).template(entry, part.with_, at, "emit", self.reading.at_end(name))

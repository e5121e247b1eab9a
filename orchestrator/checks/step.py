"""One step of a definition, checked and compiled: its message, its condition, its answers, its retry and its undo."""

from datetime import timedelta

from contracts.message import owner_of
from contracts.registry import Entry
from orchestrator.checks.graph import Graph
from orchestrator.checks.messages import entry_of, outcomes_of
from orchestrator.checks.reading import Reading
from orchestrator.checks.templates import Templates
from orchestrator.language import RetryPart, StepPart, UndoPart
from orchestrator.patience import Retry
from orchestrator.source import Source
from orchestrator.template import Template, Undo
from orchestrator.workflow import DONE, REFUSED, Step


class StepChecks:
    """The checks of one step. `beyond_pivot` says that it comes after the pivot."""

    def __init__(self, part: StepPart, source: Source, graph: Graph, reading: Reading, *, beyond_pivot: bool) -> None:
        self.part = part
        self.source = source
        self.graph = graph
        self.reading = reading
        self.beyond_pivot = beyond_pivot
        self.at = graph.path(part.id)
        self.scope = reading.at_step(part.id)
        self.templates = Templates(source, reading)

    def compile(self) -> Step:
        part = self.part
        is_command = part.command is not None
        kind = "command" if is_command else "emit"
        entry = entry_of(self.source, part.wire_name, (*self.at, kind), command=is_command)
        template = self.templates.template(entry, part.with_, self.at, kind, self.scope)
        timeout = part.timeout or timedelta(seconds=30)
        when = None
        if part.when is not None:
            when = self.reading.condition(part.when, (*self.at, "when"), self.scope)
            if when is not None and self.reading.is_always(part.when, False):
                self.source.report((*self.at, "when"), f"`{part.id}` can never start: this is always false", "take the step out")
        self._undo_is_decided()
        return Step(
            id=part.id,
            template=template,
            after=part.after,
            when=when,
            answers=outcomes_of(self.source, entry, part.answers or {}, (*self.at, "answers")) if is_command else {},
            timeout=timeout,
            retry=self._retry(part.retry) if part.retry else None,
            undo=self._undo(part.undo, entry, template, timeout) if isinstance(part.undo, UndoPart) else None,
            because=part.because,
            pivot=part.pivot,
            beyond_pivot=self.beyond_pivot,
            dependents=self.graph.dependents(part.id),
        )

    def _undo_is_decided(self) -> None:
        if self.part.undo is None and not self.beyond_pivot:
            self.source.report(
                (*self.at, "id"),
                f"`{self.part.id}` does not say how it is undone",
                "give it an `undo`, or `undo: none` and the reason in `because`",
            )
        if self.part.undo == "none" and self.part.because is None:
            self.source.report(
                (*self.at, "undo"),
                f"`{self.part.id}` has no undo and no reason",
                "say in `because` why nothing need be taken back",
            )

    def _undo(self, part: UndoPart, do: Entry | None, do_template: Template, timeout: timedelta) -> Undo:
        at = (*self.at, "undo")
        entry = entry_of(self.source, part.command, (*at, "command"), command=True)
        if entry is not None and do is not None:
            self._undo_suits(part, entry, do)
        for outcome in part.answers:
            if outcome not in (DONE, REFUSED):
                self.source.report(
                    (*at, "answers", outcome),
                    f"an undo has no outcome `{outcome}`",
                    "use `done` or `refused`",
                    at_key=True,
                )
        inherited = dict(do_template.fields)
        return Undo(
            template=self.templates.template(entry, part.with_ or {}, at, "command", self.scope, inherited),
            answers=outcomes_of(self.source, entry, part.answers, (*at, "answers")),
            owner=part.owner,
            timeout=part.timeout or timeout,
        )

    def _undo_suits(self, part: UndoPart, entry: Entry, do: Entry) -> None:
        at = (*self.at, "undo")
        if entry.owner != owner_of(do.wire_name):
            self.source.report(
                (*at, "command"),
                f"{part.command} belongs to {entry.owner}, but {do.wire_name} to {do.owner}",
                f"undo it with a command of {do.owner}: only the owner of the do knows what it did",
            )
        if shared := {answer.wire_name for answer in entry.answers.values()} & {a.wire_name for a in do.answers.values()}:
            self.source.report(
                (*at, "answers"),
                f"do and undo share the answer {sorted(shared)[0]}",
                "they have one operation id, so their answers must differ",
            )

    def _retry(self, part: RetryPart) -> Retry:
        at = (*self.at, "retry")
        if part.most < part.first:
            self.source.report((*at, "most"), "the longest pause is shorter than the first", "raise `most` or lower `first`")
        if part.budget is not None and part.budget <= part.first:
            self.source.report((*at, "budget"), "the budget is over before the first pause", "raise `budget`")
        return Retry(part.attempts, part.first, part.factor, part.most, part.jitter == "full", part.budget)

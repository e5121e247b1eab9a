"""One step of a definition: what steps of all kinds have is checked here, and its kind is lent what else it needs."""

from collections.abc import Mapping
from datetime import timedelta

from contracts.message import owner_of
from contracts.registry import Entry
from orchestrator.checks.graph import Graph
from orchestrator.checks.messages import entry_of, outcomes_of
from orchestrator.checks.reading import Reading
from orchestrator.checks.templates import Templates
from orchestrator.language import StepPart, UndoPart
from orchestrator.names import Expression
from orchestrator.source import Source
from orchestrator.steps.kind import Frame, kind_of
from orchestrator.steps.step import DONE, REFUSED, Step
from orchestrator.template import Template, Undo


class StepChecks:
    """The checks of one step, a `StepCheck`. `beyond_pivot` says that it comes after the pivot."""

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
        self._undo_is_decided()
        return kind_of(self.part).compile(self.part, self)

    # What a kind may ask for.

    def frame(self) -> Frame:
        return {
            "id": self.part.id,
            "after": self.part.after,
            "when": self._when(),
            "because": self.part.because,
            "pivot": self.part.pivot,
            "beyond_pivot": self.beyond_pivot,
            "dependents": self.graph.dependents(self.part.id),
        }

    def report(self, words: tuple[str, ...], problem: str, remedy: str) -> None:
        self.source.report((*self.at, *words), problem, remedy)

    def message(self, word: str, wire_name: str, *, command: bool) -> Entry | None:
        return entry_of(self.source, wire_name, (*self.at, word), command=command)

    def template(self, word: str, entry: Entry | None, given: Mapping[str, str]) -> Template:
        return self.templates.template(entry, given, self.at, word, self.scope)

    def answers(self, entry: Entry | None, given: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        return outcomes_of(self.source, entry, given, (*self.at, "answers"))

    def expression(self, word: str, text: str) -> Expression | None:
        return self.reading.expression(text, (*self.at, word), self.scope)

    def undo(self, part: UndoPart, do: Entry | None, do_template: Template, timeout: timedelta) -> Undo:
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

    # What is asked of steps of all kinds.

    def _when(self) -> Expression | None:
        text = self.part.when
        if text is None:
            return None
        if self.reading.is_always(text, False):
            self.report(("when",), f"`{self.part.id}` can never start: this is always false", "take the step out")
        return self.reading.condition(text, (*self.at, "when"), self.scope)

    def _undo_is_decided(self) -> None:
        if self.part.undo is None and not self.beyond_pivot:
            self.report(
                ("id",),
                f"`{self.part.id}` does not say how it is undone",
                "give it an `undo`, or `undo: none` and the reason in `because`",
            )
        if self.part.undo == "none" and self.part.because is None:
            self.report(
                ("undo",),
                f"`{self.part.id}` has no undo and no reason",
                "say in `because` why nothing need be taken back",
            )

    def _undo_suits(self, part: UndoPart, entry: Entry, do: Entry) -> None:
        if entry.owner != owner_of(do.wire_name):
            self.report(
                ("undo", "command"),
                f"{part.command} belongs to {entry.owner}, but {do.wire_name} to {do.owner}",
                f"undo it with a command of {do.owner}: only the owner of the do knows what it did",
            )
        if shared := {answer.wire_name for answer in entry.answers.values()} & {a.wire_name for a in do.answers.values()}:
            self.report(
                ("undo", "answers"),
                f"do and undo share the answer {sorted(shared)[0]}",
                "they have one operation id, so their answers must differ",
            )

"""What is checked when a definition is loaded, and the compiling that the checks do on the way.

Every check reports and goes on, so that one reading finds everything. A `Workflow` comes out only when nothing was found.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, create_model

from contracts.message import Command, Message, owner_of
from contracts.registry import ORCHESTRATOR, REGISTRY, Entry
from contracts.values import Reason
from orchestrator.expressions import RESERVED, ExpressionError, Language
from orchestrator.fit import allows_null, may_be_null, mismatch
from orchestrator.language import EndPart, RetryPart, StepPart, UndoPart, WorkflowPart
from orchestrator.names import Expression, Names
from orchestrator.source import Path, Source
from orchestrator.workflow import DONE, ENDS, REFUSED, Retry, Step, Template, Undo, Workflow

EVENTS_QUEUE: Final = f"{ORCHESTRATOR}.events"
PROCESS: Final = "process"
Scope = dict[str, type[BaseModel]]


class Process(BaseModel):
    """What expressions see of the process itself, under the name `process`."""

    id: str
    workflow: str
    version: int
    subject: str | None
    partner: str | None
    reasons: tuple[Reason, ...]


class Checker:
    """Checks one definition and compiles it. What it finds goes into the source's findings."""

    def __init__(self, part: WorkflowPart, source: Source, content_hash: str) -> None:
        self.part = part
        self.source = source
        self.content_hash = content_hash
        self.index = {step.id: number for number, step in enumerate(part.steps)}
        self.names = {step.id: step.id.replace("-", "_") for step in part.steps}
        self.language = Language(frozenset({part.input, PROCESS, *self.names.values()}))
        self.upstream: dict[str, frozenset[str]] = {}
        self.input_model = self._input_model()
        self.pivot = next((step.id for step in part.steps if step.pivot), None)

    def compile(self) -> Workflow | None:
        """The workflow, or None when there are findings."""
        self._names_are_free()
        order = self._graph()
        self._pivot_rules()
        steps = [self._step(self.part.steps[self.index[name]]) for name in order]
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
            steps=tuple(steps),
            ends=ends,
            source=self.source.text,
        )

    # The start and the names.

    def _input_model(self) -> type[BaseModel]:
        path = ("start", "on")
        entry = self._entry(self.part.start.on, path, command=False)
        if entry is None:
            return _NOTHING
        if EVENTS_QUEUE not in entry.receivers:
            self.source.report(
                path,
                f"{entry.wire_name} never reaches the orchestrator",
                f"add {EVENTS_QUEUE} to its receivers in contracts/registry.py",
            )
        return entry.model

    def _start_when(self) -> Expression | None:
        text = self.part.start.when
        scope: Scope = {self.part.input: self.input_model, PROCESS: Process}
        return self._condition(text, ("start", "when"), scope) if text is not None else None

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
            name = self.names[step.id]
            if name in taken:
                self.source.report(
                    ("steps", number, "id"),
                    f"the name `{name}` belongs to {taken[name]}",
                    "give the step another id",
                )
            if self.index[step.id] != number:
                self.source.report(("steps", number, "id"), f"there is another step `{step.id}`", "give each step its own id")

    # The graph.

    def _graph(self) -> list[str]:
        """The steps in an order in which each comes after all that it waits for; steps that cannot be ordered come last."""
        after = {step.id: self._after(step) for step in self.part.steps}
        for cycle in _cycles(after):
            number = self.index[cycle[0]]
            self.source.report(
                ("steps", number, "after"),
                f"these steps wait for each other: {' -> '.join((*cycle, cycle[0]))}",
                "take one of the names out of an `after`",
                at_key=True,
            )
        order: list[str] = []
        waiting = list(after)
        while waiting:
            ready = [name for name in waiting if all(earlier in order for earlier in after[name])]
            if not ready:
                break
            order.append(ready[0])
            waiting.remove(ready[0])
        in_cycles = {name for cycle in _cycles(after) for name in cycle}
        for name in waiting:
            if name not in in_cycles:
                self.source.report(
                    ("steps", self.index[name], "id"),
                    f"`{name}` can never start: it waits for steps that wait for each other",
                    "resolve the cycle before it",
                )
        for name in (*order, *waiting):
            self.upstream[name] = frozenset(after[name]).union(*(self.upstream.get(item, ()) for item in after[name]))
        return [*order, *waiting]

    def _after(self, step: StepPart) -> tuple[str, ...]:
        known = []
        for position, name in enumerate(step.after):
            path: Path = ("steps", self.index[step.id], "after", position)
            if name not in self.index:
                self.source.report(path, f"there is no step `{name}`", _nearest(name, self.index, "name a step of this file"))
            elif name in known:
                self.source.report(path, f"`{name}` stands here twice", "keep one of the two")
            else:
                known.append(name)
        return tuple(known)

    def _pivot_rules(self) -> None:
        pivots = [step for step in self.part.steps if step.pivot]
        for step in pivots[1:]:
            self.source.report(
                ("steps", self.index[step.id], "pivot"),
                f"there is a pivot already: `{pivots[0].id}`",
                "a process has one point of no return; keep one",
            )
        if self.pivot is None:
            return
        for step in self.part.steps:
            if step.id == self.pivot or step.id in self.upstream[self.pivot]:
                continue
            path: Path = ("steps", self.index[step.id], "id")
            refusable = REFUSED in (step.answers or {})
            if self.pivot in self.upstream[step.id] and refusable:
                self.source.report(
                    path,
                    f"`{step.id}` can be refused after the irreversible step `{self.pivot}`",
                    f"let `{self.pivot}` come after it, or give its refusal a named outcome and a branch",
                )
            elif self.pivot not in self.upstream[step.id]:
                self.source.report(
                    path,
                    f"the irreversible step `{self.pivot}` may run before `{step.id}`",
                    f"add `{step.id}` to the `after` of `{self.pivot}`, or `{self.pivot}` to its own",
                )

    # One step.

    def _step(self, step: StepPart) -> Step:
        at: Path = ("steps", self.index[step.id])
        is_command = step.command is not None
        kind = "command" if is_command else "emit"
        entry = self._entry(step.wire_name, (*at, kind), command=is_command)
        scope = self._scope(self.upstream[step.id])
        certain = self._certain(self.upstream[step.id], forward=True)
        template = self._template(entry, step.with_, at, scope, certain, kind)
        when = self._condition(step.when, (*at, "when"), scope, certain) if step.when is not None else None
        if when is not None and self._is_constant(step.when, value=False):
            self.source.report((*at, "when"), f"`{step.id}` can never start: this is always false", "take the step out")
        beyond = self.pivot is not None and self.pivot in self.upstream[step.id]
        self._undo_is_settled(step, at, beyond)
        timeout = step.timeout or timedelta(seconds=30)
        return Step(
            id=step.id,
            template=template,
            after=step.after,
            when=when,
            answers=self._answers(entry, step.answers, (*at, "answers")) if is_command else {},
            timeout=timeout,
            retry=self._retry(step.retry, (*at, "retry")) if step.retry else None,
            undo=self._undo(step, step.undo, entry, template, scope, certain, timeout)
            if isinstance(step.undo, UndoPart)
            else None,
            because=step.because,
            pivot=step.pivot,
            beyond_pivot=beyond,
            dependents=frozenset(name for name, earlier in self.upstream.items() if step.id in earlier),
        )

    def _undo_is_settled(self, step: StepPart, at: Path, beyond: bool) -> None:
        if step.undo is None and not beyond:
            self.source.report(
                (*at, "id"),
                f"`{step.id}` does not say how it is undone",
                "give it an `undo`, or `undo: none` and the reason in `because`",
            )
        if step.undo == "none" and step.because is None:
            self.source.report(
                (*at, "undo"),
                f"`{step.id}` has no undo and no reason",
                "say in `because` why nothing need be taken back",
            )

    def _undo(
        self,
        step: StepPart,
        part: UndoPart,
        do: Entry | None,
        do_template: Template,
        scope: Scope,
        certain: Mapping[str, frozenset[str]],
        timeout: timedelta,
    ) -> Undo:
        at: Path = ("steps", self.index[step.id], "undo")
        entry = self._entry(part.command, (*at, "command"), command=True)
        if entry is not None and do is not None:
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
            template=self._template(entry, part.with_ or {}, at, scope, certain, "command", inherited),
            answers=self._answers(entry, part.answers, (*at, "answers")),
            owner=part.owner,
            timeout=part.timeout or timeout,
        )

    def _retry(self, part: RetryPart, at: Path) -> Retry:
        if part.most < part.first:
            self.source.report((*at, "most"), "the longest pause is shorter than the first", "raise `most` or lower `first`")
        if part.budget is not None and part.budget <= part.first:
            self.source.report((*at, "budget"), "the budget is over before the first pause", "raise `budget`")
        return Retry(part.attempts, part.first, part.factor, part.most, part.jitter == "full", part.budget)

    def _end(self, name: str) -> Template:
        part: EndPart = getattr(self.part.finish, name)
        at: Path = ("finish", name)
        entry = self._entry(part.emit, (*at, "emit"), command=False)
        everything = frozenset(self.index)
        scope = self._scope(everything, every_outcome=name != "completed")
        certain = self._certain(everything, forward=name == "completed")
        return self._template(entry, part.with_, at, scope, certain, "emit")

    # Messages and their answers.

    def _entry(self, wire_name: str, path: Path, *, command: bool) -> Entry | None:
        entry = REGISTRY.get(wire_name)
        if entry is None:
            self.source.report(
                path,
                f"there is no message {wire_name}",
                _nearest(wire_name, REGISTRY, "see `tutti contracts list`"),
            )
            return None
        if issubclass(entry.model, Command) != command:
            is_a, word = ("an event", "emit") if command else ("a command", "command")
            self.source.report(path, f"{wire_name} is {is_a}", f"use it under `{word}`, or name another message")
            return None
        if path[0] != "start" and ORCHESTRATOR not in entry.senders:
            self.source.report(
                path,
                f"the orchestrator may not send {wire_name}",
                "add it to the senders in contracts/registry.py",
            )
        if command and not entry.receivers:
            self.source.report(path, f"nobody handles {wire_name} yet", "deploy its service, or leave the step out")
        return entry

    def _answers(self, entry: Entry | None, given: Mapping[str, tuple[str, ...]] | None, at: Path) -> dict[str, str]:
        """Wire name to outcome. Together they must be exactly what the command can be answered with."""
        outcomes: dict[str, str] = {}
        possible = {model.wire_name: outcome for outcome, model in entry.answers.items()} if entry else {}
        for outcome, wire_names in (given or {}).items():
            for wire_name in wire_names:
                path = (*at, outcome)
                if entry is not None and wire_name not in possible:
                    self.source.report(
                        path,
                        f"{entry.wire_name} is never answered with {wire_name}",
                        _nearest(wire_name, possible, "its answers are " + ", ".join(possible)),
                    )
                elif wire_name in outcomes:
                    self.source.report(path, f"{wire_name} stands for two outcomes", "keep one of the two")
                elif possible.get(wire_name) == REFUSED and outcome == DONE:
                    self.source.report(
                        path,
                        f"{wire_name} is a refusal",
                        "put it under `refused`, or an outcome of its own name",
                    )
                outcomes[wire_name] = outcome
        missing = [name for name in possible if name not in outcomes]
        if missing:
            self.source.report(
                at,
                f"nothing is said for the answer {', '.join(missing)}",
                "put each under an outcome",
                at_key=True,
            )
        if DONE not in outcomes.values():
            self.source.report(at, "no answer means `done`", "put the answer that means success under `done`", at_key=True)
        return outcomes

    # Names, conditions and mappings.

    def _scope(self, steps: Iterable[str], *, every_outcome: bool = False) -> Scope:
        """The names that an expression may use, with their models: the starting payload, the process, and these steps."""
        scope: Scope = {self.part.input: self.input_model, PROCESS: Process}
        for name in steps:
            models = self._answer_models(name, every_outcome=every_outcome)
            fields: dict[str, Any] = {}
            for model in models:
                for field, info in model.model_fields.items():
                    same = field not in fields or fields[field] == (info.annotation, None)
                    fields[field] = (info.annotation if same else Any, None)
            fields["outcome"] = (str, ...)
            scope[self.names[name]] = create_model(f"{self.names[name]}_answer", **fields)
        return scope

    def _certain(self, steps: Iterable[str], *, forward: bool) -> dict[str, frozenset[str]]:
        """Which fields of a step's answer are there for sure: those of all its possible answers, if it certainly ran."""
        certain = {}
        for name in steps:
            models = self._answer_models(name, every_outcome=False)
            ran = forward and self.part.steps[self.index[name]].when is None
            common = frozenset.intersection(*(frozenset(m.model_fields) for m in models)) if ran and models else frozenset()
            certain[self.names[name]] = common | {"outcome"}
        return certain

    def _answer_models(self, name: str, *, every_outcome: bool) -> list[type[Message]]:
        answers = self.part.steps[self.index[name]].answers or {}
        wire_names = [
            wire_name for outcome, group in answers.items() if every_outcome or outcome != REFUSED for wire_name in group
        ]
        return [REGISTRY[wire_name].model for wire_name in wire_names if wire_name in REGISTRY]

    def _template(
        self,
        entry: Entry | None,
        given: Mapping[str, str],
        at: Path,
        scope: Scope,
        certain: Mapping[str, frozenset[str]],
        kind: str,
        inherited: Mapping[str, Expression] | None = None,
    ) -> Template:
        if entry is None:
            for field, text in given.items():
                self._expression(text, (*at, "with", field), scope, certain)
            return Template(_NO_MESSAGE, ())
        known = entry.model.model_fields
        fields: dict[str, Expression] = {}
        for field, text in given.items():
            path = (*at, "with", field)
            if field not in known:
                self.source.report(
                    path,
                    f"{entry.wire_name} has no field `{field}`",
                    _nearest(field, known, "leave it out"),
                    at_key=True,
                )
                continue
            expression = self._expression(text, path, scope, certain)
            if expression is not None:
                fields[field] = expression
                self._fits(expression, known[field].annotation, path, field, scope)
        for field, expression in {**self._subject(entry.model), **(inherited or {})}.items():
            if field in known and field not in given:
                fields[field] = expression
                self._fits(expression, known[field].annotation, (*at, kind), field, scope)
        missing = [field for field, info in known.items() if info.is_required() and field not in fields and field not in given]
        if missing:
            self.source.report(
                (*at, kind),
                f"{entry.wire_name} needs {', '.join(f'`{field}`' for field in missing)}",
                "say it in `with`",
            )
        return Template(entry.model, tuple(fields.items()))

    def _subject(self, model: type[Message]) -> dict[str, Expression]:
        """A message about the same business object as the start need not repeat its id in `with`."""
        field = model.subject_field
        if field not in model.model_fields or field not in self.input_model.model_fields:
            return {}
        text = f"{self.part.input}.{field}"
        return {field: self.language.compile(text, {self.part.input: self.input_model})}

    def _fits(self, expression: Expression, annotation: Any, path: Path, field: str, scope: Scope) -> None:
        problem = mismatch(expression.type_name, annotation, self.language.model_of)
        if problem is None and not allows_null(annotation) and may_be_null(expression, scope):
            problem = "it may be null, and the field must have a value"
        if problem is not None:
            self.source.report(path, f"`{expression.text}` does not fit `{field}`: {problem}", "change the expression")

    def _condition(
        self, text: str, path: Path, scope: Scope, certain: Mapping[str, frozenset[str]] | None = None
    ) -> Expression | None:
        expression = self._expression(text, path, scope, certain or {})
        if expression is not None and expression.type_name not in ("BOOL", "DYN"):
            self.source.report(
                path,
                f"a condition is true or false, this is {expression.type_name}",
                "compare it with something",
            )
        return expression

    def _expression(self, text: str, path: Path, scope: Scope, certain: Mapping[str, frozenset[str]]) -> Expression | None:
        try:
            expression = self.language.compile(text, scope)
        except ExpressionError as error:
            self.source.report_within(path, error.line, error.column, f"`{text}`: {error}", self._hint(str(error), scope))
            return None
        for name, fields in certain.items():
            for field in re.findall(rf"(?<![.\w]){name}\.(\w+)", text):
                if field not in fields and not re.search(rf"has\(\s*{name}\.{field}\b", text):
                    self.source.report(
                        path,
                        f"`{name}.{field}` may not be there: the step may have been skipped, refused or answered otherwise",
                        f"ask first: has({name}.{field}) ? ... : null",
                    )
        return expression

    def _hint(self, problem: str, scope: Scope) -> str:
        unknown = re.search(r"undeclared reference to '(\w+)", problem)
        if unknown is not None and unknown.group(1) in self.names.values():
            return f"`{unknown.group(1)}` may not be finished by then: add it to `after`"
        if unknown is not None:
            return f"known here: {', '.join(sorted(scope))}"
        field = re.search(r"undefined field '(\w+)' not found in struct '([\w.]+)'", problem)
        model = self.language.model_of(field.group(2)) if field is not None else None
        if field is not None and model is not None:
            return _nearest(field.group(1), model.model_fields, f"it has {', '.join(model.model_fields)}")
        return "see docs/workflow-language.md for what an expression may say"

    def _is_constant(self, text: str | None, *, value: bool) -> bool:
        try:
            return text is not None and self.language.compile(text, {}).evaluate(Names({})) is value
        except ExpressionError:
            return False


class _Nothing(BaseModel):
    """Stands where a message is unknown, so that the other checks can go on."""


_NOTHING: Final = _Nothing
_NO_MESSAGE: Final = Message


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{found[0]}`?" if found else otherwise


def _cycles(after: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each group of steps that wait for each other, once, as a walk along `after`."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for start in after:
        walk = _walk_back(start, start, after, (start,))
        if walk is not None and not any(set(walk) & group for group in found):
            found[frozenset(walk)] = walk
    return list(found.values())


def _walk_back(goal: str, at: str, after: Mapping[str, tuple[str, ...]], walk: tuple[str, ...]) -> tuple[str, ...] | None:
    """The shortest way from `at` along `after` back to `goal`."""
    frontier = [(at, walk)]
    seen: set[str] = set()
    while frontier:
        name, path = frontier.pop(0)
        for earlier in after[name]:
            if earlier == goal:
                return path
            if earlier not in seen:
                seen.add(earlier)
                frontier.append((earlier, (*path, earlier)))
    return None

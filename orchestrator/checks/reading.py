"""What an expression of a definition may read, and whether it does: names, fields, types, and fields that may be missing."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, create_model

from contracts.message import Message
from contracts.values import Reason
from orchestrator.checks.graph import Graph
from orchestrator.checks.messages import nearest
from orchestrator.expressions import ExpressionError, Language
from orchestrator.fit import allows_null, may_be_null, mismatch
from orchestrator.language import WorkflowPart
from orchestrator.names import Expression, Names
from orchestrator.source import Path, Source
from orchestrator.steps.kind import kind_of
from orchestrator.steps.step import REFUSED

PROCESS: Final = "process"


class Process(BaseModel):
    """What expressions see of the saga itself, under the name `process`."""

    id: str
    workflow: str
    version: int
    subject: str | None
    partner: str | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that an expression may use, with their models; and which fields of a step's answer are there for sure."""

    models: dict[str, type[BaseModel]]
    certain: Mapping[str, frozenset[str]]


class Reading:
    """Compiles the expressions of one definition, each for the place where it stands."""

    def __init__(self, part: WorkflowPart, source: Source, graph: Graph, input_model: type[BaseModel]) -> None:
        self._source = source
        self._graph = graph
        self._input = part.input
        self.input_model = input_model
        self.names = {name: name.replace("-", "_") for name in graph.steps}
        self._language = Language(frozenset({part.input, PROCESS, *self.names.values()}))

    def at_start(self) -> Scope:
        """Before any step: the starting payload and the saga."""
        return Scope({self._input: self.input_model, PROCESS: Process}, {})

    def at_step(self, step: str) -> Scope:
        """Also the steps that certainly came before this one."""
        upstream = self._graph.upstream[step]
        return Scope(self._models(upstream, every_outcome=False), self._certain(upstream, forward=True))

    def at_end(self, end: str) -> Scope:
        """Also all steps, as they may be when the saga ends in this way."""
        completed = end == "completed"
        everything = frozenset(self._graph.steps)
        return Scope(self._models(everything, every_outcome=not completed), self._certain(everything, forward=completed))

    def expression(self, text: str, path: Path, scope: Scope) -> Expression | None:
        """The expression; None, and a finding, where it does not compile."""
        try:
            expression = self._language.compile(text, scope.models)
        except ExpressionError as error:
            self._source.report_within(path, error.line, error.column, f"`{text}`: {error}", self._hint(str(error), scope))
            return None
        for name, fields in scope.certain.items():
            for field in re.findall(rf"(?<![.\w]){name}\.(\w+)", text):
                if field not in fields and not re.search(rf"has\(\s*{name}\.{field}\b", text):
                    self._source.report(
                        path,
                        f"`{name}.{field}` may not be there: the step may have been skipped, refused or answered otherwise",
                        f"ask first: has({name}.{field}) ? ... : null",
                    )
        return expression

    def condition(self, text: str, path: Path, scope: Scope) -> Expression | None:
        """An expression that is true or false."""
        expression = self.expression(text, path, scope)
        if expression is not None and expression.type_name not in ("BOOL", "DYN"):
            self._source.report(
                path,
                f"a condition is true or false, this is {expression.type_name}",
                "compare it with something",
            )
        return expression

    def is_always(self, text: str, value: bool) -> bool:
        """Whether the text is this constant, whatever the names say."""
        try:
            return self._language.compile(text, {}).evaluate(Names({})) is value
        except ExpressionError:
            return False

    def subject_of(self, model: type[Message]) -> dict[str, Expression]:
        """A message about the same business object as the start need not repeat its id in `with`."""
        field = model.subject_field
        if field not in model.model_fields or field not in self.input_model.model_fields:
            return {}
        return {field: self._language.compile(f"{self._input}.{field}", {self._input: self.input_model})}

    def fits(self, expression: Expression, annotation: Any, path: Path, field: str, scope: Scope) -> None:
        """Reports where the value of the expression may not stand in the field."""
        problem = mismatch(expression.type_name, annotation, self._language.model_of)
        if problem is None and not allows_null(annotation) and may_be_null(expression, scope.models):
            problem = "it may be null, and the field must have a value"
        if problem is not None:
            self._source.report(path, f"`{expression.text}` does not fit `{field}`: {problem}", "change the expression")

    def _models(self, steps: Iterable[str], *, every_outcome: bool) -> dict[str, type[BaseModel]]:
        models = self.at_start().models
        for name in steps:
            fields: dict[str, Any] = {}
            for model in self._answer_models(name, every_outcome=every_outcome):
                for field, info in model.model_fields.items():
                    same = field not in fields or fields[field] == (info.annotation, None)
                    fields[field] = (info.annotation if same else Any, None)
            fields["outcome"] = (str, ...)
            models[self.names[name]] = create_model(f"{self.names[name]}_answer", **fields)
        return models

    def _certain(self, steps: Iterable[str], *, forward: bool) -> dict[str, frozenset[str]]:
        """The fields that all possible answers of a step have, if it certainly ran."""
        certain = {}
        for name in steps:
            models = self._answer_models(name, every_outcome=False)
            ran = forward and self._graph.steps[name].when is None
            common = frozenset.intersection(*(frozenset(m.model_fields) for m in models)) if ran and models else frozenset()
            certain[self.names[name]] = common | {"outcome"}
        return certain

    def _answer_models(self, name: str, *, every_outcome: bool) -> list[type[BaseModel]]:
        part = self._graph.steps[name]
        answers = kind_of(part).answers(part)
        return [model for outcome, models in answers.items() if every_outcome or outcome != REFUSED for model in models]

    def _hint(self, problem: str, scope: Scope) -> str:
        unknown = re.search(r"undeclared reference to '(\w+)", problem)
        if unknown is not None and unknown.group(1) in self.names.values():
            return f"`{unknown.group(1)}` may not be finished by then: add it to `after`"
        if unknown is not None:
            return f"known here: {', '.join(sorted(scope.models))}"
        field = re.search(r"undefined field '(\w+)' not found in struct '([\w.]+)'", problem)
        model = self._language.model_of(field.group(2)) if field is not None else None
        if field is not None and model is not None:
            return nearest(field.group(1), model.model_fields, f"it has {', '.join(model.model_fields)}")
        return "see docs/workflow-language.md for what an expression may say"

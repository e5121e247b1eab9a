"""CEL behind two methods: `compile` checks names and types against message models, `evaluate` computes from JSON.

Everything that touches the CEL library stands here. An expression is compiled twice. The first compilation knows every
model as a protobuf message type, so that a wrong field or type is found when a definition is loaded; its program is thrown
away. The second takes names as untyped values, and its program runs on the very JSON that arrived.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cel_expr_python import cel
from pydantic import BaseModel, JsonValue

from orchestrator.descriptors import Descriptors
from orchestrator.language import EXPRESSION_LENGTH_MAX
from orchestrator.names import EvaluationError, Expression, Names

# Section "Syntax" of the CEL specification: identifiers that no variable may have.
RESERVED: Final = frozenset(
    {"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"}
    | {"namespace", "null", "package", "return", "true", "var", "void", "while"}
)
_PATH = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")
_FAULT = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


class ExpressionError(ValueError):
    """Does not compile. `line` (from 1) and `column` (from 0) are those of the fault within the expression's text."""

    def __init__(self, problem: str, line: int = 1, column: int = 0) -> None:
        self.line = line
        self.column = column
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class Path:
    """A plain dotted path, `order.ship_to.country`, resolved without CEL.

    It means the same there: each part after the first is a field selection, CEL defines that on a map as the lookup of a
    string key and on anything else as an error, and a lookup changes no value. Hence the same value, or an error in the
    same cases, in a tenth of the time. A name with dots in it cannot be declared here, so no longer name can match first.
    """

    text: str
    type_name: str
    parts: tuple[str, ...]

    def evaluate(self, names: Names) -> JsonValue:
        value: Any = names.values
        for part in self.parts:
            if not isinstance(value, Mapping) or part not in value:
                raise EvaluationError(f"`{self.text}` cannot be computed: there is no {part!r} here")
            value = value[part]
        return value  # type: ignore[no-any-return]  # the values are JSON all the way down


@dataclass(frozen=True, slots=True)
class Program:
    """Any other expression, run by CEL."""

    text: str
    type_name: str
    env: cel.Env
    compiled: cel.Expression

    def evaluate(self, names: Names) -> JsonValue:
        value = self.compiled.eval(self.activation(names))
        # A missing key is no exception of the library but a value of the type ERROR.
        if value.type() == cel.Type.ERROR:
            raise EvaluationError(f"`{self.text}` cannot be computed: {value.value()}")
        return value.plain_value()  # type: ignore[no-any-return]  # untyped library; `fit.py` refused what is not JSON

    def activation(self, names: Names) -> cel.Activation:
        """CEL's view of the values; shared by all expressions of one workflow, which have one environment."""
        return names.view(self.env, self.env.Activation)


class Language:
    """The expressions of one workflow: `names` are all names that any of them may use."""

    def __init__(self, names: frozenset[str]) -> None:
        self._descriptors = Descriptors()
        self._run = cel.NewEnv(variables=dict.fromkeys(sorted(names), cel.Type.DYN))
        self._checks: dict[tuple[tuple[str, type[BaseModel]], ...], cel.Env] = {}

    def compile(self, text: str, declared: Mapping[str, type[BaseModel]]) -> Expression:
        """Checks and compiles. `declared` are the names that this expression may use, with their models.

        Raises ExpressionError with the place of the fault.
        """
        if len(text) > EXPRESSION_LENGTH_MAX:
            raise ExpressionError(f"has {len(text)} characters, {EXPRESSION_LENGTH_MAX} are allowed")
        if not text.strip():
            raise ExpressionError("is empty")
        type_name = str(_compile(self._check(declared), text).return_type())
        if _PATH.fullmatch(text):
            return Path(text, type_name, tuple(text.split(".")))
        return Program(text, type_name, self._run, _compile(self._run, text))

    def _check(self, declared: Mapping[str, type[BaseModel]]) -> cel.Env:
        key = tuple(sorted(declared.items()))
        if key not in self._checks:
            types = {name: cel.Type(self._descriptors.add(model)) for name, model in key}
            self._checks[key] = cel.NewEnv(descriptor_pool=self._descriptors.pool, variables=types)
        return self._checks[key]

    def model_of(self, type_name: str) -> type[BaseModel] | None:
        """The model behind a CEL type name; None for a type that is no message."""
        return self._descriptors.models.get(type_name)


def _compile(env: cel.Env, text: str) -> cel.Expression:
    try:
        return env.compile(text)
    except RuntimeError as error:  # the binding raises this, and only this, for whatever CEL finds
        fault = _FAULT.search(str(error))
        if fault is None:
            raise ExpressionError(str(error)[:300]) from None
        line, column, problem = fault.groups()
        raise ExpressionError(problem, int(line), int(column) - 1) from None

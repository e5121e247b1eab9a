"""What an expression is to the engine: text that was compiled before, computed from the values of one moment.

No library is named here, so that the engine needs none; `expressions.py` compiles the expressions, with CEL.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from pydantic import JsonValue

V = TypeVar("V")


class EvaluationError(ValueError):
    """Compiled, but cannot be computed from these values: the text, and what is missing or wrong."""


class Names:
    """The values that expressions of one moment see. Not changed after it is made, so that evaluations can share it.

    Making a library's own view of the values costs more than an evaluation does; it is made once, when first needed.
    """

    __slots__ = ("_view", "values")

    def __init__(self, values: Mapping[str, JsonValue]) -> None:
        self.values = values
        self._view: tuple[object, Any] | None = None

    def view(self, owner: object, make: Callable[[Mapping[str, JsonValue]], V]) -> V:
        """What `make` makes of the values; kept for all expressions that have the same owner, as those of a workflow do."""
        if self._view is None or self._view[0] is not owner:
            self._view = (owner, make(self.values))
        view: V = self._view[1]
        return view


class Expression(Protocol):
    """A compiled expression. `type_name` is CEL's name of its type, such as `STRING` or `LIST<tutti.OrderLine>`."""

    @property
    def text(self) -> str: ...
    @property
    def type_name(self) -> str: ...
    def evaluate(self, names: Names) -> JsonValue:
        """The value as JSON. Raises EvaluationError where a field is missing or an operation is not possible."""

"""A message to be written, and what takes a step back: the parts of which the steps of a workflow are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import JsonValue, ValidationError

from contracts.message import Message
from orchestrator.names import EvaluationError, Expression, Names


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
class Undo:
    """What takes a step back, who is told when it cannot be, and which answers mean what (wire name to outcome)."""

    template: Template
    answers: Mapping[str, str]
    owner: str
    timeout: timedelta

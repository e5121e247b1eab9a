"""Whether the value of an expression may stand in a field of a message: types compared when a definition is loaded."""

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from orchestrator.descriptors import item_of, scalar_of, without_none
from orchestrator.expressions import Path

_LIST = re.compile(r"LIST<(.*)>")
_SCALARS = {"STRING": "string", "INT": "int", "BOOL": "bool", "DOUBLE": "double"}
ModelOf = Callable[[str], type[BaseModel] | None]


def mismatch(type_name: str, annotation: Any, model_of: ModelOf) -> str | None:
    """Why a value of CEL's type `type_name` cannot stand where `annotation` is asked for; None when it can, or may."""
    wanted, nullable = without_none(annotation)
    if type_name == "DYN" or wanted is Any:
        return None
    if type_name == "NULL":
        return None if nullable else "it is null, and the field must have a value"
    if type_name in _SCALARS:
        scalar = scalar_of(wanted)
        return None if scalar == _SCALARS[type_name] else f"it is a {_SCALARS[type_name]}, the field is {_word(wanted)}"
    inner = _LIST.fullmatch(type_name)
    if inner is not None:
        item = item_of(wanted)
        if item is None:
            return f"it is a list, the field is {_word(wanted)}"
        problem = mismatch(inner.group(1), item, model_of)
        return problem and f"of its items: {problem}"
    if type_name.startswith("MAP<"):
        return None if _is_model(wanted) else f"it is a map, the field is {_word(wanted)}"
    given = model_of(type_name)
    if given is None:
        return f"{type_name} has no form in JSON"
    return _model_mismatch(given, wanted) if _is_model(wanted) else f"it is a {given.__name__}, the field is {_word(wanted)}"


def may_be_null(expression: object, declared: dict[str, type[BaseModel]]) -> bool:
    """Whether a plain path passes a field that may be null. Other expressions are taken at their word."""
    if not isinstance(expression, Path):
        return False
    annotation: Any = declared[expression.parts[0]]
    for part in expression.parts[1:]:
        model, nullable = without_none(annotation)
        if nullable:
            return True
        if not _is_model(model) or part not in model.model_fields:
            return False
        annotation = model.model_fields[part].annotation
    return without_none(annotation)[1]


def allows_null(annotation: Any) -> bool:
    return without_none(annotation)[1]


def _model_mismatch(given: type[BaseModel], wanted: type[BaseModel]) -> str | None:
    """Structures are compared by their fields: what is asked for must be there, what is more is ignored by the receiver."""
    if issubclass(given, wanted):
        return None
    for name, info in wanted.model_fields.items():
        if name not in given.model_fields:
            if info.is_required():
                return f"a {given.__name__} has no `{name}`, which a {wanted.__name__} needs"
            continue
        mine, _ = without_none(given.model_fields[name].annotation)
        theirs, _ = without_none(info.annotation)
        if scalar_of(mine) != scalar_of(theirs):
            return f"`{name}` of a {given.__name__} is {_word(mine)}, a {wanted.__name__} needs {_word(theirs)}"
    return None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _word(annotation: Any) -> str:
    scalar = scalar_of(annotation)
    if scalar is not None:
        return f"a {scalar}" if scalar != "int" else "an int"
    if item_of(annotation) is not None:
        return "a list"
    return f"a {getattr(annotation, '__name__', 'structure')}"

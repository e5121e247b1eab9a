"""Hides personal data in bodies that operators look at. The contracts say which fields are personal; a body may be anything.

By field name, wherever it stands: a broken message says least reliably what it is. A body without such fields is shown byte for byte.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from pydantic_core import from_json, to_json

from contracts.envelope import BODY_BYTES_MAX
from contracts.registry import REGISTRY

MASK: Final = "***"
MARK: Final = "x-personal"


@cache
def personal_fields() -> frozenset[str]:
    """Names of fields that any contract marks as personal."""
    names: set[str] = set()
    for entry in REGISTRY.values():
        names.update(_marked(entry.model.model_json_schema()))
    return frozenset(names)


def mask_body(body: bytes) -> bytes:
    """The body with `***` for personal values; the very same bytes where there are none."""
    if len(body) <= BODY_BYTES_MAX:
        try:
            document = from_json(body)
        except ValueError:
            return _mask_text(body)
        masked = _mask(document)
        return body if masked == document else to_json(masked)
    return _mask_text(body)


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _hidden(found) if name in personal_fields() else _mask(found) for name, found in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value


def _hidden(value: Any) -> Any:
    """A text, or a list of texts; a structure under a name such as `lines` may be something else (an order's)."""
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return _mask(value) if isinstance(value, dict) else value if value is None else MASK


@cache
def _personal_text() -> re.Pattern[bytes]:
    names = b"|".join(re.escape(name.encode()) for name in sorted(personal_fields()))
    text = rb'"(?:[^"\\\n]|\\.){0,2000}"?'
    texts = rb"\[\s{0,20}" + text + rb"(?:\s{0,20},\s{0,20}" + text + rb")*(?:\s{0,20}\])?"
    return re.compile(rb'("(?:' + names + rb')"\s{0,20}:\s{0,20})(?:' + texts + rb"|" + text + rb")")


def _mask_text(body: bytes) -> bytes:
    """For what is no JSON: whatever looks like a personal field with its value."""
    return _personal_text().sub(rb'\1"' + MASK.encode() + rb'"', body)


def _marked(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, described in schema.get("properties", {}).items():
        if _is_personal(described):
            yield name
    for part in _parts(schema):
        yield from _marked(part)


def _is_personal(described: Mapping[str, Any]) -> bool:
    nested = (described.get("items"), *described.get("prefixItems", ()), *described.get("anyOf", ()))
    return bool(described.get(MARK)) or any(isinstance(part, Mapping) and _is_personal(part) for part in nested)


def _parts(schema: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (part for part in schema.get("$defs", {}).values() if isinstance(part, Mapping))

"""Hides personal data in bodies that operators look at.

By field name, wherever it stands; the contracts know the names. What cannot be parsed has no names, and is hidden whole. A body without
personal data is shown byte for byte.
"""

from typing import Any, Final

from pydantic_core import to_json

from contracts.envelope import BODY_BYTES_MAX, parse_object
from contracts.personal import MASK, personal_fields

# Where an envelope keeps its payload. As text it is a body of its own, that nobody has parsed.
_PAYLOADS: Final = frozenset({"data", "data_base64"})


def mask_body(body: bytes) -> bytes:
    """The body with `***` for personal values, or for all of it where it is no JSON object; the very same bytes where there are none."""
    if not body:
        return body
    document = _parsed(body)
    if document is None:
        return MASK.encode()
    masked = {
        name: MASK if name in _PAYLOADS and isinstance(found, str) else _masked(name, found) for name, found in document.items()
    }
    return body if masked == document else to_json(masked)


def _parsed(body: bytes) -> dict[str, Any] | None:
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        # As strictly as a message is read: of two equal keys the parser keeps one, and the bytes would still show the other.
        return parse_object(body)
    except ValueError:
        return None


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(name, item) for item in value]
    if personal_fields().hides(name, value):
        return MASK
    if isinstance(value, dict):
        return {key: _masked(key, item) for key, item in value.items()}
    return value

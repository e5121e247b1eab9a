"""Takes values out of headers that anybody may have written. Nothing here raises: what is of another type is left out, and named."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

COUNT_MAX: Final = 2**31 - 1
NAME_LENGTH_MAX: Final = 255
NESTING_MAX: Final = 20

Choice = TypeVar("Choice", bound=str)


class Fields:
    """Takes values of the wanted type out of a document, and notes which are of another. What is missing is empty, and no fault."""

    def __init__(self, document: Mapping[str, Any], unreadable: set[str], prefix: str = "") -> None:
        self._document = document
        self._unreadable = unreadable
        self._prefix = prefix

    def text(self, name: str) -> str:
        return self.text_or_none(name) or ""

    def text_or_none(self, name: str) -> str | None:
        value = self._document.get(name)
        if value is None or isinstance(value, str):
            return value
        self._note(name)
        return None

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._document.get(name, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        self._note(name)
        return ()

    def choice(self, name: str, choices: tuple[Choice, ...]) -> Choice:
        """The first of them where it is another."""
        value = self._document.get(name, choices[0])
        for one in choices:
            if value == one:
                return one
        self._note(name)
        return choices[0]

    def count(self, name: str, least: int = 0) -> int:
        found = count(self._document.get(name, least))
        if found is None:
            self._note(name)
        return max(found or 0, least)

    def moment(self, name: str) -> datetime | None:
        value = self._document.get(name)
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
            if moment is not None and moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        if value is not None:
            self._note(name)
        return None

    def table(self, name: str) -> dict[str, Any]:
        value = self._document.get(name, {})
        if isinstance(value, Mapping):
            return printable_headers(value)
        self._note(name)
        return {}

    def _note(self, name: str) -> None:
        self._unreadable.add(self._prefix + name)


def json_object(value: object) -> Mapping[str, Any] | None:
    """The JSON object in a header's text; None for anything else."""
    try:
        document = json.loads(value) if isinstance(value, str | bytes) else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def count(value: object) -> int | None:
    """A number that a row takes, the nearest one where it is too small or too large; None for anything else."""
    return min(max(value, 0), COUNT_MAX) if isinstance(value, int) and not isinstance(value, bool) else None


def printable_headers(headers: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Headers as JSON values; what JSON lacks becomes text, and tables nested deeper than 20 are cut."""
    return {str(name)[:NAME_LENGTH_MAX]: _printable(value, depth) for name, value in headers.items()}


def _printable(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth >= NESTING_MAX:
        return "(nested deeper than 20)"
    if isinstance(value, Mapping):
        return printable_headers(value, depth + 1)
    if isinstance(value, list | tuple):
        return [_printable(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value)

"""Reads properties and headers that the library cannot: a publisher's bad bytes must not end its readers' connections.

The broker does not look into a message's properties. A `timestamp` in nanoseconds, a content type that is not UTF-8 or a header
of an unknown type arrives as it was sent, and pamqp then fails for the frame, and aiormq for the connection with all its
consumers, again and again. Here such a value becomes text or a marker, and the message gets as far as its decoder, which says what
is wrong with it. Frames that pamqp can read are read as before.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import decode

UNREADABLE: Final = "x-unreadable"
TEXT_LENGTH_MAX: Final = 200

Decoder = Callable[[bytes], tuple[int, Any]]


def install() -> None:
    """Replaces pamqp's readers of text, times and tables for this process. Repeating it changes nothing."""
    for name, replacement in (
        ("shortstr", short_text),
        ("timestamp", moment),
        ("table", table),
        ("array", array),
    ):
        decode.METHODS[name] = replacement
    for code, replacement in ((b"T", moment), (b"F", table), (b"A", array)):
        decode.TABLE_MAPPING[code] = replacement


def short_text(value: bytes) -> tuple[int, str]:
    """A short string; bytes that are not UTF-8 show as `\\xff`."""
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "backslashreplace")


def moment(value: bytes) -> tuple[int, datetime]:
    """A time; one that no calendar has is the beginning of the epoch."""
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, datetime.fromtimestamp(0, tz=UTC)


def table(value: bytes) -> tuple[int, Any]:
    """A table, or where any of it cannot be read, one marker in its place. Its length stands before it, so what follows is safe."""
    return _or_marker(decode.field_table, value, lambda why: {UNREADABLE: why})


def array(value: bytes) -> tuple[int, Any]:
    """As `table`."""
    return _or_marker(decode.field_array, value, lambda why: [{UNREADABLE: why}])


def _or_marker(reader: Decoder, value: bytes, marker: Callable[[str], Any]) -> tuple[int, Any]:
    try:
        return reader(value)
    except (ValueError, OverflowError, OSError, RecursionError, struct.error) as error:
        length = int(struct.unpack(">I", value[:4])[0])
        return length + 4, marker(f"{type(error).__name__}: {error}"[:TEXT_LENGTH_MAX])

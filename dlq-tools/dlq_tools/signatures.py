"""Which dead letters are the same fault: queue, type, error class, message without its values, innermost frames of our code."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

FRAMES_MAX: Final = 3
MESSAGE_LENGTH_MAX: Final = 300

_QUOTED: Final = re.compile(r"'[^']{0,500}'|\"[^\"]{0,500}\"")
# Hexadecimal ids, UUIDs, and ids with a prefix: ord_01jc..., C-17, PO-1001, saga:step.
_ID: Final = re.compile(r"\b[A-Za-z]{1,20}[-_][\w-]{0,100}\d[\w-]{0,100}|\b[0-9a-fA-F]{8}[0-9a-fA-F-]{4,100}\b")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_FRAME: Final = re.compile(r'File "((?:services|orchestrator|contracts|infra|dlq_tools)/[^"]{1,200})", line \d+, in (\S{1,100})')


@dataclass(frozen=True, slots=True)
class Signature:
    """`group` is its short name, `text` what a person reads."""

    group: str
    text: str


def sign(*, queue: str, type: str, error_class: str, error: str, trace: str) -> Signature:
    """The signature of a failure. Line numbers do not count, so that an edit elsewhere in a file keeps the group."""
    message = normalised(error)
    frames = [f"{path}:{function}" for path, function in _FRAME.findall(trace)][-FRAMES_MAX:]
    parts = (queue, type, error_class, message, *frames)
    return Signature("g_" + sha256("\0".join(parts).encode()).hexdigest()[:16], f"{error_class}: {message}")


def normalised(error: str) -> str:
    """The message with quoted values, ids and numbers taken out."""
    text = _QUOTED.sub("'…'", error[: 2 * MESSAGE_LENGTH_MAX])
    return _NUMBER.sub("#", _ID.sub("#", text))[:MESSAGE_LENGTH_MAX]

"""The headers by which a request says how it wants to be handled: Idempotency-Key, Prefer, If-None-Match."""

import re
from typing import Final

from starlette.datastructures import Headers

from services.ingress.http.problems import Problem

KEY_LENGTH_MAX: Final = 255
_QUOTED: Final = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?')


def idempotency_key(headers: Headers) -> str:
    """The key, whether it was sent quoted (a structured-field string, RFC 9651) or bare. Raises Problem."""
    values = headers.getlist("idempotency-key")
    text = values[0].strip(" \t") if values else ""
    if text in ("", '""'):
        raise Problem("idempotency-key-missing", "Send an Idempotency-Key with every order.")
    if len(values) > 1:
        raise Problem("idempotency-key-invalid", "There is more than one Idempotency-Key header.")
    if text.startswith('"'):
        match = _QUOTED.fullmatch(text)
        key = re.sub(r"\\(.)", r"\1", match[1]) if match else ""
    else:
        key = text if _BARE.fullmatch(text) and "," not in text else ""
    if not key or len(key) > KEY_LENGTH_MAX:
        raise Problem(
            "idempotency-key-invalid",
            f"The Idempotency-Key must have 1 to {KEY_LENGTH_MAX} printable ASCII characters; bare ones no comma.",
        )
    return key


def preferred_wait(headers: Headers, most: int) -> int | None:
    """How many seconds the client would wait (RFC 7240), at most `most`; None without a wish, or with a malformed one."""
    for value in headers.getlist("prefer"):
        for preference in value.split(","):
            match = _WAIT.fullmatch(preference.split(";", 1)[0].strip().lower())
            if match:
                # The first one counts (RFC 7240, section 2).
                return min(int(match[1]), most) or None
    return None


def is_known(etag: str, headers: Headers) -> bool:
    """Whether the client has this representation already (If-None-Match, weak comparison, RFC 9110 13.1.2)."""
    known = [tag.strip() for value in headers.getlist("if-none-match") for tag in value.split(",")]
    return "*" in known or etag in (tag.removeprefix("W/") for tag in known)

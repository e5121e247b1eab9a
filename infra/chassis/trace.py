"""W3C Trace Context, carried in messages: the same trace, a new span for each message that follows."""

import re
import secrets
from typing import Final

_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$")


def continued(traceparent: str | None) -> str | None:
    """The traceparent of a message caused by one with the given traceparent; None stays None, and so does what is malformed."""
    if traceparent is None:
        return None
    found = _TRACEPARENT.match(traceparent)
    return f"00-{found[1]}-{secrets.token_hex(8)}-{found[2]}" if found else None


def started() -> str:
    """A new trace, for work that begins here."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"

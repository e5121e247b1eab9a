"""The only failures that the loop knows.

    Failure
    ├── Transient   a dependency is slow, busy or away: the message waits as a retry row, then becomes a dead letter
    └── Permanent   the message can never be handled as it is: a dead letter at once
        └── UnknownVersion   known name, unknown version: waits as a retry, an older replica must not bury it

A business "no" is neither: it is an answer. Adapters raise Transient, and so does the chassis for a call without an answer. A decision
raises Permanent; any other exception of it is permanent as well.
"""


class Failure(Exception):
    """Base of both kinds. The text says what happened, to what, and what to do next."""


class Transient(Failure):
    """Worth trying again later, without anybody's help. `retry_after_seconds` is what the dependency asked for."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Permanent(Failure):
    """Will fail in the same way however often it is tried."""


class UnknownVersion(Permanent):
    """A newer sender speaks a version that this process has not learnt yet."""

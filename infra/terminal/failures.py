"""Why a command cannot go on. The text says what happened and what to type next; the class decides the exit code.

Failure        1  it ran, and failed
├── Misused      2  asked for in a way that means nothing
├── NotFound     3  nothing matches
├── NotAllowed   4  refused by policy or permission
└── Unreachable  5  no answer, or an answer that makes no sense
"""

from typing import ClassVar

from infra.terminal.exit_codes import ExitCode


class Failure(Exception):
    """Ends a command with its exit code. Telling people and programs of it is left to `speaking`."""

    code: ClassVar[ExitCode] = ExitCode.SOME_FAILED


class Misused(Failure):
    """What was asked for is not understood."""

    code = ExitCode.USAGE


class NotFound(Failure):
    """Nothing matches."""

    code = ExitCode.NOTHING_MATCHED


class NotAllowed(Failure):
    """Refused by policy or permission."""

    code = ExitCode.REFUSED


class Unreachable(Failure):
    """The system gives no answer, or its address cannot be found out."""

    code = ExitCode.UNREACHABLE

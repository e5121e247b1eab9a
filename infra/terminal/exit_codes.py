"""What a program is told when a command ends: the same six numbers for `tutti`, `dlq` and the jobs."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Scripts are written against the numbers; another number would be another version of the command."""

    DONE = 0
    SOME_FAILED = 1
    """It ran, but some items failed."""
    USAGE = 2
    NOTHING_MATCHED = 3
    REFUSED = 4
    """By policy or permission."""
    UNREACHABLE = 5
    """The system cannot be reached."""

"""Options that select dead letters."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from infra.terminal.failures import Misused


class StateName(StrEnum):
    """States that a dead letter can be in."""

    OPEN = "open"
    REPLAYING = "replaying"
    RESOLVED = "resolved"
    DISCARDED = "discarded"
    PARKED = "parked"


Queue = Annotated[str | None, typer.Option("--queue", help="Only of this queue, for example credit.commands.")]
Type = Annotated[
    str | None,
    typer.Option("--type", help="Only messages of this type, for example credit.reserve-credit.v1."),
]
Group = Annotated[str | None, typer.Option("--group", help="Only with this signature.")]
OfState = Annotated[StateName | None, typer.Option("--state", help="Only in this state.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only what failed since: 2026-11-21, 2026-11-21T10:05:00Z, or 30m, 24h, 7d ago."),
]
Correlation = Annotated[str | None, typer.Option("--correlation-id", help="Only of this process.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters by id.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that this can be done with.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=10_000, help="At most so many, the oldest first.")]


def filters(
    queue: Queue = None,
    type: Type = None,
    group: Group = None,
    state: OfState = None,
    since: Since = None,
    correlation_id: Correlation = None,
) -> dict[str, Any]:
    """What narrows a list of dead letters, as the API's parameters. Raises Misused for a time that is none."""
    asked = {
        "queue": queue,
        "type": type,
        "group": group,
        "state": state,
        "since": _since(since),
        "correlation_id": correlation_id,
    }
    return {name: value for name, value in asked.items() if value is not None}


_AGE: Final = re.compile(r"^(\d{1,5})([smhd])$")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _since(given: str | None) -> str | None:
    """A moment as the API takes it. A date or time without an offset is UTC."""
    if given is None:
        return None
    age = _AGE.match(given)
    if age:
        return (datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})).isoformat()
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise Misused(f"--since: {given!r} is no time; write 2026-11-21, 2026-11-21T10:05:00Z, or 24h") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()

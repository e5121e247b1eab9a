"""Which dead letters are meant, as a condition in SQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant. None means any; `ids`, where given, restricts to these."""

    ids: tuple[str, ...] | None = None
    queue: str | None = None
    type: str | None = None
    group: str | None = None
    state: str | None = None
    since: datetime | None = None
    correlation_id: str | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """A condition made of fixed parts, and its values."""
        conditions, values = ["state <> 'announced'"], {}
        for name, condition in _CONDITIONS.items():
            value = getattr(self, name)
            if value is not None:
                conditions.append(condition)
                values[name] = list(value) if name == "ids" else value
        return " AND ".join(conditions), values


_CONDITIONS: Final[Mapping[str, str]] = {
    "ids": "id = ANY(CAST(:ids AS text[]))",
    "queue": "queue = :queue",
    "type": "type = :type",
    "group": "group_id = :group",
    "state": "state = :state",
    "since": "last_failed_at >= :since",
    "correlation_id": "correlation_id = :correlation_id",
}

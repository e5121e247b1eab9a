"""What is kept of a screening: enough to repeat it against the same lists, and no names."""

from dataclasses import dataclass
from datetime import datetime

from services.compliance.domain import Outcome


@dataclass(frozen=True, slots=True)
class ScreeningRecord:
    """One order's verdict, as it was answered. It rests on the lists of that version."""

    operation_id: str
    order_id: str
    list_version: str
    verdict: Outcome
    best_score: int | None
    at: datetime

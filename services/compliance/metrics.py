"""What compliance tells Prometheus."""

from typing import Final

from prometheus_client import Gauge

LISTS_REFUSED: Final = Gauge(
    "tutti_screening_lists_refused",
    "1 while the newest list files are refused and older lists stay in force; see runbooks/lists-refused.md",
)

"""What the orchestrator's decisions leave to be written beside the instances."""

from dataclasses import dataclass
from datetime import datetime

from orchestrator.engine import History


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One line of a saga's history, and when it was written."""

    saga_id: str
    at: datetime
    line: History


@dataclass(frozen=True, slots=True)
class ActVerdict:
    """What became of an operator's act: accepted, or refused with the reason."""

    act_id: str
    at: datetime
    accepted: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody asks of a saga. Only `cancel` exists so far."""

    kind: str
    reason: str
    actor: str

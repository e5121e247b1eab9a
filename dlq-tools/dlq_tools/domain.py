"""A dead letter's life: which failures, proofs and operator's acts lead to which state.

    (proof first) announced ──failure before the proof──> resolved
                      │ failure
                      ▼          replay              proof
                    open ──────────────> replaying ──────────> resolved
                    │  ▲ └──discard──> discarded │                │
                    │  └──failed again───────────┘                │
                    │  ▲───────────────a later failure────────────┘ (of discarded, too)
                    └──a re-send succeeded──> resolved

Failures and proofs of one dead letter come from one consumer, and carry the time of its transaction. They reach the desk over two
queues, in any order, so that order is decided by these times and not by arrival.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

# Words of `deadletters.replay-handled.v1`. An absorbed replay waits behind something unfinished; a dropped one was not looked at.
PROOFS: Final = frozenset({"ran", "answered-again", "superseded", "tombstoned"})


class State(StrEnum):
    """`announced` is never shown: a proof has come before the failure that it proves dealt with."""

    ANNOUNCED = "announced"
    OPEN = "open"
    REPLAYING = "replaying"
    RESOLVED = "resolved"
    DISCARDED = "discarded"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What decides about a dead letter. `attempts` counts every try of every delivery, `replays` those sent by the desk."""

    id: str
    state: State = State.ANNOUNCED
    attempts: int = 0
    replays: int = 0
    failed_at: datetime | None = None
    replayed_at: datetime | None = None
    proved_at: datetime | None = None

    def fail(self, *, attempts: int, replay: int, at: datetime) -> tuple["DeadLetter", str]:
        """After a failure, with the word for its history. `replay` is the how-manieth replay failed, 0 for none."""
        latest = max(at, self.failed_at) if self.failed_at else at
        after = replace(self, attempts=self.attempts + attempts, failed_at=latest)
        if self.proved_at is not None and at <= self.proved_at:
            known = self.state if self.state is not State.ANNOUNCED else State.RESOLVED
            return replace(after, state=known), "failed-before-proof"
        match self.state:
            case State.ANNOUNCED:
                return replace(after, state=State.OPEN), "opened"
            case State.OPEN | State.PARKED:
                return after, "failed-again"
            case State.REPLAYING:
                if replay < self.replays:
                    return after, "failed-again"
                return replace(after, state=State.OPEN), "replay-failed"
            case State.RESOLVED | State.DISCARDED:
                return replace(after, state=State.OPEN), "reopened"

    def prove(self, *, verdict: str, at: datetime) -> tuple["DeadLetter", str]:
        """After a consumer's word on a replay or a re-send, with the word for its history."""
        if verdict not in PROOFS:
            return self, f"not-resolved-{verdict}"
        latest = max(at, self.proved_at) if self.proved_at else at
        after = replace(self, proved_at=latest)
        if self.failed_at is not None and at < self.failed_at:
            return after, "proved-before-failure"
        if self.state in (State.OPEN, State.REPLAYING, State.PARKED):
            return replace(after, state=State.RESOLVED), "resolved"
        return after, "proved"

    def replay(self, *, now: datetime, patience: timedelta) -> "DeadLetter | Refused":
        """Sent again: from `open`, or from `replaying` when the last replay has been without a result for `patience`."""
        if self.state is State.REPLAYING and not self._waits_too_long(now, patience):
            return Refused(
                f"it is being replayed; without a result it may be replayed again {patience.total_seconds():.0f} s after the last time"
            )
        if self.state not in (State.OPEN, State.REPLAYING):
            return Refused(f"it is {self.state}; only an open dead letter can be replayed")
        return replace(self, state=State.REPLAYING, replays=self.replays + 1, replayed_at=now)

    def discard(self, *, now: datetime, patience: timedelta) -> "DeadLetter | Refused":
        """Given up by an operator, who says why. A later failure opens it again."""
        if self.state is State.REPLAYING and not self._waits_too_long(now, patience):
            return Refused("it is being replayed; wait for the result")
        if self.state not in (State.OPEN, State.PARKED, State.REPLAYING):
            return Refused(f"it is {self.state}; only an open or parked dead letter can be discarded")
        return replace(self, state=State.DISCARDED)

    def _waits_too_long(self, now: datetime, patience: timedelta) -> bool:
        return self.replayed_at is None or now - self.replayed_at >= patience


@dataclass(frozen=True, slots=True)
class Refused:
    """An operator's act that is not done, and why not."""

    reason: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a dead letter's history; never changed or deleted. `detail` is a JSON object."""

    dead_letter_id: str
    at: datetime
    what: str
    actor: str
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplayEnd:
    """What became of replays of a dead letter, up to and with the given one."""

    dead_letter_id: str
    replay: int
    outcome: str

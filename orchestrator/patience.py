"""How long anything is waited for and how often it is tried again: what a definition says, and what no definition says."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

# Full jitter may draw zero; a timer must still lie in the future.
RETRY_DELAY_MIN: Final = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Retry:
    """When to send again: at most `attempts` in all, after growing pauses, and not later than `budget` after the first."""

    attempts: int = 1
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    most: timedelta = timedelta(minutes=1)
    jitter: bool = True
    budget: timedelta | None = None

    def delay(self, attempts: int, random: float) -> timedelta:
        """The pause after so many attempts. `random` in [0, 1) spreads it over the whole span (full jitter)."""
        # 2**64 is past any `most`; without the bound a long outage would overflow the float.
        longest = min(self.most.total_seconds(), self.first.total_seconds() * self.factor ** min(attempts - 1, 64))
        return max(RETRY_DELAY_MIN, timedelta(seconds=longest * (random if self.jitter else 1.0)))

    def patience(self, timeout: timedelta) -> timedelta:
        """The longest time from the first attempt to giving up."""
        waits = sum((self.delay(number, 1.0) for number in range(1, self.attempts)), start=timedelta())
        whole = timeout * self.attempts + waits
        return whole if self.budget is None else min(whole, self.budget + timeout)


@dataclass(frozen=True, slots=True)
class Limits:
    """What no definition says. `undo` is how often an undo is sent before a person is asked; `persist` paces steps beyond the
    pivot that have no `retry` of their own (its attempts do not count); `owner` answers for what has no owner."""

    undo: Retry = field(default_factory=lambda: Retry(attempts=8, most=timedelta(minutes=5)))
    persist: Retry = field(default_factory=lambda: Retry(most=timedelta(minutes=5)))
    alert_every: timedelta = timedelta(minutes=15)
    owner: str = "order-desk"

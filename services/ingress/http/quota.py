"""How many requests a partner may send, per process, and the headers that say so (draft ratelimit-headers-10)."""

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

_WINDOW_SECONDS: Final = 60
# The draft names its policies; ours is one per partner.
_POLICY: Final = '"requests"'


@dataclass(frozen=True, slots=True)
class Quota:
    """Where a client stands within the quota, after this request."""

    per_minute: int
    remaining: int
    reset_seconds: int
    allowed: bool

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return (
            (b"ratelimit-policy", f"{_POLICY};q={self.per_minute};w={_WINDOW_SECONDS}".encode()),
            (b"ratelimit", f"{_POLICY};r={self.remaining};t={self.reset_seconds}".encode()),
        )


class Quotas:
    """Counts requests in a window that moves with time.

    The counter form of the moving window: the list form keeps each of 60,000 requests, and its storage hands the
    clearing to a thread with every request.
    """

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def hit(self, name: str, per_minute: int) -> Quota:
        """Counts one request of `name`; one that is not allowed is not counted."""
        item = _limit(per_minute)
        allowed = await self._limiter.hit(item, name)
        return await self._quota(item, name, allowed=allowed)

    async def look(self, name: str, per_minute: int) -> Quota:
        """Where `name` stands, without counting."""
        item = _limit(per_minute)
        return await self._quota(item, name, allowed=await self._limiter.test(item, name))

    async def _quota(self, item: RateLimitItem, name: str, *, allowed: bool) -> Quota:
        stats = await self._limiter.get_window_stats(item, name)
        seconds = min(max(math.ceil(stats.reset_time - time.time()), 1), _WINDOW_SECONDS)
        return Quota(item.amount, stats.remaining, seconds, allowed)


@cache
def _limit(per_minute: int) -> RateLimitItem:
    return RateLimitItemPerMinute(per_minute)

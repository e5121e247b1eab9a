"""Requests that wait for an order's end (`Prefer: wait`), and how they hear of it.

The loop tells of the ends that this process' consumer has committed. The order itself is read from the database all the same,
so that a GET right after the answer cannot say less. Ends that another replica heard are found by asking for all waiting orders
at once, every `finish_poll_seconds`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from services.ingress.domain import NaturalKey, Order, Submission

_AGAIN_SECONDS: Final = 0.01

Read = Callable[[Sequence[str]], Awaitable[Sequence[Order]]]


class Finishes:
    """The waiting requests of one process."""

    def __init__(self, *, poll_seconds: float, waiters_max: int) -> None:
        self._poll_seconds = poll_seconds
        self._waiters_max = waiters_max
        self._waiting: dict[str, asyncio.Future[Order | None]] = {}
        self._waiters: Counter[str] = Counter()
        self._announced: set[str] = set()
        self._news = asyncio.Event()
        self._released = False

    def committed(self, changed: Mapping[str | NaturalKey, Order | Submission | None], facts: Sequence[object]) -> None:
        """`Consumer.committed`: some of these orders may have ended."""
        self.announce([order.order_id for order in changed.values() if isinstance(order, Order) and order.finished])

    def announce(self, order_ids: Sequence[str]) -> None:
        """These orders have ended, and can be read."""
        news = [order_id for order_id in order_ids if order_id in self._waiting]
        if news:
            self._announced.update(news)
            self._news.set()

    async def wait(self, order_id: str, seconds: float) -> Order | None:
        """The order once it has ended; None when it has not within `seconds`, or too many wait already."""
        if self._released or self._waiters.total() >= self._waiters_max:
            return None
        future = self._waiting.setdefault(order_id, asyncio.get_running_loop().create_future())
        self._waiters[order_id] += 1
        if self._waiters.total() == 1:
            self._news.set()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(future)
        except TimeoutError:
            return None
        finally:
            self._waiters[order_id] -= 1
            if not self._waiters[order_id]:
                del self._waiters[order_id]
                self._waiting.pop(order_id, None)
                self._announced.discard(order_id)

    def release(self) -> None:
        """Ends the looking: every waiting request is told that its order has not ended yet."""
        self._released = True
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    async def run(self, read: Read) -> None:
        """Looks for ends as long as the process lives. `read` yields those of the given orders that have ended."""
        polled_at = time.monotonic()
        delay = 0.0
        while True:
            await self._pause(delay)
            if time.monotonic() - polled_at >= self._poll_seconds:
                polled_at = time.monotonic()
                wanted = list(self._waiting)
            else:
                wanted = list(self._announced)
            found = await self._look(read, wanted)
            # While the database cannot be asked, nothing is found of what was announced.
            patient = bool(self._announced) and not found
            delay = min(max(delay * 2, _AGAIN_SECONDS), self._poll_seconds) if patient else 0.0

    async def _pause(self, delay: float) -> None:
        """Returns when there is something to look for: at once for what was announced, otherwise with the next poll."""
        if not self._waiting:
            self._news.clear()
            await self._news.wait()
        if self._announced:
            await asyncio.sleep(delay)
            return
        self._news.clear()
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def _look(self, read: Read, order_ids: Sequence[str]) -> bool:
        if not order_ids:
            return False
        ended = await read(order_ids)
        for order in ended:
            self._announced.discard(order.order_id)
            future = self._waiting.get(order.order_id)
            if future is not None and not future.done():
                future.set_result(order)
        return bool(ended)

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from services.ingress.domain import NaturalKey, Order
from services.ingress.finishes import Finishes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_SECONDS = 30.0


def ended(order_id: str) -> Order:
    return Order(order_id, NaturalKey("acme", "PO-1", "C-1", 0), "saga", NOW, status="completed", finished_at=NOW)


class Ends:
    """What has ended according to the database, and how often it was asked for what."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.asked: list[Sequence[str]] = []
        self.looked = asyncio.Event()

    async def read(self, order_ids: Sequence[str]) -> Sequence[Order]:
        self.asked.append(sorted(order_ids))
        self.looked.set()
        return [self.orders[order_id] for order_id in order_ids if order_id in self.orders]


@asynccontextmanager
async def running(finishes: Finishes, ends: Ends) -> AsyncIterator[None]:
    task = asyncio.create_task(finishes.run(ends.read))
    try:
        yield
    finally:
        task.cancel()


async def test_an_announced_end_is_told_once_it_can_be_read() -> None:
    finishes, ends = Finishes(poll_seconds=LONG_SECONDS, waiters_max=10), Ends()
    async with running(finishes, ends), asyncio.timeout(10):
        waiting = asyncio.create_task(finishes.wait("a", LONG_SECONDS))
        await asyncio.sleep(0)
        finishes.announce(["a"])
        # Announced, but the database cannot be asked: nothing is to be seen yet.
        await ends.looked.wait()
        assert not waiting.done()
        ends.orders["a"] = ended("a")

        assert await waiting == ends.orders["a"]


async def test_an_end_that_nobody_announced_is_found_by_asking() -> None:
    finishes, ends = Finishes(poll_seconds=0.01, waiters_max=10), Ends()
    async with running(finishes, ends), asyncio.timeout(10):
        waiting = [asyncio.create_task(finishes.wait(order_id, LONG_SECONDS)) for order_id in ("a", "b", "b")]
        ends.orders = {"b": ended("b")}

        assert await waiting[1] == await waiting[2] == ends.orders["b"]
        assert not waiting[0].done()
        assert ["a", "b"] in ends.asked
        waiting[0].cancel()


async def test_who_waits_in_vain_is_told_so() -> None:
    finishes = Finishes(poll_seconds=LONG_SECONDS, waiters_max=10)

    assert await finishes.wait("a", 0.01) is None


async def test_only_so_many_wait() -> None:
    finishes = Finishes(poll_seconds=LONG_SECONDS, waiters_max=1)
    first = asyncio.create_task(finishes.wait("a", LONG_SECONDS))
    await asyncio.sleep(0)

    assert await finishes.wait("b", LONG_SECONDS) is None
    first.cancel()


async def test_nobody_is_kept_waiting_when_the_process_stops() -> None:
    finishes = Finishes(poll_seconds=LONG_SECONDS, waiters_max=10)
    waiting = asyncio.create_task(finishes.wait("a", LONG_SECONDS))
    await asyncio.sleep(0)

    finishes.release()

    assert await waiting is None
    assert await finishes.wait("b", LONG_SECONDS) is None


async def test_nothing_is_asked_for_that_nobody_waits_for() -> None:
    finishes, ends = Finishes(poll_seconds=0.001, waiters_max=10), Ends()
    async with running(finishes, ends):
        finishes.announce(["a"])
        assert await finishes.wait("b", 0.02) is None

    assert ends.asked
    assert all(asked == ["b"] for asked in ends.asked)

"""A process that dies at a named place between any two writes, with a second one beside it that goes on: no half work, nothing twice.

The armed replica shares the queues with the supervised one, so that what it leaves behind is taken over while work goes on. Starting
again alone is what test_killed_in_turn.py shows.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from infra.chassis.crash_points import POINTS
from tests.support.breakage import every, replica, whole
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.workload import Partner, Wanted, orders

Deaths = Sequence[tuple[str, str]]

SERVICES = ("orchestrator", "ingress", "credit", "fulfillment")
# What dies at the same time: rounds of (service, point).
COMMITS = [[(service, point) for service in SERVICES] for point in ("before-commit", "after-commit", "after-acknowledge")]
PUBLISHING = [[(service, point) for service in SERVICES] for point in ("before-publish", "after-publish", "after-delete")]
CALLS = [[*(("fulfillment", point) for point in ("before-call", "after-call", "after-claim")), ("orchestrator", "after-claim")]]
# Where a process comes by seldom, the first time counts.
PASSAGES = {"before-call": 2, "after-call": 2, "after-claim": 1}
PASSAGES_ELSE = 3
ORDERS, PER_SECOND, TURNS_MAX = 40, 20.0, 20
DEATH_SECONDS = 10.0
FIRING_SECONDS, FIRINGS_MAX = 0.1, 1000
# Waits for nobody, and so cannot deadlock with a batch of the orchestrator; what is locked now goes off the next time.
FIRE = """
    UPDATE orchestrator.workflow_instance SET next_timer_at = now()
    WHERE saga_id = ANY(ARRAY(SELECT saga_id FROM orchestrator.workflow_instance WHERE NOT finished FOR UPDATE SKIP LOCKED))
"""


def test_no_named_place_is_left_out() -> None:
    assert {point for rounds in (COMMITS, PUBLISHING, CALLS) for one in rounds for _, point in one} == set(POINTS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [COMMITS, PUBLISHING, CALLS], ids=["commits", "publishing", "calls-and-claims"])
async def test_dying_at_a_named_place_loses_and_doubles_nothing(
    fragile: Platform, history: History, seed: int, tmp_path: Path, rounds: Sequence[Deaths]
) -> None:
    await whole(fragile)
    wanted: list[Wanted] = []
    for number, deaths in enumerate(rounds):
        wanted += await _load_until_dead(fragile, history, deaths, tmp_path, seed + number * TURNS_MAX)
    await drained(fragile)

    await check(fragile, wanted, history)
    assert len(history.faults) == sum(map(len, rounds))


async def _load_until_dead(platform: Platform, history: History, deaths: Deaths, directory: Path, seed: int) -> list[Wanted]:
    """Orders until each armed replica has died; which of two processes comes by its place is chance."""
    wanted: list[Wanted] = []
    with ExitStack() as stack:
        armed = [
            stack.enter_context(
                replica(
                    platform,
                    [service],
                    directory,
                    {"TUTTI_CRASH_POINT": f"{service}:{point}:{PASSAGES.get(point, PASSAGES_ELSE)}"},
                )
            )
            for service, point in deaths
        ]
        await asyncio.gather(*(one.ready() for one in armed))
        urls = [platform.addresses["ingress"], *(one.urls["ingress"] for one in armed if "ingress" in one.urls)]
        partner = Partner(platform.addresses["partners"]["acme"]["api_key"], urls, history)
        async with _timers_going_off(platform):
            for turn in range(TURNS_MAX):
                more = orders(seed + turn, ORDERS, f"{deaths[0][1]}-{seed + turn}", regretted=0.3)
                wanted += more
                await partner.run(more, per_second=PER_SECOND)
                if all(one.process.poll() is not None for one in armed):
                    break
        for one, (service, point) in zip(armed, deaths, strict=True):
            await one.died(within=DEATH_SECONDS)
            history.fault(f"{service} died at {point}")
    return wanted


@asynccontextmanager
async def _timers_going_off(platform: Platform) -> AsyncIterator[None]:
    """Timers fire again and again, long before their moment: there is something to claim for every replica, and nothing to do."""

    async def fire() -> None:
        database = await asyncpg.connect(platform.addresses["database"])
        try:
            for _ in range(FIRINGS_MAX):
                await database.execute(FIRE)
                await every(FIRING_SECONDS)
        finally:
            await database.close()

    firing = asyncio.create_task(fire())
    try:
        yield
    finally:
        firing.cancel()
        with suppress(asyncio.CancelledError):
            await firing

"""Parts that stand still for a while: the broker under a memory alarm, the orchestrator with answers queued and timers due."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import httpx2
import pytest

from tests.support.breakage import every, frozen, whole
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.servers import TestBroker, TestServers
from tests.support.waiting import wait_until
from tests.support.workload import Partner, orders

ALARM_SECONDS = 6.0
# Longer than the patience of every step (30 s), so that each of them is due when the orchestrator comes back.
PAUSE_SECONDS = 35.0


def broker_of(platform: Platform) -> TestBroker:
    found = platform.addresses
    return TestBroker(TestServers(platform.home, found["broker"], found["management"], found["database"], None), "/")


async def test_a_memory_alarm_loses_nothing_and_partners_are_answered(fragile: Platform, history: History, seed: int) -> None:
    await whole(fragile)
    wanted = orders(seed, 80, f"alarm-{seed}")
    partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], [fragile.addresses["ingress"]], history)

    async with broker_of(fragile).memory_alarm():
        load = asyncio.create_task(partner.run(wanted, per_second=len(wanted) / ALARM_SECONDS))
        await every(ALARM_SECONDS)
        unpublished = await _one(fragile, "SELECT count(*) FROM ingress.outbox")
        history.fault("memory alarm")
    await load
    await drained(fragile)

    await check(fragile, wanted, history)
    answers = {how for unknown in history.unknowns.values() for how in unknown}
    assert answers <= {"HTTP 503"}, "a partner was left without an answer"
    assert unpublished > 0, "the alarm stopped nothing"


@pytest.mark.timeout(300)
async def test_no_order_fails_because_the_orchestrator_was_away(fragile: Platform, history: History, seed: int) -> None:
    await whole(fragile)
    wanted = orders(seed, 60, f"pause-{seed}")
    partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], [fragile.addresses["ingress"]], history)

    async with AsyncExitStack() as away:
        async with frozen(fragile, "compliance", history):
            # Nobody is screened meanwhile, so that orders are under way, and have timers, when the orchestrator stops.
            await partner.run(wanted, per_second=30)
            await wait_until(lambda: _all_begun(fragile, seed, len(history.ids)), within=30, what="each order has its process")
            await away.enter_async_context(frozen(fragile, "orchestrator", history))
        queued = await wait_until(lambda: _queued(fragile), within=20, what="answers in the orchestrator's queue", every=0.2)
        await every(PAUSE_SECONDS)
        due = await _one(
            fragile, "SELECT count(*) FROM orchestrator.workflow_instance WHERE NOT finished AND next_timer_at < now()"
        )
    await drained(fragile)

    await check(fragile, wanted, history)
    assert queued > 0
    assert due > 0, "no timer was due"
    resent = await _one(
        fragile,
        "SELECT count(*) FROM orchestrator.workflow_history JOIN ingress.partner_order ON correlation_id = saga_id"
        f" WHERE order_number LIKE 'pause-{seed}-%' AND kind IN ('backing-off', 'dead-lettered', 'unwinding')"
        " AND workflow_history.detail::text NOT LIKE '%refused%' AND status = 'completed'",
    )
    assert resent == 0, "a timer overtook an answer that was in the queue"


async def _one(platform: Platform, query: str) -> int:
    database = await asyncpg.connect(platform.addresses["database"])
    try:
        return int(await database.fetchval(query))
    finally:
        await database.close()


async def _all_begun(platform: Platform, seed: int, accepted: int) -> bool:
    processes = await _one(
        platform,
        "SELECT count(*) FROM orchestrator.workflow_instance JOIN ingress.partner_order ON correlation_id = saga_id"
        f" WHERE order_number LIKE 'pause-{seed}-%'",
    )
    return processes >= accepted > 0


async def _queued(platform: Platform) -> int:
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as client:
        answer = await client.get(f"{platform.addresses['management']}/api/queues/%2F/orchestrator.events")
    return int(answer.json().get("messages", 0))

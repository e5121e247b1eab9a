"""Every command and every event once, twice or three times more, shuffled: one effect each. On two replicas of every service."""

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest

from tests.support.breakage import replica, whole
from tests.support.echo import echoing
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.workload import Partner, orders

WORKERS = ("credit", "inventory", "compliance", "pricing", "fulfillment")
ORDERS, PER_SECOND = 120, 15.0


@pytest.mark.timeout(300)
async def test_two_replicas_hear_everything_several_times(fragile: Platform, history: History, seed: int, tmp_path: Path) -> None:
    """Do and undo of one step come to two processes at the same moment (partners cancel at once), each of them more than once."""
    await whole(fragile)
    wanted = orders(seed, ORDERS, f"echo-{seed}", regretted=0.5)
    with replica(fragile, WORKERS, tmp_path) as workers, replica(fragile, ["orchestrator", "ingress"], tmp_path) as others:
        await asyncio.gather(workers.ready(), others.ready())
        urls = [fragile.addresses["ingress"], others.urls["ingress"]]
        partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], urls, history)
        async with echoing(fragile, random.Random(seed)) as echo:
            await partner.run(wanted, per_second=PER_SECOND)
            await drained(fragile)
        await drained(fragile)

    await check(fragile, wanted, history)
    ends, races = await _ends(fragile, f"echo-{seed}-%")
    history.fault(f"repeated {echo.repeated} messages")
    assert echo.repeated > len(echo.seen) > ORDERS * 5
    assert ends["cancelled"] > 0, "nobody cancelled in time: no undo met its do"
    assert ends["completed"] > 0
    assert races > 0, "no undo was sent while its do was under way"


async def _ends(platform: Platform, numbers: str) -> tuple[dict[str, int], int]:
    """How the orders ended, and how many answers came after their step had been given up."""
    database = await asyncpg.connect(platform.addresses["database"])
    try:
        rows = await database.fetch(
            "SELECT status, count(*) AS n FROM ingress.partner_order WHERE order_number LIKE $1 GROUP BY status", numbers
        )
        races = await database.fetchval(
            "SELECT count(*) FROM orchestrator.workflow_history JOIN ingress.partner_order ON correlation_id = saga_id"
            " WHERE order_number LIKE $1 AND kind = 'late'",
            numbers,
        )
    finally:
        await database.close()
    return {"cancelled": 0, "completed": 0} | {row["status"]: row["n"] for row in rows}, int(races)

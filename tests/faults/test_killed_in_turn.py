"""Acceptance 4: a workload while every service, the broker and the database are killed in turn. Nothing is lost, nothing is doubled."""

import asyncio
import os
import random

import pytest

from contracts.registry import SERVICES
from tests.support.breakage import every, kill, row, whole
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.workload import Partner, orders

ORDERS = int(os.environ.get("TUTTI_FAULT_ORDERS", "300"))
# Long enough for every kill to fall into it.
LOAD_SECONDS = 40.0
PAUSE_SECONDS_MAX = 1.5


@pytest.mark.timeout(600)
async def test_killing_every_part_in_turn_loses_and_doubles_nothing(fragile: Platform, history: History, seed: int) -> None:
    await whole(fragile)
    chance = random.Random(seed)
    wanted = orders(seed, ORDERS, f"kill-{seed}")
    partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], [fragile.addresses["ingress"]], history)
    victims = [*SERVICES]
    chance.shuffle(victims)
    restarts = {name: row(fragile, name)["restarts"] for name in (*victims, "broker", "database")}

    load = asyncio.create_task(partner.run(wanted, per_second=ORDERS / LOAD_SECONDS, patience=120))
    for name in (*victims, "broker", "database"):
        await every(chance.uniform(0, PAUSE_SECONDS_MAX))
        await kill(fragile, name, history)
    await load
    await whole(fragile)
    await drained(fragile)

    await check(fragile, wanted, history)
    assert all(row(fragile, name)["restarts"] > before for name, before in restarts.items())
    assert any(history.unknowns.values()), "no client noticed anything: the faults came when nothing was under way"
    assert len(history.ids) >= ORDERS * 0.8

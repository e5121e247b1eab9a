"""Acceptance 4: a workload while every service, the broker and the database are killed in turn. Nothing is lost, nothing is doubled."""

import asyncio
import itertools
import os
import random
from collections.abc import Iterator

import pytest

from contracts.registry import SERVICES
from tests.support.breakage import every, kill, row, whole
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.workload import Partner, Wanted, orders

ORDERS = int(os.environ.get("TUTTI_FAULT_ORDERS", "300"))
# At this rate; there are more of them where the kills take longer, since every kill must fall into the load.
LOAD_SECONDS = 40.0
PAUSE_SECONDS_MAX = 1.5


@pytest.mark.timeout(600)
async def test_killing_every_part_in_turn_loses_and_doubles_nothing(fragile: Platform, history: History, seed: int) -> None:
    await whole(fragile)
    chance = random.Random(seed)
    wanted: list[Wanted] = []
    killed = asyncio.Event()
    partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], [fragile.addresses["ingress"]], history)
    victims = [*SERVICES]
    chance.shuffle(victims)
    restarts = {name: row(fragile, name)["restarts"] for name in (*victims, "broker", "database")}

    load = asyncio.create_task(partner.run(_until(killed, seed, wanted), per_second=ORDERS / LOAD_SECONDS, patience=120))
    for name in (*victims, "broker", "database"):
        await every(chance.uniform(0, PAUSE_SECONDS_MAX))
        await kill(fragile, name, history)
    killed.set()
    await load
    await whole(fragile)
    await drained(fragile)

    await check(fragile, wanted, history)
    assert all(row(fragile, name)["restarts"] > before for name, before in restarts.items())
    assert any(history.unknowns.values()), "no client noticed anything: the faults came when nothing was under way"
    assert len(history.ids) >= len(wanted) * 0.8


def _until(killed: asyncio.Event, seed: int, wanted: list[Wanted]) -> Iterator[Wanted]:
    """Orders, also noted in `wanted`: ORDERS of them, and then more until everything has been killed."""
    for number in itertools.count():
        for one in orders(seed + number, ORDERS, f"kill-{seed}-{number}"):
            if killed.is_set() and len(wanted) >= ORDERS:
                return
            wanted.append(one)
            yield one

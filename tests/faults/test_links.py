"""Connections that are cut, and connections that say nothing any more, between services and both servers."""

import asyncio
import random
from pathlib import Path

import pytest
from yarl import URL

from tests.support.breakage import every, replica, whole
from tests.support.history import History
from tests.support.invariants import check, drained
from tests.support.platform import Platform
from tests.support.proxy import TcpProxy, proxy_before
from tests.support.workload import Partner, orders

SERVICES = ("orchestrator", "credit", "inventory", "fulfillment", "ingress")
ORDERS, PER_SECOND = 160, 10.0
SILENCE_SECONDS = 4.0


def through(proxies: dict[str, TcpProxy], platform: Platform) -> dict[str, str]:
    """The replica's settings with the proxies' addresses in place of the servers'."""
    import psutil

    changes = {}
    for service in SERVICES:
        environment = psutil.Process(platform.pid(service)).environ()
        for kind, proxy in proxies.items():
            name = f"TUTTI_{service.upper()}__{kind}_URL"
            changes[name] = proxy.in_front_of(environment[name])
    return changes


@pytest.mark.timeout(400)
async def test_cut_and_silent_connections_lose_and_double_nothing(
    fragile: Platform, history: History, seed: int, tmp_path: Path
) -> None:
    await whole(fragile)
    chance = random.Random(seed)
    wanted = orders(seed, ORDERS, f"links-{seed}")
    async with (
        proxy_before(str(URL(fragile.addresses["broker"]))) as broker,
        proxy_before(str(URL(fragile.addresses["database"]))) as database,
    ):
        with replica(fragile, SERVICES, tmp_path, through({"BROKER": broker, "DATABASE": database}, fragile)) as beside:
            await beside.ready()
            urls = [fragile.addresses["ingress"], beside.urls["ingress"]]
            partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], urls, history)
            load = asyncio.create_task(partner.run(wanted, per_second=PER_SECOND, patience=90))
            for name, proxy in (("broker", broker), ("database", database)) * 2:
                await every(chance.uniform(0.2, 1.0))
                made = proxy.accepted
                await proxy.cut()
                history.fault(f"cut {made} connections to the {name}")
            # What the server says is lost: commits and confirms whose outcome stays unknown.
            for name, proxy in (("broker", broker), ("database", database)):
                proxy.hold_answers()
                await every(chance.uniform(0.3, 1.0))
                await proxy.cut()
                proxy.release()
                history.fault(f"lost the answers of the {name}")
            for name, proxy in (("broker", broker), ("database", database)):
                proxy.fall_silent()
                await every(SILENCE_SECONDS)
                proxy.release()
                await proxy.cut()
                history.fault(f"the {name} was silent")
            await load
            await beside.ready()
            await drained(fragile)
            reconnected = min(broker.accepted, database.accepted)

    await check(fragile, wanted, history)
    assert reconnected > len(SERVICES), "the replica never came back"

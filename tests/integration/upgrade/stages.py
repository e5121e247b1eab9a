"""Orders that stand still, one at each stage of a process: their next message has nowhere to go and stays in its sender's outbox.

The bindings that are taken away come back with the topology job, hence with the next start; then the orders move on.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import httpx2
from yarl import URL

from infra.broker.names import COMMANDS, EVENTS
from tests.support.partner import post
from tests.support.platform import Platform
from tests.support.waiting import wait_until
from tests.support.workload import order

STANDS_STILL_SECONDS: Final = 60.0
# From the last stage to the first, so that each order passes those before its own: (exchange, binding, whose outbox keeps the message).
STAGES: Final = (
    (EVENTS, "fulfillment.shipment-created.*", "fulfillment"),
    (EVENTS, "credit.credit-reserved.*", "credit"),
    (EVENTS, "inventory.stock-reserved.*", "inventory"),
    (EVENTS, "compliance.parties-cleared.*", "compliance"),
    (EVENTS, "pricing.order-priced.*", "pricing"),
    (COMMANDS, "pricing.#", "orchestrator"),
    (EVENTS, "orders.order-accepted.*", "ingress"),
)


async def orders_at_every_stage(platform: Platform, database: asyncpg.Connection) -> dict[str, str]:
    """Posts an order for each stage; returns their ids by the service that keeps the message, once all stand still."""
    ids = {}
    async with platform.partner("acme") as acme:
        for exchange, binding, service in STAGES:
            await unbind(platform, exchange, binding)
            placed = await post(acme, order())
            assert placed.status_code == 202, placed.text
            await undeliverable(database, service, placed.headers["x-correlation-id"])
            ids[service] = placed.json()["order_id"]
    return ids


async def undeliverable(database: asyncpg.Connection, service: str, saga_id: str) -> None:
    """Waits until a message of this process was returned to the service and waits in its outbox."""
    query = f'SELECT EXISTS (SELECT FROM "{service}".outbox WHERE correlation_id = $1 AND last_error IS NOT NULL)'

    async def kept() -> bool:
        return bool(await database.fetchval(query, saga_id))

    await wait_until(kept, within=STANDS_STILL_SECONDS, what=f"a message of {saga_id} in the outbox of {service}")


async def unbind(platform: Platform, exchange: str, routing_key: str) -> None:
    """Takes the exchange's bindings with this key away; what is published under it comes back as unroutable."""
    bindings = await _management(platform, "GET", f"exchanges/%2F/{exchange}/bindings/source")
    (one,) = (binding for binding in bindings if binding["routing_key"] == routing_key)
    key = one["properties_key"].replace("#", "%23")
    await _management(platform, "DELETE", f"bindings/%2F/e/{exchange}/q/{one['destination']}/{key}")


async def _management(platform: Platform, method: str, path: str) -> Any:
    url = URL(platform.addresses["management"])
    async with httpx2.AsyncClient(auth=(url.user or "", url.password or ""), timeout=20, trust_env=False) as client:
        answer = await client.request(method, f"{url.with_user(None)}".rstrip("/") + f"/api/{path}")
        answer.raise_for_status()
        return answer.json() if answer.content else None


@asynccontextmanager
async def administrator(platform: Platform) -> AsyncIterator[asyncpg.Connection]:
    """The platform's database, with the schemas of all services."""
    connection = await asyncpg.connect(platform.addresses["database"])
    try:
        yield connection
    finally:
        await connection.close()

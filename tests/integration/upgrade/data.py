"""What the last release leaves in a home: ended orders, orders under way, and whatever waits, so that every table has a row."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import aio_pika
import asyncpg
import httpx2

from contracts.registry import SERVICES, queues
from infra.broker.names import EVENTS
from tests.integration.upgrade.stages import STANDS_STILL_SECONDS, administrator, orders_at_every_stage, unbind
from tests.support import released
from tests.support.outsider import system
from tests.support.partner import WAIT_SECONDS, finished, post
from tests.support.platform import Platform
from tests.support.released import Release
from tests.support.waiting import wait_until
from tests.support.workload import BUYER_WITHOUT_CREDIT, OVER_HTTP, order

# So that the release does quickly what takes long by itself, and keeps what would be over before it is looked at.
SETTINGS: Final = {
    "TUTTI_CREDIT__SUSPECT_DELIVERIES_MIN": "1",
    "TUTTI_FULFILLMENT__CALL_TIMEOUT_SECONDS": "60",
    "TUTTI_FULFILLMENT__CALL_LEASE_SECONDS": "150",
    "TUTTI_FULFILLMENT__SHUTDOWN_SECONDS": "3",
}
NEWER: Final = "orders.order-accepted.v99"
COMMANDED: Final = {"credit", "inventory", "compliance", "pricing", "fulfillment"}
# Tables that stay empty in a schema, and why. The chassis' tables are the same in all of them.
EMPTY: Final = {
    **{(service, "operation"): "takes no commands" for service in set(SERVICES) - COMMANDED},
    **{(service, "call"): "calls nobody outside" for service in set(SERVICES) - {"fulfillment"}},
    **{(service, "suspect"): "has a row while a message may kill the process; one service's is enough" for service in set(SERVICES) - {"credit"}},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Left:
    """What the last release was told and has not forgotten. `under_way` by the service that keeps each order's next message."""

    completed: str
    key: str
    body: dict[str, Any]
    refused: str
    cancelled: str
    under_way: dict[str, str]
    letter: str
    number_in_letter: str
    empty: frozenset[tuple[str, str]]


async def fill(release: Release, platform: Platform) -> Left:
    """Makes the release write into every table, by what partners, systems and operators do; then looks which ones are empty."""
    body, key = order(), str(uuid4())
    async with platform.partner("acme") as acme, administrator(platform) as database:
        completed = (await post(acme, body, key=key, wait=WAIT_SECONDS)).json()["order_id"]
        refused = (await post(acme, order(buyer_id=BUYER_WITHOUT_CREDIT), wait=WAIT_SECONDS)).json()["order_id"]
        assert (await finished(acme, completed))["status"] == "completed"
        assert (await finished(acme, refused))["status"] == "refused"
        await _a_letter_that_is_replayed(release, platform, acme, database)
        letter, number_in_letter = await _a_letter_that_stays(platform, database)
        await _messages_of_the_future(platform, database)
        under_way = await orders_at_every_stage(platform, database)
        cancelled = under_way.pop("pricing")
        assert (await acme.post(f"/v1/orders/{cancelled}/cancel", json={"reason": "ordered twice"})).status_code == 202
        async with _a_message_that_may_kill_its_process(platform, database):
            empty = await _empty_tables(database)
    return Left(completed, key, body, refused, cancelled, under_way, letter, number_in_letter, empty)


async def leave_under_way(platform: Platform) -> dict[str, str]:
    """One order whose carrier has not answered, and one at every stage; as `Left.under_way`."""
    async with platform.partner("acme") as acme, administrator(platform) as database:
        await _carrier(platform, "POST", json={"kind": "slow", "carrier": "parcelway", "action": "book", "delay_seconds": 600})
        placed = await post(acme, order(country=OVER_HTTP))
        query = "SELECT EXISTS (SELECT FROM fulfillment.call WHERE operation_id LIKE $1 AND state = 'due' AND sent)"
        await _until(database, query, f"{placed.headers['x-correlation-id']}:%", what="a call to the carrier")
        return {"carrier": placed.json()["order_id"], **await orders_at_every_stage(platform, database)}


async def hurry(database: asyncpg.Connection) -> None:
    """Whatever waits for its next try is due now: how long that would be is not what is tested."""
    for service in SERVICES:
        for table, condition in (("outbox", "NOT parked"), ("retry", "true"), ("call", "state = 'due'")):
            await database.execute(f'UPDATE "{service}".{table} SET due_at = now() WHERE {condition}')


async def _a_letter_that_is_replayed(
    release: Release, platform: Platform, acme: httpx2.AsyncClient, database: asyncpg.Connection
) -> None:
    """An order whose carrier was away, repaired with the release's own command. The desk cannot tell the orchestrator of it."""
    await unbind(platform, EVENTS, "deadletters.dead-letter-opened.*")
    await _carrier(platform, "POST", json={"kind": "unavailable", "carrier": "parcelway"})
    placed = await post(acme, order(country=OVER_HTTP))
    query = "SELECT id FROM deadletters.dead_letter WHERE correlation_id = $1 AND state = 'open'"
    letter = await _until(database, query, placed.headers["x-correlation-id"], what="a dead letter")
    await _carrier(platform, "DELETE")
    reason = ("--reason", "the carrier is back")
    code, out, err = await release.run(platform, released.DLQ, "replay", letter, *reason, "--wait", "--yes", "--json")
    assert code == 0, out + err
    assert (await finished(acme, placed.json()["order_id"]))["status"] == "completed"


async def _a_letter_that_stays(platform: Platform, database: asyncpg.Connection) -> tuple[str, str]:
    """An order over the broker by a system that may not order for that partner. Returns the dead letter and the order's number."""
    body = order()
    async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
        submitted = await erp.say("orders.order-submitted.v1", {**body, "partner_id": "globex"})
    query = "SELECT id FROM deadletters.dead_letter WHERE message_id = $1 AND state = 'open'"
    return await _until(database, query, submitted, what="a dead letter"), body["order_number"]


async def _messages_of_the_future(platform: Platform, database: asyncpg.Connection) -> None:
    """Each queue gets a message of a version that nobody knows yet; it waits there for a deployment."""
    async with await aio_pika.connect(platform.addresses["broker"]) as connection:
        channel = await connection.channel()
        for queue in queues():
            body = f'{{"specversion": "1.0", "id": "{uuid4()}", "source": "/ingress", "type": "{NEWER}", "data": {{}}}}'
            message = aio_pika.Message(
                body.encode(), content_type="application/cloudevents+json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await channel.default_exchange.publish(message, queue)
    for queue in queues():
        service = queue.partition(".")[0]
        query = f"SELECT EXISTS (SELECT FROM \"{service}\".retry WHERE consumer = $1 AND type = '{NEWER}')"
        await _until(database, query, queue, what=f"a retry of {queue}")


@asynccontextmanager
async def _a_message_that_may_kill_its_process(platform: Platform, database: asyncpg.Connection) -> AsyncIterator[None]:
    """A credit limit whose process was killed over it, and which is being handled once more for the length of the block."""
    waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
    async with administrator(platform) as holder, holder.transaction():
        await holder.execute("LOCK TABLE credit.credit_line IN ACCESS EXCLUSIVE MODE")
        async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
            limit = {"amount_minor": 10_000_001, "currency": "EUR"}
            await erp.say("credit.limit-changed.v1", {"buyer_id": "C-1", "limit": limit, "sequence": 2, "reason": "asked for"})
        await _until(database, waiting, "credit", what="the limit waits for the lock")
        await released.restart(platform, "credit")
        await _until(
            database, "SELECT EXISTS (SELECT FROM credit.suspect WHERE consumer = $1)", "credit.events", what="a suspect"
        )
        yield


async def _empty_tables(database: asyncpg.Connection) -> frozenset[tuple[str, str]]:
    tables = await database.fetch(
        "SELECT schemaname AS service, tablename AS name FROM pg_tables WHERE schemaname = ANY($1)", list(SERVICES)
    )
    assert {table["service"] for table in tables} == set(SERVICES)
    # Not asked while somebody holds the table's lock; it has rows since the start.
    asked = [table for table in tables if (table["service"], table["name"]) != ("credit", "credit_line")]
    counts = [
        await database.fetchval(f'SELECT count(*) FROM (SELECT FROM "{table["service"]}"."{table["name"]}" LIMIT 1) AS one')
        for table in asked
    ]
    return frozenset((table["service"], table["name"]) for table, count in zip(asked, counts, strict=True) if count == 0)


async def _carrier(platform: Platform, method: str, **request: Any) -> None:
    async with httpx2.AsyncClient(base_url=platform.addresses["carrier"], timeout=10, trust_env=False) as client:
        (await client.request(method, "/faults", **request)).raise_for_status()


async def _until(database: asyncpg.Connection, query: str, argument: str, *, what: str) -> Any:
    async def look() -> Any:
        return await database.fetchval(query, argument)

    return await wait_until(look, within=STANDS_STILL_SECONDS, what=f"{what} ({argument})")

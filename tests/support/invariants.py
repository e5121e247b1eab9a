"""I1 to I9 (docs/testing.md), by ids: what clients were told, what the tables say, and what the carrier really did.

Each check returns sentences that name ids; none of them counts where it can compare. They read the tables as the
administrator, so that a wrong answer of a service cannot hide a wrong state.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import httpx2

from contracts.message import owner_of
from contracts.registry import REGISTRY, SERVICES
from infra.stack.local.sample import STOCK_PER_WAREHOUSE, WAREHOUSES
from tests.support.history import History
from tests.support.platform import Platform
from tests.support.waiting import wait_until
from tests.support.workload import Wanted

DRAIN_SECONDS: Final = 120.0
SHOWN_MAX: Final = 20
FINISHED: Final = ("completed", "refused", "cancelled", "failed")
UNDER_WAY: Final = """
    SELECT '{schema}' AS service,
        (SELECT count(*) FROM "{schema}".outbox) AS outbox,
        (SELECT count(*) FROM "{schema}".retry) AS retry,
        (SELECT count(*) FROM "{schema}".call WHERE state = 'due') AS call
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at the whole platform, taken when nothing moved any more."""

    orders: Sequence[asyncpg.Record]
    sagas: dict[str, asyncpg.Record]
    holds: dict[str, list[asyncpg.Record]]
    reservations: dict[str, list[asyncpg.Record]]
    parcels: dict[str, list[asyncpg.Record]]
    effects: Sequence[dict[str, Any]]


async def drained(platform: Platform, *, within: float = DRAIN_SECONDS) -> None:
    """Waits until every process has ended, nothing waits to be sent or tried again, and every queue is empty. I3 and I7.

    Raises AssertionError with what is left.
    """

    async def still() -> bool:
        left.clear()
        left.update(await _left(platform))
        return not any(left.values())

    left: dict[str, Any] = {}
    try:
        await wait_until(still, within=within, what="everything has come to an end", every=0.5)
    except AssertionError:
        raise AssertionError(f"not within {within:g} s; left: {json.dumps(left, default=str, indent=1)}") from None


async def _left(platform: Platform) -> dict[str, Any]:
    try:
        database = await asyncpg.connect(platform.addresses["database"], timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        return {"database": f"{type(error).__name__} {error}"}
    try:
        running = await database.fetch(
            "SELECT saga_id, state FROM orchestrator.workflow_instance WHERE NOT finished ORDER BY saga_id LIMIT $1",
            SHOWN_MAX,
        )
        unsettled = await database.fetch(
            "SELECT order_id, status FROM ingress.partner_order WHERE finished_at IS NULL ORDER BY order_id LIMIT $1", SHOWN_MAX
        )
        waiting = await database.fetch(" UNION ALL ".join(UNDER_WAY.format(schema=schema) for schema in SERVICES))
    except (OSError, asyncpg.PostgresError) as error:
        return {"database": f"{type(error).__name__} {error}"}
    finally:
        await database.close(timeout=5)
    return {
        "processes": [(row["saga_id"], row["state"]) for row in running],
        "orders": [tuple(row) for row in unsettled],
        "rows": [dict(row) for row in waiting if row["outbox"] or row["retry"] or row["call"]],
        "queues": await _depths(platform),
    }


async def _depths(platform: Platform) -> dict[str, int]:
    """Ready and unacknowledged messages of the queues that have any."""
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as client:
        try:
            answer = await client.get(f"{platform.addresses['management']}/api/queues")
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            return {f"management API: {type(error).__name__}": -1}
    queues = [queue for queue in answer.json() if not queue.get("exclusive")]
    return {queue["name"]: queue["messages"] for queue in queues if queue.get("messages")}


async def check(platform: Platform, wanted: Sequence[Wanted], history: History) -> None:
    """All invariants and `tutti reconcile`, after `drained`. Raises AssertionError with the ids."""
    found = await violations(platform, wanted, history)
    code, out, err = await platform.run("tutti", "reconcile", "--json")
    if code != 0:
        found.append(f"tutti reconcile says {out[:3000]}{err[:1000]}")
    assert not found, f"{len(found)} violations after: {history.summary()}\n" + "\n".join(found[:SHOWN_MAX])


async def violations(platform: Platform, wanted: Sequence[Wanted], history: History) -> list[str]:
    """Sentences about everything that contradicts an invariant."""
    database = await asyncpg.connect(platform.addresses["database"])
    try:
        found = await _facts(platform, database)
        return [
            *_accepted_orders_exist_once(wanted, history, found),
            *_orders_ended_rightly(wanted, found),
            *_effects_happened_once(found),
            *_ends_fit_effects(found),
            *await _compensated_newest_first(database),
            *await _money_adds_up(database, found),
            *await _stock_adds_up(database),
            *await _nothing_vanished(database),
            *await _nobody_has_to_look(database),
        ]
    finally:
        await database.close()


async def _facts(platform: Platform, database: asyncpg.Connection) -> Facts:
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
        effects = (await client.get(f"{platform.addresses['carrier']}/effects")).raise_for_status().json()
    sagas = await database.fetch(
        "SELECT saga_id, state, finished, next_timer_at FROM orchestrator.workflow_instance WHERE state <> 'absent'"
    )
    return Facts(
        orders=await database.fetch("SELECT * FROM ingress.partner_order"),
        sagas={row["saga_id"]: row for row in sagas},
        holds=_by_order(await database.fetch("SELECT * FROM credit.credit_hold")),
        reservations=_by_order(await database.fetch("SELECT * FROM inventory.reservation")),
        parcels=_by_order(await database.fetch("SELECT * FROM fulfillment.parcel")),
        effects=effects,
    )


def _by_order(rows: Iterable[asyncpg.Record]) -> dict[str, list[asyncpg.Record]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["order_id"]].append(row)
    return grouped


def _accepted_orders_exist_once(wanted: Sequence[Wanted], history: History, found: Facts) -> Iterable[str]:
    """I1: an order that got a 2xx exists exactly once, under the one id that was told; one without an answer exists at most once."""
    by_number = defaultdict(list)
    for row in found.orders:
        by_number[row["order_number"]].append(row["order_id"])
    for one in wanted:
        told, exist = history.ids.get(one.key, set()), by_number.get(one.number, [])
        if len(told) > 1:
            yield f"I1: {one.key} was told several ids: {sorted(told)}"
        if told and sorted(told) != sorted(exist):
            yield f"I1: {one.key} was told {sorted(told)}, and there is {exist}"
        if not told and len(exist) > 1:
            yield f"I1: {one.key} was never answered and exists {len(exist)} times: {exist}"
        if one.key in history.refusals:
            yield f"I1: {one.key} was refused by ingress: {history.refusals[one.key]}"
    for row in found.orders:
        if row["correlation_id"] not in found.sagas:
            yield f"I1: {row['order_id']} was accepted and has no process"


def _orders_ended_rightly(wanted: Sequence[Wanted], found: Facts) -> Iterable[str]:
    """I3: every order has ended, as its kind should, and ingress and the orchestrator say the same."""
    ends = {one.number: one for one in wanted}
    for row in found.orders:
        saga = found.sagas.get(row["correlation_id"])
        if row["status"] not in FINISHED:
            yield f"I3: {row['order_id']} is {row['status']}"
        if saga is not None and saga["state"] != row["status"]:
            yield f"I3: {row['order_id']} is {row['status']} for its partner and {saga['state']} for the orchestrator"
        one = ends.get(row["order_number"])
        if one is not None and row["status"] not in one.ends:
            yield f"I3: {row['order_id']} ({one.kind}) ended as {row['status']}, {' or '.join(one.ends)} was right: {row['reasons']}"
    for saga_id, saga in found.sagas.items():
        if not saga["finished"] and saga["next_timer_at"] is None:
            yield f"I3: {saga_id} waits for nothing"


def _effects_happened_once(found: Facts) -> Iterable[str]:
    """I2: at most one hold, one reservation per item and place, one shipment per part, in our tables and at the carrier's."""
    for order_id, holds in found.holds.items():
        if len(holds) > 1:
            yield f"I2: {order_id} has {len(holds)} credit holds: {[row['operation_id'] for row in holds]}"
    for order_id, rows in found.reservations.items():
        if len({row["operation_id"] for row in rows}) > 1:
            yield f"I2: {order_id} is reserved by several operations: {sorted({row['operation_id'] for row in rows})}"
    for order_id, rows in found.parcels.items():
        for warehouse, count in Counter(row["warehouse"] for row in rows if row["state"] in ("booked", "delivered")).items():
            if count > 1:
                yield f"I2: {order_id} has {count} parcels on their way from {warehouse}"
    booked = Counter(one["key"] for one in found.effects if one["effect"] == "booked")
    for key, count in booked.items():
        if count > 1:
            yield f"I2: the carrier booked {key} {count} times"


def _ends_fit_effects(found: Facts) -> Iterable[str]:
    """I4: a completed order has all its effects, any other none that is not taken back, at the carrier's too."""
    active = Counter(one["key"] for one in found.effects if one["effect"] == "booked")
    active.subtract(one["key"] for one in found.effects if one["effect"] == "cancelled")
    at_carrier: dict[str, int] = defaultdict(int)
    for key, count in active.items():
        at_carrier[key.split(":", 1)[0]] += count
    for row in found.orders:
        order_id, completed = row["order_id"], row["status"] == "completed"
        holds = {hold["state"] for hold in found.holds.get(order_id, ())}
        reservations = {part["state"] for part in found.reservations.get(order_id, ())}
        parcels = [parcel for parcel in found.parcels.get(order_id, ()) if parcel["state"] in ("booked", "delivered", "planned")]
        outside = sum(1 for parcel in parcels if parcel["external"])
        told = {shipment["tracking"] for shipment in json.loads(row["shipments"])}
        if holds != ({"captured"} if completed else holds & {"released"}):
            yield f"I4: {order_id} is {row['status']} and its credit hold is {sorted(holds)}"
        if reservations != ({"committed"} if completed else reservations & {"released"}):
            yield f"I4: {order_id} is {row['status']} and its stock is {sorted(reservations)}"
        if completed and told != {parcel["tracking"] for parcel in parcels}:
            yield f"I4: {order_id} is completed, its partner was told {sorted(told)}, on their way are {[dict(p) for p in parcels]}"
        if not completed and parcels:
            yield f"I4: {order_id} is {row['status']} and has parcels {[dict(parcel) for parcel in parcels]}"
        if at_carrier.get(row["correlation_id"], 0) != outside:
            yield f"I4: {order_id} has {outside} parcels with the carrier, who has {at_carrier.get(row['correlation_id'], 0)} bookings"


async def _compensated_newest_first(database: asyncpg.Connection) -> Iterable[str]:
    """I4: a step's undo was sent before the undo of what that step came after: shipment, then credit and stock."""
    rows = await database.fetch(
        "SELECT saga_id, step, min(position) AS sent FROM orchestrator.workflow_history WHERE kind = 'undo-sent' GROUP BY saga_id, step"
    )
    undone: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        undone[row["saga_id"]][row["step"]] = row["sent"]
    return [
        f"I4: {saga_id} took {earlier} back before ship"
        for saga_id, steps in undone.items()
        for earlier in ("reserve-credit", "reserve-stock")
        if "ship" in steps and earlier in steps and steps[earlier] < steps["ship"]
    ]


async def _money_adds_up(database: asyncpg.Connection, found: Facts) -> Iterable[str]:
    """I5: each line's exposure is the sum of its holds, and what was captured is what the partner was told."""
    rows = await database.fetch(
        """
        SELECT line.buyer_id, line.held_minor, line.used_minor,
            coalesce(sum(hold.amount_minor) FILTER (WHERE hold.state = 'held'), 0) AS held,
            coalesce(sum(hold.amount_minor) FILTER (WHERE hold.state = 'captured'), 0) AS used
        FROM credit.credit_line line LEFT JOIN credit.credit_hold hold USING (buyer_id, currency)
        GROUP BY line.buyer_id, line.currency, line.held_minor, line.used_minor
        """
    )
    violations = [
        f"I5: the line of {row['buyer_id']} says held {row['held_minor']} and used {row['used_minor']}; its holds say {row['held']}, {row['used']}"
        for row in rows
        if (row["held_minor"], row["used_minor"]) != (row["held"], row["used"])
    ]
    violations += [
        f"I5: {row['order_id']} was told {row['total_minor']} and charged {[hold['amount_minor'] for hold in found.holds.get(row['order_id'], ())]}"
        for row in found.orders
        if row["status"] == "completed"
        and [hold["amount_minor"] for hold in found.holds.get(row["order_id"], ())] != [row["total_minor"]]
    ]
    return violations


async def _stock_adds_up(database: asyncpg.Connection) -> Iterable[str]:
    """I6: what is there, with what has left, is what was counted and received; what is reserved is the open reservations."""
    rows = await database.fetch(
        """
        SELECT stock.sku, stock.warehouse, stock.on_hand, stock.reserved,
            coalesce((SELECT sum(quantity) FROM inventory.reservation r
                WHERE r.sku = stock.sku AND r.warehouse = stock.warehouse AND r.state = 'reserved'), 0) AS open,
            coalesce((SELECT sum(quantity) FROM inventory.reservation r
                WHERE r.sku = stock.sku AND r.warehouse = stock.warehouse AND r.state = 'committed'), 0) AS left_us,
            coalesce((SELECT sum(quantity) FROM inventory.stock_movement m
                WHERE m.sku = stock.sku AND m.warehouse = stock.warehouse AND m.kind = 'received'), 0) AS received
        FROM inventory.stock stock
        """
    )
    warehouses = {warehouse for warehouse, _ in WAREHOUSES}
    return [
        f"I6: {row['sku']} in {row['warehouse']}: on hand {row['on_hand']}, reserved {row['reserved']}; reservations say {row['open']} open,"
        f" {row['left_us']} gone, {row['received']} received"
        for row in rows
        if row["reserved"] != row["open"]
        or (row["warehouse"] in warehouses and row["on_hand"] + row["left_us"] - row["received"] != STOCK_PER_WAREHOUSE)
    ]


async def _nothing_vanished(database: asyncpg.Connection) -> Iterable[str]:
    """I8: whatever was emitted is in the inbox of each of its receivers, or a dead letter."""
    handled: set[tuple[str, str]] = set()
    emitted: list[tuple[str, str, str]] = []
    for schema in SERVICES:
        handled |= {
            (row["consumer"], row["message_id"])
            for row in await database.fetch(f'SELECT consumer, message_id FROM "{schema}".inbox')
        }
        emitted += [
            (schema, row["message_id"], row["type"])
            for row in await database.fetch(f'SELECT message_id, type FROM "{schema}".emission')
        ]
    dead = {
        (row["queue"], row["message_id"]) for row in await database.fetch("SELECT queue, message_id FROM deadletters.dead_letter")
    }
    return [
        f"I8: {type} {message_id} left {schema} and never came to {queue}"
        for schema, message_id, type in emitted
        for queue in (REGISTRY[type].receivers if type in REGISTRY else ())
        if owner_of(queue) in SERVICES and (queue, message_id) not in handled | dead
    ]


async def _nobody_has_to_look(database: asyncpg.Connection) -> Iterable[str]:
    """I9: what breaks and heals is nobody's work. No message was at fault, so none is left in the dead letters."""
    rows = await database.fetch(
        "SELECT id, queue, type, kind, error FROM deadletters.dead_letter WHERE state IN ('open', 'parked', 'replaying')"
    )
    return [f"I9: {row['id']} of {row['queue']}: {row['type']}, {row['kind']}: {row['error']}" for row in rows]

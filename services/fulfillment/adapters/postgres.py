"""Carriers and parcels in PostgreSQL, a batch at a time.

The chassis locks the row of an operation before it loads the operation's parcels, so two transactions never decide about them together.
The parcels' own locks are against reports of deliveries, which know no operation. The carriers are read without a lock: an order
that is routed by what was true a moment ago is routed well enough.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.hot_connection import write
from infra.chassis.service import Finding
from services.fulfillment.domain import Carrier, Delivery, Key, Order, Parcel, ParcelPlanned, State

CARRIERS_MAX = 500
FINDINGS_MAX = 1000

_SELECT_CARRIERS = text("""
    SELECT carrier, booking, countries, service_levels, weight_grams_max, rank, active, sequence
    FROM carrier
    WHERE active
    ORDER BY rank, carrier
    LIMIT :carriers_max
""")

_INSERT_MISSING_CARRIERS = text("""
    INSERT INTO carrier (carrier)
    SELECT carrier FROM unnest(CAST(:carriers AS text[])) AS wanted (carrier) ORDER BY carrier
    ON CONFLICT DO NOTHING
""")

_LOCK_CARRIERS = text("""
    SELECT carrier, booking, countries, service_levels, weight_grams_max, rank, active, sequence
    FROM carrier
    WHERE carrier = ANY (CAST(:carriers AS text[]))
    ORDER BY carrier
    FOR UPDATE
""")

_UPDATE_CARRIERS = write("""
    UPDATE carrier
    SET booking = changed.booking, countries = string_to_array(changed.countries, ' '),
        service_levels = string_to_array(changed.service_levels, ' '), weight_grams_max = changed.weight_grams_max,
        rank = changed.rank, active = changed.active, sequence = changed.sequence
    FROM unnest(
        CAST(:carriers AS text[]), CAST(:bookings AS text[]), CAST(:countries AS text[]), CAST(:service_levels AS text[]),
        CAST(:weights AS bigint[]), CAST(:ranks AS integer[]), CAST(:active AS boolean[]), CAST(:sequences AS bigint[])
    ) AS changed (carrier, booking, countries, service_levels, weight_grams_max, rank, active, sequence)
    WHERE carrier.carrier = changed.carrier
""")

_LOCK_PARCELS = text("""
    SELECT operation_id, order_id, warehouse, carrier, external, state, tracking, refusal
    FROM parcel
    WHERE order_id = ANY (CAST(:orders AS text[]))
    ORDER BY operation_id, warehouse
    FOR UPDATE
""")

_LOCK_DELIVERIES = text("""
    SELECT carrier, tracking, delivered_at
    FROM parcel
    WHERE tracking = ANY (CAST(:trackings AS text[]))
    ORDER BY operation_id, warehouse
    FOR UPDATE
""")

_INSERT_PARCELS = write("""
    INSERT INTO parcel (operation_id, order_id, warehouse, carrier, external, state, tracking)
    SELECT operation_id, order_id, warehouse, carrier, external, state, tracking
    FROM unnest(
        CAST(:operations AS text[]), CAST(:orders AS text[]), CAST(:warehouses AS text[]), CAST(:carriers AS text[]),
        CAST(:external AS boolean[]), CAST(:states AS text[]), CAST(:trackings AS text[])
    ) AS planned (operation_id, order_id, warehouse, carrier, external, state, tracking)
    ORDER BY operation_id, warehouse
""")

_UPDATE_PARCELS = text("""
    UPDATE parcel
    SET carrier = changed.carrier, external = changed.external, state = changed.state, tracking = changed.tracking,
        refusal = changed.refusal, changed_at = now()
    FROM unnest(
        CAST(:operations AS text[]), CAST(:warehouses AS text[]), CAST(:carriers AS text[]), CAST(:external AS boolean[]),
        CAST(:states AS text[]), CAST(:trackings AS text[]), CAST(:refusals AS text[])
    ) AS changed (operation_id, warehouse, carrier, external, state, tracking, refusal)
    WHERE parcel.operation_id = changed.operation_id AND parcel.warehouse = changed.warehouse
""")

_UPDATE_DELIVERED = write("""
    UPDATE parcel
    SET state = 'delivered', delivered_at = delivered.at, changed_at = now()
    FROM unnest(CAST(:carriers AS text[]), CAST(:trackings AS text[]), CAST(:moments AS timestamptz[]))
        AS delivered (carrier, tracking, at)
    WHERE parcel.carrier = delivered.carrier AND parcel.tracking = delivered.tracking AND parcel.state = 'booked'
""")

# Two parcels of one order from one warehouse belong to two operations. Both are on their way; one should have been taken back.
_TWICE_ON_THEIR_WAY = text("""
    SELECT order_id, warehouse, count(*)
    FROM parcel
    WHERE state IN ('booked', 'delivered')
    GROUP BY order_id, warehouse
    HAVING count(*) > 1
    ORDER BY order_id, warehouse
    LIMIT :findings_max
""")

# The command of a planned parcel is pending or an open dead letter. Otherwise nothing would ever go on with the parcel.
_FORGOTTEN = text("""
    SELECT parcel.operation_id, parcel.order_id, parcel.warehouse, parcel.carrier
    FROM parcel
    LEFT JOIN operation ON operation.operation_id = parcel.operation_id
    WHERE parcel.state = 'planned' AND operation.pending_do IS NULL AND operation.pending_undo IS NULL
        AND operation.dead_do IS NOT TRUE AND operation.dead_undo IS NOT TRUE
    ORDER BY parcel.operation_id, parcel.warehouse
    LIMIT :findings_max
""")


class PostgresParcels:
    """Repository[Key, State]."""

    async def load(self, connection: AsyncConnection, keys: Sequence[Key]) -> Mapping[Key, State]:
        """One order for all locks: carriers, then parcels by operation and warehouse."""
        wanted = set(keys)
        states: dict[Key, State] = {}
        if carriers := sorted(key.id for key in wanted if key.kind == "carrier"):
            await _load_carriers(connection, carriers, states)
        if orders := sorted(key.id for key in wanted if key.kind == "order"):
            await _load_orders(connection, orders, states)
        if parcels := [key for key in wanted if key.kind == "parcel"]:
            await _load_deliveries(connection, parcels, states)
        return states

    async def save(self, connection: AsyncConnection, changed: Mapping[Key, State], facts: Sequence[object]) -> None:
        """At most one statement per kind."""
        if planned := [fact.parcel for fact in facts if isinstance(fact, ParcelPlanned)]:
            await _insert_parcels(connection, planned)
        # After the insert: one batch may hold both a shipment and its cancellation.
        orders = [state for state in changed.values() if isinstance(state, Order)]
        if parcels := [parcel for order in orders for parcel in order.parcels.values() if parcel.changed]:
            await _update_parcels(connection, parcels)
        if carriers := [state for state in changed.values() if isinstance(state, Carrier)]:
            await _update_carriers(connection, carriers)
        if delivered := {key: state for key, state in changed.items() if isinstance(state, Delivery)}:
            await _update_delivered(connection, delivered)


async def _load_carriers(connection: AsyncConnection, carriers: list[str], states: dict[Key, State]) -> None:
    await connection.execute(_INSERT_MISSING_CARRIERS, {"carriers": carriers})
    for row in await connection.execute(_LOCK_CARRIERS, {"carriers": carriers}):
        states[Key("carrier", row.carrier)] = _carrier(*row)


async def _load_orders(connection: AsyncConnection, orders: list[str], states: dict[Key, State]) -> None:
    rows = await connection.execute(_SELECT_CARRIERS, {"carriers_max": CARRIERS_MAX})
    carriers = tuple(_carrier(*row) for row in rows)
    parcels: dict[str, dict[tuple[str, str], Parcel]] = {order_id: {} for order_id in orders}
    for row in await connection.execute(_LOCK_PARCELS, {"orders": orders}):
        parcels[row.order_id][row.operation_id, row.warehouse] = Parcel(*row)
    states.update({Key("order", order_id): Order(carriers, known) for order_id, known in parcels.items()})


async def _load_deliveries(connection: AsyncConnection, keys: list[Key], states: dict[Key, State]) -> None:
    found = {key: Delivery() for key in keys}
    rows = await connection.execute(_LOCK_DELIVERIES, {"trackings": sorted({key.tracking for key in keys})})
    for carrier, tracking, delivered_at in rows:
        found[Key("parcel", carrier, tracking)] = Delivery(delivered_at)
    states.update({key: found[key] for key in keys})


def _carrier(
    carrier: str,
    booking: str,
    countries: list[str],
    service_levels: list[str],
    weight_grams_max: int,
    rank: int,
    active: bool,
    sequence: int,
) -> Carrier:
    return Carrier(
        carrier=carrier,
        booking="own-fleet" if booking == "own-fleet" else "http",
        countries=frozenset(countries),
        service_levels=tuple(service_levels),
        weight_grams_max=weight_grams_max,
        rank=rank,
        active=active,
        sequence=sequence,
    )


async def _insert_parcels(connection: AsyncConnection, planned: Sequence[Parcel]) -> None:
    await connection.execute(
        _INSERT_PARCELS,
        {
            "operations": [parcel.operation_id for parcel in planned],
            "orders": [parcel.order_id for parcel in planned],
            "warehouses": [parcel.warehouse for parcel in planned],
            "carriers": [parcel.carrier for parcel in planned],
            "external": [parcel.external for parcel in planned],
            "states": [parcel.state for parcel in planned],
            "trackings": [parcel.tracking for parcel in planned],
        },
    )


async def _update_parcels(connection: AsyncConnection, parcels: Sequence[Parcel]) -> None:
    await connection.execute(
        _UPDATE_PARCELS,
        {
            "operations": [parcel.operation_id for parcel in parcels],
            "warehouses": [parcel.warehouse for parcel in parcels],
            "carriers": [parcel.carrier for parcel in parcels],
            "external": [parcel.external for parcel in parcels],
            "states": [parcel.state for parcel in parcels],
            "trackings": [parcel.tracking for parcel in parcels],
            "refusals": [parcel.refusal for parcel in parcels],
        },
    )


async def _update_carriers(connection: AsyncConnection, carriers: Sequence[Carrier]) -> None:
    # An array of arrays must be rectangular, so the lists travel as text; no code in them contains a blank.
    await connection.execute(
        _UPDATE_CARRIERS,
        {
            "carriers": [carrier.carrier for carrier in carriers],
            "bookings": [carrier.booking for carrier in carriers],
            "countries": [" ".join(sorted(carrier.countries)) for carrier in carriers],
            "service_levels": [" ".join(carrier.service_levels) for carrier in carriers],
            "weights": [carrier.weight_grams_max for carrier in carriers],
            "ranks": [carrier.rank for carrier in carriers],
            "active": [carrier.active for carrier in carriers],
            "sequences": [carrier.sequence for carrier in carriers],
        },
    )


async def _update_delivered(connection: AsyncConnection, delivered: Mapping[Key, Delivery]) -> None:
    await connection.execute(
        _UPDATE_DELIVERED,
        {
            "carriers": [key.id for key in delivered],
            "trackings": [key.tracking for key in delivered],
            "moments": [delivery.at for delivery in delivered.values()],
        },
    )


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """Whether anything is on its way twice, and whether each planned parcel still has a command that waits. Reads only."""
    bound = {"findings_max": FINDINGS_MAX}
    doubled = [
        Finding(
            kind="doubled",
            id=f"{order_id}/{warehouse}",
            detail=f"{count} parcels of this order from this warehouse are on their way",
            command=f"tutti order show {order_id}",
        )
        for order_id, warehouse, count in await connection.execute(_TWICE_ON_THEIR_WAY, bound)
    ]
    forgotten = [
        Finding(
            kind="unanswered",
            id=f"{operation_id}/{warehouse}",
            detail=f"planned with {carrier}, and nothing waits for its answer",
            command=f"tutti order show {order_id}",
        )
        for operation_id, order_id, warehouse, carrier in await connection.execute(_FORGOTTEN, bound)
    ]
    return [*doubled, *forgotten]

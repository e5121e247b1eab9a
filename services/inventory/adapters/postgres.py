"""Items, stock, reservations and movements in PostgreSQL, a batch at a time.

The row of an item is the lock for everything about it: its stock in all warehouses, and its reservations. These are read
in statements after the one that locks, because a statement that waits for a lock sees the other rows as they were before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.errors import Permanent
from infra.chassis.hot_connection import write
from infra.chassis.service import Finding
from services.inventory.domain import (
    Item,
    Key,
    Order,
    Place,
    Reservation,
    ReservationEnded,
    State,
    Stock,
    StockMoved,
    StockOpened,
    StockReservation,
    Warehouse,
)

F = TypeVar("F")
FINDINGS_MAX = 1000

_INSERT_MISSING_ITEMS = text("""
    INSERT INTO item (sku)
    SELECT sku FROM unnest(CAST(:skus AS text[])) AS wanted (sku) ORDER BY sku
    ON CONFLICT DO NOTHING
""")

_LOCK_ITEMS = text("""
    SELECT sku, unit, weight_grams, reorder_point, recovery_level, sequence, low, alert_sequence
    FROM item
    WHERE sku = ANY (CAST(:skus AS text[]))
    ORDER BY sku
    FOR UPDATE
""")

_SELECT_STOCK = text("""
    SELECT stock.sku, stock.warehouse, warehouse.country, coalesce(warehouse.priority, 0), stock.on_hand, stock.reserved,
        stock.count_sequence
    FROM stock
    LEFT JOIN warehouse ON warehouse.warehouse = stock.warehouse
    WHERE stock.sku = ANY (CAST(:skus AS text[]))
""")

_SELECT_RESERVATIONS = text("""
    SELECT order_id, operation_id, sku, warehouse, quantity, state
    FROM reservation
    WHERE order_id = ANY (CAST(:orders AS text[])) AND state <> 'released'
""")

_INSERT_MISSING_WAREHOUSES = text("""
    INSERT INTO warehouse (warehouse)
    SELECT warehouse FROM unnest(CAST(:warehouses AS text[])) AS wanted (warehouse) ORDER BY warehouse
    ON CONFLICT DO NOTHING
""")

_LOCK_WAREHOUSES = text("""
    SELECT warehouse, country, priority, sequence
    FROM warehouse
    WHERE warehouse = ANY (CAST(:warehouses AS text[]))
    ORDER BY warehouse
    FOR UPDATE
""")

_INSERT_STOCK = text("""
    INSERT INTO stock (sku, warehouse)
    SELECT sku, warehouse FROM unnest(CAST(:skus AS text[]), CAST(:warehouses AS text[])) AS opened (sku, warehouse)
    ORDER BY sku, warehouse
""")

_UPDATE_STOCK = write("""
    UPDATE stock
    SET on_hand = changed.on_hand, reserved = changed.reserved, count_sequence = changed.count_sequence
    FROM unnest(
        CAST(:skus AS text[]), CAST(:warehouses AS text[]), CAST(:on_hand AS numeric[]), CAST(:reserved AS numeric[]),
        CAST(:sequences AS bigint[])
    ) AS changed (sku, warehouse, on_hand, reserved, count_sequence)
    WHERE stock.sku = changed.sku AND stock.warehouse = changed.warehouse
""")

_UPDATE_ITEMS = write("""
    UPDATE item
    SET unit = changed.unit, weight_grams = changed.weight_grams, reorder_point = changed.reorder_point,
        recovery_level = changed.recovery_level, sequence = changed.sequence, low = changed.low,
        alert_sequence = changed.alert_sequence
    FROM unnest(
        CAST(:skus AS text[]), CAST(:units AS text[]), CAST(:weights AS bigint[]), CAST(:reorder_points AS numeric[]),
        CAST(:recovery_levels AS numeric[]), CAST(:sequences AS bigint[]), CAST(:lows AS boolean[]),
        CAST(:alert_sequences AS bigint[])
    ) AS changed (sku, unit, weight_grams, reorder_point, recovery_level, sequence, low, alert_sequence)
    WHERE item.sku = changed.sku
""")

_UPDATE_WAREHOUSES = write("""
    UPDATE warehouse
    SET country = changed.country, priority = changed.priority, sequence = changed.sequence
    FROM unnest(
        CAST(:warehouses AS text[]), CAST(:countries AS text[]), CAST(:priorities AS integer[]), CAST(:sequences AS bigint[])
    ) AS changed (warehouse, country, priority, sequence)
    WHERE warehouse.warehouse = changed.warehouse
""")

_INSERT_RESERVATIONS = write("""
    INSERT INTO reservation (operation_id, order_id, sku, warehouse, quantity)
    SELECT operation_id, order_id, sku, warehouse, quantity
    FROM unnest(
        CAST(:operations AS text[]), CAST(:orders AS text[]), CAST(:skus AS text[]), CAST(:warehouses AS text[]),
        CAST(:quantities AS numeric[])
    ) AS made (operation_id, order_id, sku, warehouse, quantity)
    ORDER BY operation_id, sku, warehouse
""")

_END_RESERVATIONS = text("""
    UPDATE reservation
    SET state = ended.state, ended_at = now()
    FROM unnest(
        CAST(:operations AS text[]), CAST(:skus AS text[]), CAST(:warehouses AS text[]), CAST(:states AS text[])
    ) AS ended (operation_id, sku, warehouse, state)
    WHERE reservation.operation_id = ended.operation_id AND reservation.sku = ended.sku
        AND reservation.warehouse = ended.warehouse AND reservation.state = 'reserved'
    RETURNING reservation.operation_id
""")

_INSERT_MOVEMENTS = write("""
    INSERT INTO stock_movement (sku, warehouse, kind, quantity, unmet, cause)
    SELECT sku, warehouse, kind, quantity, unmet, cause
    FROM unnest(
        CAST(:skus AS text[]), CAST(:warehouses AS text[]), CAST(:kinds AS text[]), CAST(:quantities AS numeric[]),
        CAST(:unmet AS numeric[]), CAST(:causes AS text[])
    ) WITH ORDINALITY AS moved (sku, warehouse, kind, quantity, unmet, cause, position)
    ORDER BY position
""")

# One statement, and so one snapshot: rows that change meanwhile cannot look as if they disagreed.
_DISAGREEING_STOCK = text("""
    SELECT sku, warehouse, coalesce(stock.on_hand, 0), coalesce(stock.reserved, 0), coalesce(movement.on_hand, 0),
        coalesce(open.reserved, 0)
    FROM stock
    FULL JOIN (
        SELECT sku, warehouse, sum(quantity) AS on_hand FROM stock_movement GROUP BY sku, warehouse
    ) AS movement USING (sku, warehouse)
    FULL JOIN (
        SELECT sku, warehouse, sum(quantity) AS reserved FROM reservation WHERE state = 'reserved' GROUP BY sku, warehouse
    ) AS open USING (sku, warehouse)
    WHERE coalesce(stock.on_hand, 0) <> coalesce(movement.on_hand, 0)
        OR coalesce(stock.reserved, 0) <> coalesce(open.reserved, 0) OR stock.on_hand < 0
    ORDER BY sku, warehouse
    LIMIT :findings_max
""")


class PostgresStock:
    """Repository[Key, State].

    `keeps_new_items` is for facts: an item or a warehouse never heard of gets a row. Orders must not fill the tables with
    names that somebody made up; to them an item without a row is unknown, and there is nothing about it to lock.
    """

    def __init__(self, *, keeps_new_items: bool) -> None:
        self._keeps_new_items = keeps_new_items

    async def load(self, connection: AsyncConnection, keys: Sequence[Key]) -> Mapping[Key, State]:
        """Every change of stock or of a reservation happens under the lock of its item, taken here in sorted order."""
        wanted = set(keys)
        states: dict[Key, State] = {}
        if skus := sorted(key.id for key in wanted if key.kind == "item"):
            await self._load_items(connection, skus, states)
        if orders := sorted(key.id for key in wanted if key.kind == "order"):
            await _load_orders(connection, orders, states)
        if warehouses := sorted(key.id for key in wanted if key.kind == "warehouse"):
            await _load_warehouses(connection, warehouses, states)
        return states

    async def save(self, connection: AsyncConnection, changed: Mapping[Key, State], facts: Sequence[object]) -> None:
        """At most one statement per kind. Raises Permanent when a reservation to be ended is not open any more."""
        if opened := _of(facts, StockOpened):
            await connection.execute(_INSERT_STOCK, _places(fact.place for fact in opened))
        if made := _of(facts, StockReservation):
            await _insert_reservations(connection, made)
        # After the insert: one batch may hold both the reservation and its release.
        if ended := _of(facts, ReservationEnded):
            await _end_reservations(connection, ended)
        await _update_items(connection, [state for state in changed.values() if isinstance(state, Item)])
        if moved := _of(facts, StockMoved):
            await _insert_movements(connection, moved)
        if warehouses := {key.id: state for key, state in changed.items() if isinstance(state, Warehouse)}:
            await _update_warehouses(connection, warehouses)

    async def _load_items(self, connection: AsyncConnection, skus: list[str], states: dict[Key, State]) -> None:
        columns = {"skus": skus}
        items = (await connection.execute(_LOCK_ITEMS, columns)).all()
        if self._keeps_new_items and len(items) < len(skus):
            await connection.execute(_INSERT_MISSING_ITEMS, columns)
            items = (await connection.execute(_LOCK_ITEMS, columns)).all()
        stock: dict[str, dict[str, Stock]] = {sku: {} for sku in skus}
        for sku, warehouse, *rest in await connection.execute(_SELECT_STOCK, columns):
            stock[sku][warehouse] = Stock(warehouse, *rest)
        for sku, unit, weight, reorder_point, recovery_level, sequence, low, alert_sequence in items:
            states[Key("item", sku)] = Item(
                sku, unit, weight, reorder_point, recovery_level, sequence, low, alert_sequence, stock[sku]
            )
        for sku in skus:
            states.setdefault(Key("item", sku), Item(sku))


async def _load_orders(connection: AsyncConnection, orders: list[str], states: dict[Key, State]) -> None:
    found: dict[str, list[Reservation]] = {order_id: [] for order_id in orders}
    rows = await connection.execute(_SELECT_RESERVATIONS, {"orders": orders})
    for order_id, operation_id, sku, warehouse, quantity, state in rows:
        found[order_id].append(Reservation(operation_id, Place(sku, warehouse), quantity, state))
    states.update({Key("order", order_id): Order(tuple(reservations)) for order_id, reservations in found.items()})


async def _load_warehouses(connection: AsyncConnection, warehouses: list[str], states: dict[Key, State]) -> None:
    columns = {"warehouses": warehouses}
    await connection.execute(_INSERT_MISSING_WAREHOUSES, columns)
    for warehouse, country, priority, sequence in await connection.execute(_LOCK_WAREHOUSES, columns):
        states[Key("warehouse", warehouse)] = Warehouse(country, priority, sequence)


async def _update_items(connection: AsyncConnection, items: Sequence[Item]) -> None:
    stock = [(item.sku, row) for item in items for row in item.stock.values() if row.changed]
    if stock:
        await connection.execute(
            _UPDATE_STOCK,
            {
                "skus": [sku for sku, _ in stock],
                "warehouses": [row.warehouse for _, row in stock],
                "on_hand": [row.on_hand for _, row in stock],
                "reserved": [row.reserved for _, row in stock],
                "sequences": [row.count_sequence for _, row in stock],
            },
        )
    described = [item for item in items if item.changed]
    if described:
        await connection.execute(
            _UPDATE_ITEMS,
            {
                "skus": [item.sku for item in described],
                "units": [item.unit for item in described],
                "weights": [item.weight_grams for item in described],
                "reorder_points": [item.reorder_point for item in described],
                "recovery_levels": [item.recovery_level for item in described],
                "sequences": [item.sequence for item in described],
                "lows": [item.low for item in described],
                "alert_sequences": [item.alert_sequence for item in described],
            },
        )


async def _insert_reservations(connection: AsyncConnection, made: Sequence[StockReservation]) -> None:
    await connection.execute(
        _INSERT_RESERVATIONS,
        {
            **_places(fact.place for fact in made),
            "operations": [fact.operation_id for fact in made],
            "orders": [fact.order_id for fact in made],
            "quantities": [fact.quantity for fact in made],
        },
    )


async def _end_reservations(connection: AsyncConnection, ended: Sequence[ReservationEnded]) -> None:
    rows = await connection.execute(
        _END_RESERVATIONS,
        {
            **_places(fact.place for fact in ended),
            "operations": [fact.operation_id for fact in ended],
            "states": [fact.state for fact in ended],
        },
    )
    # Its quantity was taken off the sums; if it had ended before, that quantity belonged to another order. The loop takes
    # the batch again one by one and finds the message.
    found = len(rows.all())
    if found != len(ended):
        operations = ", ".join(sorted({fact.operation_id for fact in ended})[:5])
        raise Permanent(
            f"{found} of {len(ended)} reservations could be ended ({operations}): the others have ended or never "
            "were; compare inventory.reservation with the orders' ends"
        )


async def _insert_movements(connection: AsyncConnection, moved: Sequence[StockMoved]) -> None:
    await connection.execute(
        _INSERT_MOVEMENTS,
        {
            **_places(fact.place for fact in moved),
            "kinds": [fact.kind for fact in moved],
            "quantities": [fact.quantity for fact in moved],
            "unmet": [fact.unmet for fact in moved],
            "causes": [fact.cause for fact in moved],
        },
    )


async def _update_warehouses(connection: AsyncConnection, warehouses: Mapping[str, Warehouse]) -> None:
    await connection.execute(
        _UPDATE_WAREHOUSES,
        {
            "warehouses": list(warehouses),
            "countries": [warehouse.country for warehouse in warehouses.values()],
            "priorities": [warehouse.priority for warehouse in warehouses.values()],
            "sequences": [warehouse.sequence for warehouse in warehouses.values()],
        },
    )


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """Whether what is on hand is the sum of its movements, and what is reserved the sum of the open reservations.

    Reads only. Names the first thousand places that disagree.
    """
    rows = await connection.execute(_DISAGREEING_STOCK, {"findings_max": FINDINGS_MAX})
    return [
        Finding(
            kind="unexplained",
            id=f"{sku}/{warehouse}",
            detail=(
                f"the stock says on hand {on_hand}, reserved {reserved}; its movements say {moved}, its open reservations {held}"
            ),
            command="tutti logs inventory",
        )
        for sku, warehouse, on_hand, reserved, moved, held in rows
    ]


def _places(places: Iterable[Place]) -> dict[str, Any]:
    listed = list(places)
    return {"skus": [place.sku for place in listed], "warehouses": [place.warehouse for place in listed]}


def _of(facts: Sequence[object], kind: type[F]) -> list[F]:
    return [fact for fact in facts if isinstance(fact, kind)]

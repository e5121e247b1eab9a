"""What inventory does with each message: message and states in, states and answer out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

from contracts.inventory.v1 import (
    Availability,
    AvailabilityReported,
    ItemChanged,
    QueryAvailability,
    ReleaseStock,
    ReserveStock,
    Shortage,
    StockCounted,
    StockLow,
    StockReceived,
    StockRecovered,
    StockReleased,
    StockReserved,
    StockShort,
    WarehouseChanged,
)
from contracts.message import Event
from contracts.orders.v1 import OrderCompleted
from contracts.values import LINES_MAX
from infra.chassis.errors import Permanent
from infra.chassis.service import Context, Decision
from services.inventory.allocation import Allocated, Short, allocate, by_place
from services.inventory.domain import (
    Item,
    Key,
    Order,
    Place,
    ReservationEnded,
    State,
    StockMoved,
    StockOpened,
    StockReservation,
    Warehouse,
    level,
)

States = Mapping[Key, State]
REPORTED_MAX = LINES_MAX * 10


def items_of(command: ReserveStock) -> Sequence[Key]:
    return [Key("item", line.sku) for line in command.lines]


def items_and_order(command: ReleaseStock) -> Sequence[Key]:
    return [*(Key("item", line.sku) for line in command.lines), Key("order", command.order_id)]


def items_asked_for(command: QueryAvailability) -> Sequence[Key]:
    return [Key("item", sku) for sku in command.skus]


def items_sent(event: OrderCompleted) -> Sequence[Key]:
    return [*(Key("item", part.sku) for part in event.allocations), Key("order", event.order_id)]


def item_of(event: StockReceived | StockCounted | ItemChanged) -> Key:
    return Key("item", event.sku)


def warehouse_of(event: WarehouseChanged) -> Key:
    return Key("warehouse", event.warehouse)


def reserve_stock(command: ReserveStock, states: States, context: Context) -> Decision[States]:
    items = {line.sku: _item(states, line.sku) for line in command.lines}
    match allocate(command.lines, items, command.ship_to.country, split_allowed=command.split_allowed):
        case Short(missing=missing, reasons=reasons):
            shortages = tuple(Shortage(sku=lack.sku, requested=lack.requested, available=lack.available) for lack in missing)
            return Decision(states, StockShort(order_id=command.order_id, missing=shortages, reasons=reasons))
        case Allocated(parts=parts):
            sums = by_place(parts)
            after, alerts = _moved(states, sums, Item.reserve)
            return Decision(
                after,
                StockReserved(order_id=command.order_id, allocations=parts),
                events=alerts,
                facts=tuple(
                    StockReservation(context.operation_id, command.order_id, place, quantity) for place, quantity in sums.items()
                ),
            )


def release_stock(command: ReleaseStock, states: States, context: Context, done: StockReserved | None) -> Decision[States]:
    """Gives back what the reservation of the same operation answered, without what has left the warehouse meanwhile."""
    # None where nothing was reserved, as after StockShort.
    reserved = done.allocations if isinstance(done, StockReserved) else ()
    gone = _order(states, command.order_id).committed(context.operation_id)
    returned = tuple(part for part in reserved if Place(part.sku, part.warehouse) not in gone)
    sums = by_place(returned)
    after, alerts = _moved(states, sums, Item.release)
    return Decision(
        after,
        StockReleased(order_id=command.order_id, allocations=returned),
        events=alerts,
        facts=tuple(ReservationEnded(context.operation_id, place, "released") for place in sums),
    )


def query_availability(command: QueryAvailability, states: States, context: Context) -> Decision[States]:
    """Reports every warehouse that keeps one of the items; where there are too many, those that have some come first."""
    found = [
        (sku, stock.warehouse, level(stock.free))
        for sku in dict.fromkeys(command.skus)
        for stock in _item(states, sku).stock.values()
        if stock.country is not None
    ]
    found.sort(key=lambda row: (not row[2], row[0], row[1]))
    reported = tuple(
        Availability(sku=sku, warehouse=warehouse, available=available) for sku, warehouse, available in found[:REPORTED_MAX]
    )
    return Decision(states, AvailabilityReported(query_id=command.query_id, stock=reported))


def commit_stock(event: OrderCompleted, states: States, context: Context) -> Decision[States]:
    """What was set aside for the order leaves the warehouses. The same event again changes nothing.

    Raises Permanent when the order's reservations are not what it says it was completed with: to guess would take
    another order's stock.
    """
    order = _order(states, event.order_id)
    wanted = by_place(event.allocations)
    backing = order.backing(wanted)
    if backing is None:
        raise Permanent(
            f"order {event.order_id} was completed with stock that is not reserved for it; compare its allocations with "
            "its rows in inventory.reservation"
        )
    after: dict[Key, State] = dict(states)
    facts: list[object] = []
    for reservation in backing:
        place = reservation.place
        result = _item(after, place.sku).commit(place.warehouse, reservation.quantity)
        after[Key("item", place.sku)] = result.item
        facts.append(ReservationEnded(reservation.operation_id, place, "committed"))
        facts.append(StockMoved(place, "committed", -result.gone, reservation.operation_id, result.unmet))
    if not backing:
        return Decision(states)
    after[Key("order", event.order_id)] = order.commit(backing)
    alerts = _watch(after, {reservation.place.sku for reservation in backing})
    return Decision(after, events=alerts, facts=tuple(facts))


def receive_stock(event: StockReceived, item: State, context: Context) -> Decision[State]:
    assert isinstance(item, Item)
    return _kept(item, item.receive(event.warehouse, event.quantity, event.sequence), event, context)


def count_stock(event: StockCounted, item: State, context: Context) -> Decision[State]:
    assert isinstance(item, Item)
    return _kept(item, item.count(event.warehouse, event.on_hand, event.sequence), event, context)


def change_item(event: ItemChanged, item: State, context: Context) -> Decision[State]:
    assert isinstance(item, Item)
    described = item.describe(event.unit, event.weight_grams, event.reorder_point, event.recovery_level, event.sequence)
    if described is item:
        return Decision(item)
    after, alerts = _watched(described)
    return Decision(after, events=alerts)


def change_warehouse(event: WarehouseChanged, warehouse: State, context: Context) -> Decision[State]:
    assert isinstance(warehouse, Warehouse)
    return Decision(warehouse.describe(event.country, event.priority, event.sequence))


def _kept(before: Item, after: Item | None, event: StockReceived | StockCounted, context: Context) -> Decision[State]:
    """A change of what is on hand, with its line in the ledger; None is a stale fact."""
    if after is None:
        return Decision(before)
    place = Place(event.sku, event.warehouse)
    delta = after.at(place.warehouse).on_hand - before.at(place.warehouse).on_hand
    # Ids are unique per source only.
    cause = f"{context.envelope.source}#{context.envelope.id}"
    moved = StockMoved(place, "received" if isinstance(event, StockReceived) else "counted", delta, cause)
    opened = () if place.warehouse in before.stock else (StockOpened(place),)
    watched, alerts = _watched(after)
    return Decision(watched, events=alerts, facts=(*opened, moved))


def _moved(
    states: States, sums: Mapping[Place, Decimal], move: Callable[[Item, str, Decimal], Item]
) -> tuple[States, tuple[Event, ...]]:
    after: dict[Key, State] = dict(states)
    for place, quantity in sums.items():
        after[Key("item", place.sku)] = move(_item(after, place.sku), place.warehouse, quantity)
    return after, _watch(after, {place.sku for place in sums})


def _watch(states: dict[Key, State], skus: Iterable[str]) -> tuple[Event, ...]:
    """Replaces those items that have become low or recovered, and says so."""
    said: list[Event] = []
    for sku in sorted(skus):
        watched, alerts = _watched(_item(states, sku))
        states[Key("item", sku)] = watched
        said.extend(alerts)
    return tuple(said)


def _watched(item: Item) -> tuple[Item, tuple[Event, ...]]:
    after, alert = item.watch()
    if alert is None:
        return after, ()
    if alert.low:
        low = StockLow(sku=item.sku, available=alert.available, reorder_point=item.reorder_point, sequence=alert.sequence)
        return after, (low,)
    return after, (StockRecovered(sku=item.sku, available=alert.available, sequence=alert.sequence),)


def _item(states: States, sku: str) -> Item:
    item = states.get(Key("item", sku))
    if not isinstance(item, Item):
        raise Permanent(f"the message speaks of item {sku} and does not list it among its lines; correct its payload")
    return item


def _order(states: States, order_id: str) -> Order:
    order = states[Key("order", order_id)]
    assert isinstance(order, Order)
    return order

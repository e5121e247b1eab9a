from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.envelope import Envelope
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
from contracts.orders.v1 import OrderCompleted
from contracts.values import Address, Allocation, Money, OrderLine
from infra.chassis.errors import Permanent
from infra.chassis.service import Context
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
from services.inventory.handlers import (
    change_item,
    change_warehouse,
    commit_stock,
    count_stock,
    items_and_order,
    items_of,
    items_sent,
    query_availability,
    receive_stock,
    release_stock,
    reserve_stock,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = "ord_00000000000000000001"
OPERATION = "saga-1:reserve-stock"
BERLIN = Place("P-1", "berlin")
ITEM_KEY, ORDER_KEY = Key("item", "P-1"), Key("order", ORDER)
SHIP_TO = Address(name="Ada", lines=("Weg 1",), city="Berlin", postal_code="10115", country="DE")


def context(operation: str | None = OPERATION) -> Context:
    envelope = Envelope(id="m-1", source="/wms", type="t", time=NOW, data={}, operationid=operation)
    return Context(now=NOW, envelope=envelope, new_id=lambda: "id", random=lambda: 0.5)


def item(on_hand: int = 10, reserved: int = 0, *, low: bool = False) -> Item:
    return Item(
        "P-1",
        unit="C62",
        weight_grams=100,
        reorder_point=Decimal(3),
        recovery_level=Decimal(6),
        low=low,
        alert_sequence=7,
        stock={"berlin": Stock("berlin", "DE", 1, Decimal(on_hand), Decimal(reserved))},
    )


def lines(quantity: int = 4) -> tuple[OrderLine, ...]:
    return (OrderLine(line="1", sku="P-1", quantity=Decimal(quantity), unit="C62"),)


def reserve(quantity: int = 4) -> ReserveStock:
    return ReserveStock(order_id=ORDER, lines=lines(quantity), ship_to=SHIP_TO)


def part(quantity: int = 4, sku: str = "P-1") -> Allocation:
    return Allocation(
        line="1", sku=sku, warehouse="berlin", country="DE", quantity=Decimal(quantity), weight_grams=quantity * 100
    )


def completed(*parts: Allocation) -> OrderCompleted:
    return OrderCompleted(
        order_id=ORDER,
        order_number="4711",
        partner_id="acme",
        buyer_id="C-1",
        total=Money(amount_minor=1, currency="EUR"),
        allocations=parts,
        shipments=(),
    )


def stock_of(states: Mapping[Key, State] | State) -> Stock:
    found = states[ITEM_KEY] if isinstance(states, Mapping) else states
    assert isinstance(found, Item)
    return found.at("berlin")


def held(quantity: int = 4) -> Order:
    return Order((Reservation(OPERATION, BERLIN, Decimal(quantity)),))


def test_a_reservation_is_answered_with_its_parts_and_recorded_under_its_operation():
    decision = reserve_stock(reserve(4), {ITEM_KEY: item(10)}, context())

    assert decision.answer == StockReserved(order_id=ORDER, allocations=(part(4),))
    assert decision.facts == (StockReservation(OPERATION, ORDER, BERLIN, Decimal(4)),)
    assert stock_of(decision.state).free == 6
    assert decision.events == ()


def test_an_order_that_is_short_changes_nothing_and_says_what_is_missing():
    states = {ITEM_KEY: item(10, 8)}

    decision = reserve_stock(reserve(4), states, context())

    assert isinstance(decision.answer, StockShort)
    assert decision.answer.missing == (Shortage(sku="P-1", requested=Decimal(4), available=Decimal(2)),)
    assert decision.answer.reasons[0].code == "stock-short"
    assert decision.state is states
    assert not decision.facts


def test_the_reservation_that_brings_an_item_to_its_reorder_point_says_so():
    decision = reserve_stock(reserve(7), {ITEM_KEY: item(10)}, context())

    assert decision.events == (StockLow(sku="P-1", available=Decimal(3), reorder_point=Decimal(3), sequence=8),)


def test_reservations_of_one_batch_see_each_other():
    first = reserve_stock(reserve(7), {ITEM_KEY: item(10)}, context())
    second = reserve_stock(reserve(4), first.state, context("saga-2:reserve-stock"))

    assert isinstance(first.answer, StockReserved)
    assert isinstance(second.answer, StockShort)


def test_a_release_gives_back_what_its_operation_reserved_and_lets_the_item_recover():
    states = {ITEM_KEY: item(10, 7, low=True), ORDER_KEY: held(7)}
    done = StockReserved(order_id=ORDER, allocations=(part(7),))

    decision = release_stock(ReleaseStock(order_id=ORDER, lines=lines()), states, context(), done)

    assert decision.answer == StockReleased(order_id=ORDER, allocations=(part(7),))
    assert decision.facts == (ReservationEnded(OPERATION, BERLIN, "released"),)
    assert stock_of(decision.state).free == 10
    assert decision.events == (StockRecovered(sku="P-1", available=Decimal(10), sequence=8),)


def test_a_release_without_a_reservation_is_answered_and_changes_nothing():
    states = {ITEM_KEY: item(10, 7), ORDER_KEY: Order()}

    decision = release_stock(ReleaseStock(order_id=ORDER, lines=lines()), states, context(), None)

    assert decision.answer == StockReleased(order_id=ORDER, allocations=())
    assert dict(decision.state) == states
    assert not decision.facts


def test_a_release_after_the_order_was_completed_does_not_bring_the_goods_back():
    committed = held(4).commit(held(4).reservations)
    states = {ITEM_KEY: item(6), ORDER_KEY: committed}
    done = StockReserved(order_id=ORDER, allocations=(part(4),))

    decision = release_stock(ReleaseStock(order_id=ORDER, lines=lines()), states, context(), done)

    assert decision.answer == StockReleased(order_id=ORDER, allocations=())
    assert dict(decision.state) == states


def test_a_release_that_does_not_list_what_was_reserved_is_a_fault_of_its_sender():
    states = {ITEM_KEY: item(10), ORDER_KEY: Order()}
    done = StockReserved(order_id=ORDER, allocations=(part(4, sku="P-2"),))

    with pytest.raises(Permanent, match="P-2"):
        release_stock(ReleaseStock(order_id=ORDER, lines=lines()), states, context(), done)


def test_a_completed_order_takes_its_goods_out_of_the_warehouse_and_of_the_ledger():
    decision = commit_stock(completed(part(4)), {ITEM_KEY: item(10, 4), ORDER_KEY: held(4)}, context(None))

    assert (stock_of(decision.state).on_hand, stock_of(decision.state).reserved) == (6, 0)
    assert decision.facts == (
        ReservationEnded(OPERATION, BERLIN, "committed"),
        StockMoved(BERLIN, "committed", Decimal(-4), OPERATION),
    )


def test_an_order_completed_twice_takes_its_goods_once():
    first = commit_stock(completed(part(4)), {ITEM_KEY: item(10, 4), ORDER_KEY: held(4)}, context(None))
    second = commit_stock(completed(part(4)), first.state, context(None))

    assert second.state is first.state
    assert not second.facts


def test_an_order_completed_with_stock_that_it_never_reserved_is_refused_for_a_person_to_look_at():
    with pytest.raises(Permanent, match="not reserved"):
        commit_stock(completed(part(5)), {ITEM_KEY: item(10, 4), ORDER_KEY: held(4)}, context(None))


def test_what_a_count_had_not_found_is_recorded_when_it_should_have_left():
    decision = commit_stock(completed(part(4)), {ITEM_KEY: item(1, 4), ORDER_KEY: held(4)}, context(None))

    assert decision.facts[1] == StockMoved(BERLIN, "committed", Decimal(-1), OPERATION, Decimal(3))


def test_received_goods_are_added_with_a_line_in_the_ledger():
    event = StockReceived(warehouse="berlin", sku="P-1", quantity=Decimal("2.5"))

    decision = receive_stock(event, item(10), context(None))

    assert stock_of(decision.state).on_hand == Decimal("12.5")
    assert decision.facts == (StockMoved(BERLIN, "received", Decimal("2.5"), "/wms#m-1"),)


def test_the_first_goods_of_an_item_in_a_warehouse_open_its_stock():
    event = StockReceived(warehouse="paris", sku="P-1", quantity=Decimal(2))

    decision = receive_stock(event, item(10), context(None))

    assert decision.facts[0] == StockOpened(Place("P-1", "paris"))


def test_a_count_replaces_what_is_on_hand_and_the_ledger_gets_the_difference():
    event = StockCounted(warehouse="berlin", sku="P-1", on_hand=Decimal(2), sequence=3)

    decision = count_stock(event, item(10), context(None))

    assert stock_of(decision.state).on_hand == 2
    assert decision.facts == (StockMoved(BERLIN, "counted", Decimal(-8), "/wms#m-1"),)
    assert decision.events == (StockLow(sku="P-1", available=Decimal(2), reorder_point=Decimal(3), sequence=8),)


def test_a_stale_count_leaves_everything_as_it_is():
    event = StockCounted(warehouse="berlin", sku="P-1", on_hand=Decimal(2), sequence=3)
    counted = count_stock(event, item(10), context(None)).state

    decision = count_stock(event, counted, context(None))

    assert decision.state is counted
    assert (decision.facts, decision.events) == ((), ())


def test_a_new_description_is_compared_with_the_stock_at_once():
    event = ItemChanged(sku="P-1", unit="C62", weight_grams=5, reorder_point=Decimal(20), recovery_level=Decimal(30), sequence=9)

    decision = change_item(event, item(10), context(None))

    assert isinstance(decision.state, Item)
    assert decision.state.weight_grams == 5
    assert decision.events == (StockLow(sku="P-1", available=Decimal(10), reorder_point=Decimal(20), sequence=8),)
    assert change_item(event, decision.state, context(None)).state is decision.state


def test_a_warehouse_is_replaced_by_what_is_said_of_it():
    event = WarehouseChanged(warehouse="berlin", country="DE", priority=2, sequence=4)

    assert change_warehouse(event, Warehouse(), context(None)).state == Warehouse("DE", 2, 4)


def test_availability_is_reported_by_warehouse_and_holds_nothing():
    states = {ITEM_KEY: item(10, 4), Key("item", "P-2"): Item("P-2")}

    decision = query_availability(QueryAvailability(query_id="q-1", skus=("P-1", "P-2")), states, context())

    assert decision.answer == AvailabilityReported(
        query_id="q-1", stock=(Availability(sku="P-1", warehouse="berlin", available=Decimal(6)),)
    )
    assert decision.state is states


def test_each_message_names_the_states_that_its_decision_needs():
    assert list(items_of(reserve())) == [ITEM_KEY]
    assert list(items_and_order(ReleaseStock(order_id=ORDER, lines=lines()))) == [ITEM_KEY, ORDER_KEY]
    assert list(items_sent(completed(part()))) == [ITEM_KEY, ORDER_KEY]

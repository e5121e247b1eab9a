from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.inventory.v1 import Shortage
from services.inventory.domain import (
    LEVEL_MAX,
    Alert,
    Item,
    Order,
    Place,
    Reservation,
    Stock,
    Warehouse,
    level,
)

BERLIN = Place("P-1", "berlin")
PARIS = Place("P-1", "paris")


def item(on_hand: str = "10", reserved: str = "0", *, low: bool = False, counted: int = -1) -> Item:
    stock = Stock("berlin", "DE", 1, Decimal(on_hand), Decimal(reserved), counted)
    return Item(
        "P-1",
        unit="C62",
        reorder_point=Decimal(3),
        recovery_level=Decimal(6),
        sequence=1,
        low=low,
        alert_sequence=4,
        stock={"berlin": stock},
    )


def test_what_is_reserved_is_no_longer_free_and_comes_back_when_released():
    reserved = item("10").reserve("berlin", Decimal(4))
    released = reserved.release("berlin", Decimal(4))

    assert (reserved.at("berlin").on_hand, reserved.at("berlin").free) == (Decimal(10), Decimal(6))
    assert released.at("berlin").free == Decimal(10)


def test_more_than_is_free_cannot_be_reserved():
    with pytest.raises(AssertionError):
        item("10", "7").reserve("berlin", Decimal(4))


def test_a_committed_quantity_leaves_both_what_is_on_hand_and_what_is_reserved():
    result = item("10", "4").commit("berlin", Decimal(4))

    stock = result.item.at("berlin")
    assert (stock.on_hand, stock.reserved, result.gone, result.unmet) == (Decimal(6), 0, Decimal(4), 0)


def test_what_a_count_has_not_found_cannot_leave_and_is_named():
    result = item("3", "5").commit("berlin", Decimal(5))

    stock = result.item.at("berlin")
    assert (stock.on_hand, stock.reserved, result.gone, result.unmet) == (0, 0, Decimal(3), Decimal(2))


def test_a_count_below_what_is_promised_leaves_nothing_free_and_keeps_the_promises():
    counted = item("10", "5").count("berlin", Decimal(2), 7)

    assert counted is not None
    stock = counted.at("berlin")
    assert (stock.on_hand, stock.reserved, stock.free) == (Decimal(2), Decimal(5), 0)


@pytest.mark.parametrize("sequence", [6, 7])
def test_a_count_that_is_not_newer_than_the_last_is_ignored(sequence: int):
    assert item(counted=7).count("berlin", Decimal(2), sequence) is None


def test_goods_received_before_the_last_count_are_in_it_already():
    assert item("10", counted=7).receive("berlin", Decimal(5), 6) is None


@pytest.mark.parametrize("sequence", [None, 7, 8])
def test_goods_received_otherwise_are_added(sequence: int | None):
    received = item("10", counted=7).receive("berlin", Decimal("2.5"), sequence)

    assert received is not None
    assert received.at("berlin").on_hand == Decimal("12.5")


def test_goods_open_the_stock_of_a_warehouse_that_never_had_any():
    received = item("10").receive("paris", Decimal(2), None)

    assert received is not None
    assert received.at("paris") == Stock("paris", on_hand=Decimal(2), changed=True)


def test_more_than_a_message_could_tell_is_not_kept():
    with pytest.raises(ValueError, match="cannot be kept"):
        item("999999999.999").receive("berlin", Decimal(1), None)


@pytest.mark.parametrize(
    ("on_hand", "low", "said"),
    [
        ("4", False, None),
        ("3", False, Alert(True, Decimal(3), 5)),
        ("0", False, Alert(True, Decimal(0), 5)),
        ("2", True, None),
        ("4", True, None),
        ("5", True, None),
        ("6", True, Alert(False, Decimal(6), 5)),
        ("6", False, None),
    ],
)
def test_low_is_said_once_at_the_reorder_point_and_recovered_once_at_the_recovery_level(
    on_hand: str, low: bool, said: Alert | None
):
    after, alert = item(on_hand, low=low).watch()

    assert alert == said
    assert after.low is (said.low if said else low)
    assert after.alert_sequence == (5 if said else 4)


def test_all_warehouses_together_decide_whether_an_item_is_low():
    received = item("2").receive("paris", Decimal(2), None)

    assert received is not None
    assert received.watch()[1] is None


def test_levels_that_are_equal_do_not_flutter():
    flat = item("3", low=True).describe("C62", 0, Decimal(3), Decimal(3), 2)

    assert flat.watch()[1] is None


def test_nothing_is_said_of_an_item_that_no_warehouse_has_ever_kept_or_nobody_has_described():
    assert Item("P-1", unit="C62").watch()[1] is None
    assert Item("P-1", stock={"berlin": Stock("berlin")}).watch()[1] is None


def test_descriptions_that_are_not_newer_are_ignored():
    known = item()
    warehouse = Warehouse("DE", 1, 5)

    assert known.describe("KGM", 5, Decimal(1), Decimal(2), 1) is known
    assert known.describe("KGM", 5, Decimal(1), Decimal(2), 2).unit == "KGM"
    assert warehouse.describe("FR", 2, 5) is warehouse
    assert warehouse.describe("FR", 2, 6) == Warehouse("FR", 2, 6)


def test_an_order_is_backed_by_the_reservations_of_one_operation_even_when_another_holds_some_too():
    ours = Reservation("s:reserve", BERLIN, Decimal(4))
    order = Order((ours, Reservation("s:late", BERLIN, Decimal(4)), Reservation("s:late", PARIS, Decimal(1))))

    assert order.backing({BERLIN: Decimal(4)}) == (ours,)


def test_an_order_is_backed_by_all_its_operations_when_only_together_they_add_up():
    both = (Reservation("s:reserve/1", BERLIN, Decimal(4)), Reservation("s:reserve/2", BERLIN, Decimal(1)))

    assert Order(both).backing({BERLIN: Decimal(5)}) == both


def test_what_was_committed_before_needs_nothing_more():
    reservation = Reservation("s:reserve", BERLIN, Decimal(4))
    order = Order((reservation,)).commit((reservation,))

    assert order.backing({BERLIN: Decimal(4)}) == ()
    assert order.committed("s:reserve") == {BERLIN}
    assert order.committed("s:other") == frozenset()


@pytest.mark.parametrize("wanted", [{BERLIN: Decimal(3)}, {PARIS: Decimal(4)}, {}])
def test_stock_that_is_not_what_was_reserved_backs_nothing(wanted: dict[Place, Decimal]):
    order = Order((Reservation("s:reserve", BERLIN, Decimal(4)),))

    assert order.backing(wanted) in (None, ())
    assert order.backing({BERLIN: Decimal(4)}) == order.reservations


@given(st.decimals(min_value=0, max_value=10**11, places=3))
def test_every_quantity_has_a_form_that_a_message_can_carry_and_that_promises_no_more(quantity: Decimal):
    told = level(quantity)

    assert told <= quantity
    assert told == quantity or quantity > LEVEL_MAX
    assert Shortage(sku="P-1", requested=told, available=told).requested == told
    assert "E" not in str(told)

from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.values import Allocation, OrderLine
from services.inventory.allocation import Allocated, Missing, Short, allocate, by_place
from services.inventory.domain import Item, Place, Stock

COUNTRY = {"berlin": "DE", "bonn": "DE", "paris": "FR", "boston": "US", "nowhere": None}
PRIORITY = {"berlin": 2, "bonn": 1, "paris": 1, "boston": 1, "nowhere": 1}


def item(sku: str, stock: Mapping[str, int | str], *, unit: str | None = "C62", weight_grams: int = 100) -> Item:
    levels = {
        warehouse: Stock(warehouse, COUNTRY[warehouse], PRIORITY[warehouse], Decimal(on_hand))
        for warehouse, on_hand in stock.items()
    }
    return Item(sku, unit=unit, weight_grams=weight_grams, stock=levels)


def line(number: str, sku: str, quantity: str = "1", unit: str = "C62") -> OrderLine:
    return OrderLine(line=number, sku=sku, quantity=Decimal(quantity), unit=unit)


def run(lines: list[OrderLine], *items: Item, country: str = "DE", split: bool = True) -> Allocated | Short:
    return allocate(lines, {item.sku: item for item in items}, country, split_allowed=split)


def parts(result: Allocated | Short) -> list[tuple[str, str, Decimal]]:
    assert isinstance(result, Allocated)
    return [(part.line, part.warehouse, part.quantity) for part in result.parts]


def test_a_part_says_where_it_comes_from_and_what_it_weighs_rounded_up():
    result = run([line("1", "P-1", "2.505", "KGM")], item("P-1", {"berlin": 10}, unit="KGM", weight_grams=1001))

    assert isinstance(result, Allocated)
    assert result.parts == (
        Allocation(line="1", sku="P-1", warehouse="berlin", country="DE", quantity=Decimal("2.505"), weight_grams=2508),
    )


@pytest.mark.parametrize(
    ("stock", "chosen"),
    [
        ({"berlin": 5, "paris": 5, "boston": 5}, "berlin"),
        ({"paris": 5, "boston": 5}, "paris"),
        ({"berlin": 5, "bonn": 5}, "bonn"),
        ({"berlin": 1, "boston": 5}, "boston"),
    ],
    ids=["same country first", "then the same region", "then priority", "one that has it all before two nearer ones"],
)
def test_one_warehouse_serves_the_order_where_it_can(stock: dict[str, int], chosen: str):
    assert parts(run([line("1", "P-1", "3")], item("P-1", stock))) == [("1", chosen, Decimal(3))]


def test_of_warehouses_alike_the_one_with_more_stock_serves():
    two = Item(
        "P-1",
        unit="C62",
        stock={
            "a": Stock("a", "DE", 1, Decimal(5)),
            "b": Stock("b", "DE", 1, Decimal(9)),
        },
    )

    assert parts(run([line("1", "P-1", "3")], two)) == [("1", "b", Decimal(3))]


def test_all_lines_come_from_one_warehouse_although_each_has_a_nearer_one():
    result = run(
        [line("1", "P-1"), line("2", "P-2")], item("P-1", {"berlin": 1, "boston": 1}), item("P-2", {"bonn": 1, "boston": 1})
    )

    assert parts(result) == [("1", "boston", Decimal(1)), ("2", "boston", Decimal(1))]


def test_a_split_keeps_each_line_whole_where_one_warehouse_can_serve_it():
    result = run([line("1", "P-1", "4"), line("2", "P-2", "1")], item("P-1", {"berlin": 3, "bonn": 4}), item("P-2", {"paris": 1}))

    assert parts(result) == [("1", "bonn", Decimal(4)), ("2", "paris", Decimal(1))]


def test_a_split_prefers_a_warehouse_that_serves_the_order_already_over_one_of_better_priority():
    result = run(
        [line("1", "P-1"), line("2", "P-2"), line("3", "P-3")],
        item("P-1", {"berlin": 1}),
        item("P-2", {"berlin": 1, "bonn": 1}),
        item("P-3", {"paris": 1}),
    )

    assert parts(result) == [("1", "berlin", Decimal(1)), ("2", "berlin", Decimal(1)), ("3", "paris", Decimal(1))]


def test_a_line_that_no_warehouse_can_serve_alone_is_split_from_near_to_far():
    result = run([line("1", "P-1", "10")], item("P-1", {"boston": 9, "paris": 4, "bonn": 2}))

    assert parts(result) == [
        ("1", "bonn", Decimal(2)),
        ("1", "paris", Decimal(4)),
        ("1", "boston", Decimal(4)),
    ]


def test_two_lines_with_the_same_item_share_its_stock():
    enough = run([line("1", "P-1", "6"), line("2", "P-1", "4")], item("P-1", {"berlin": 7, "bonn": 3}))
    short = run([line("1", "P-1", "6"), line("2", "P-1", "5")], item("P-1", {"berlin": 7, "bonn": 3}))

    assert isinstance(enough, Allocated)
    assert by_place(enough.parts) == {Place("P-1", "berlin"): Decimal(7), Place("P-1", "bonn"): Decimal(3)}
    assert isinstance(short, Short)
    assert short.missing == (Missing("P-1", Decimal(11), Decimal(10)),)
    assert [reason.detail.split(":")[0] for reason in short.reasons] == ["line 1", "line 2"]


def test_an_order_that_must_not_be_split_comes_from_one_warehouse_or_not_at_all():
    lines = [line("1", "P-1"), line("2", "P-2")]
    together = run(lines, item("P-1", {"bonn": 1, "berlin": 1}), item("P-2", {"berlin": 1}), split=False)
    apart = run(lines, item("P-1", {"bonn": 1}), item("P-2", {"berlin": 1}), split=False)

    assert parts(together) == [("1", "berlin", Decimal(1)), ("2", "berlin", Decimal(1))]
    assert isinstance(apart, Short)
    assert apart.missing == (Missing("P-2", Decimal(1), Decimal(0)),)
    assert [reason.code for reason in apart.reasons] == ["no-single-warehouse"]


def test_stock_in_a_warehouse_of_unknown_place_is_not_promised():
    result = run([line("1", "P-1", "3")], item("P-1", {"nowhere": 9, "berlin": 2}))

    assert isinstance(result, Short)
    assert result.missing == (Missing("P-1", Decimal(3), Decimal(2)),)


def test_everything_that_is_wrong_with_an_order_is_said_at_once_line_by_line():
    result = run(
        [line("1", "P-1"), line("2", "P-2", "1", "KGM"), line("3", "P-3", "5"), line("4", "P-4")],
        item("P-1", {}, unit=None),
        item("P-2", {"berlin": 9}),
        item("P-3", {"berlin": 4}),
        item("P-4", {"berlin": 4}),
    )

    assert isinstance(result, Short)
    assert [(reason.code, reason.detail.split(":")[0]) for reason in result.reasons] == [
        ("unknown-item", "line 1"),
        ("wrong-unit", "line 2"),
        ("stock-short", "line 3"),
    ]
    assert [lack.sku for lack in result.missing] == ["P-1", "P-3"]


def test_an_order_from_more_warehouses_than_a_shipment_may_have_is_refused_by_name():
    many = Item("P-1", unit="C62", stock={f"w{n}": Stock(f"w{n}", "DE", 1, Decimal(1)) for n in range(51)})

    fits, too_many = run([line("1", "P-1", "50")], many), run([line("1", "P-1", "51")], many)

    assert len(parts(fits)) == 50
    assert isinstance(too_many, Short)
    assert [reason.code for reason in too_many.reasons] == ["too-many-parts"]


WAREHOUSES = st.dictionaries(st.sampled_from(sorted(COUNTRY)), st.integers(0, 6), max_size=5)
QUANTITIES = st.lists(st.tuples(st.sampled_from(["P-1", "P-2"]), st.integers(1, 8)), min_size=1, max_size=5)


@given(first=WAREHOUSES, second=WAREHOUSES, wanted=QUANTITIES, split=st.booleans())
def test_an_order_is_served_exactly_or_not_at_all_and_never_beyond_what_is_free(
    first: dict[str, int], second: dict[str, int], wanted: list[tuple[str, int]], split: bool
):
    items = {"P-1": item("P-1", first), "P-2": item("P-2", second)}
    lines = [line(str(n), sku, str(quantity)) for n, (sku, quantity) in enumerate(wanted)]

    result = allocate(lines, items, "DE", split_allowed=split)

    demand = {sku: sum(quantity for other, quantity in wanted if other == sku) for sku, _ in wanted}
    located = {sku: {w: s.free for w, s in items[sku].stock.items() if s.country is not None} for sku in demand}
    enough = all(sum(located[sku].values()) >= quantity for sku, quantity in demand.items())
    one_has_all = any(
        all(located[sku].get(warehouse, 0) >= quantity for sku, quantity in demand.items()) for warehouse in COUNTRY
    )
    assert isinstance(result, Allocated) is (one_has_all or (split and enough))
    if isinstance(result, Allocated):
        served = {number.line: Decimal(0) for number in lines}
        for part in result.parts:
            served[part.line] += part.quantity
        assert served == {number.line: number.quantity for number in lines}
        assert all(quantity <= located[place.sku][place.warehouse] for place, quantity in by_place(result.parts).items())
        assert len({part.warehouse for part in result.parts}) == 1 or not one_has_all

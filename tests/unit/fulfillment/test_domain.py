from decimal import Decimal

import pytest

from contracts.values import Allocation
from services.fulfillment.domain import Carrier, Load, Parcel, loads, not_sendable, offers, own_tracking, plan

VAN = Carrier("van", "own-fleet", frozenset({"DE"}), ("standard", "express"), 10_000, 1, active=True)
FAST = Carrier("fast", "http", frozenset(), ("express", "overnight"), 30_000, 2, active=True)
SLOW = Carrier("slow", "http", frozenset(), ("economy", "standard"), 500_000, 3, active=True)
CARRIERS = (VAN, FAST, SLOW)


def load(weight_grams: int = 1_000) -> Load:
    return Load("berlin", "DE", weight_grams)


def names(country: str, priority: str, weight_grams: int = 1_000) -> list[tuple[str, str]]:
    found = offers(CARRIERS, load(weight_grams), country, priority)
    return [(offer.carrier.carrier, offer.service_level) for offer in found]


@pytest.mark.parametrize(
    ("country", "priority", "weight_grams", "expected"),
    [
        ("DE", "normal", 1_000, [("van", "standard"), ("slow", "standard"), ("fast", "express")]),
        ("DE", "low", 1_000, [("slow", "economy"), ("van", "standard"), ("fast", "express")]),
        ("DE", "high", 1_000, [("van", "express"), ("fast", "express")]),
        ("DE", "urgent", 1_000, [("fast", "overnight")]),
        ("US", "normal", 1_000, [("slow", "standard"), ("fast", "express")]),
        ("DE", "normal", 10_000, [("van", "standard"), ("slow", "standard"), ("fast", "express")]),
        ("DE", "normal", 10_001, [("slow", "standard"), ("fast", "express")]),
        ("DE", "urgent", 30_001, []),
        ("DE", "whenever", 1_000, []),
    ],
)
def test_the_slowest_level_that_is_fast_enough_comes_first_and_then_the_lowest_rank(
    country: str, priority: str, weight_grams: int, expected: list[tuple[str, str]]
):
    assert names(country, priority, weight_grams) == expected


def test_a_carrier_that_is_not_active_takes_nothing():
    assert offers((Carrier("van", service_levels=("standard",), weight_grams_max=9_999),), load(), "DE", "normal") == ()


def test_each_warehouse_sends_one_load_of_all_its_parts():
    parts = [
        Allocation(line=line, sku="P-1", warehouse=name, country=country, quantity=Decimal(1), weight_grams=weight)
        for line, name, country, weight in (("1", "paris", "FR", 5), ("1", "berlin", "DE", 7), ("2", "berlin", "DE", 8))
    ]

    assert loads(parts) == (Load("berlin", "DE", 15), Load("paris", "FR", 5))


def test_the_own_fleet_books_at_once_under_a_number_that_is_always_the_same():
    parcel = plan("s:ship", "ord_1", "berlin", VAN)

    assert parcel == Parcel("s:ship", "ord_1", "berlin", "van", False, "booked", own_tracking("s:ship", "berlin"))
    assert parcel == plan("s:ship", "ord_1", "berlin", VAN)
    assert len({own_tracking(*key) for key in (("s:ship", "berlin"), ("s:ship", "paris"), ("t:ship", "berlin"))}) == 3


def test_other_carriers_wait_for_their_answer_under_a_key_of_operation_warehouse_and_carrier():
    parcel = plan("s:ship", "ord_1", "berlin", FAST)

    assert (parcel.state, parcel.tracking, parcel.may_be_booked) == ("planned", None, True)
    assert parcel.booking == "s:ship#berlin#fast"


@pytest.mark.parametrize(
    ("parts", "priority", "codes"),
    [
        ([load()], "normal", []),
        ([load()], "whenever", ["unknown-priority"]),
        ([load(600_000), Load("paris", "FR", 1), Load("oslo", "NO", 900_000)], "normal", ["no-carrier", "no-carrier"]),
        ([Load(f"w{n}", "DE", 1) for n in range(51)], "normal", ["too-many-parcels"]),
        ([Load(f"w{n}", "DE", 1) for n in range(50)], "normal", []),
    ],
)
def test_everything_that_cannot_be_sent_is_named(parts: list[Load], priority: str, codes: list[str]):
    assert [reason.code for reason in not_sendable(parts, "DE", priority, CARRIERS)] == codes

from datetime import UTC, datetime
from decimal import Decimal

from contracts.envelope import Envelope
from contracts.inventory.v1 import StockLow, StockRecovered
from contracts.pricing.v1 import (
    ContractChanged,
    ContractPrice,
    ListPriceChanged,
    OrderNotPriced,
    OrderPriced,
    PriceOrder,
    Tier,
)
from contracts.values import Money, OrderLine
from infra.chassis.service import Context
from services.pricing import domain
from services.pricing.domain import Contract, ContractKey, ContractTier, Item, ItemKey, ListPrice, Offer, OfferKey
from services.pricing.handlers import (
    change_contract,
    change_list_price,
    contract_of,
    item_of,
    note_recovery,
    note_scarcity,
    offers_of,
    price_order,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTEXT = Context(
    now=NOW,
    envelope=Envelope(id="m-1", source="/test", type="t", time=NOW, data={}, operationid="s:price"),
    new_id=lambda: "id",
    random=lambda: 0.5,
)
ORDER = "ord_00000000000000000001"


def eur(minor: int) -> Money:
    return Money(amount_minor=minor, currency="EUR")


def price(*lines: tuple[str, str, str]) -> PriceOrder:
    return PriceOrder(
        order_id=ORDER,
        partner_id="acme",
        currency="EUR",
        lines=tuple(OrderLine(line=number, sku=sku, quantity=Decimal(quantity), unit="C62") for number, sku, quantity in lines),
    )


def offered(minor: int) -> Offer:
    return Offer(Item(ListPrice("C62", eur(minor)), 1))


def test_an_order_is_answered_line_by_line_with_the_rules_that_made_each_price() -> None:
    command = price(("1", "P-1", "2"), ("2", "P-2", "0.5"))
    offers = {OfferKey("acme", "P-1"): offered(1_000), OfferKey("acme", "P-2"): offered(3)}

    decision = price_order(command, offers, CONTEXT)

    assert decision.state is offers
    assert isinstance(decision.answer, OrderPriced)
    assert decision.answer.total == eur(2_002)
    assert [(line.line, line.sku, line.quantity, line.amount) for line in decision.answer.lines] == [
        ("1", "P-1", Decimal(2), eur(2_000)),
        ("2", "P-2", Decimal("0.5"), eur(2)),
    ]
    assert [rule.rule for rule in decision.answer.lines[1].rules] == ["list-price", "rounding"]


def test_an_order_with_one_unknown_item_has_no_price_at_all() -> None:
    command = price(("1", "P-1", "2"), ("2", "P-2", "1"))
    offers = {OfferKey("acme", "P-1"): offered(1_000), OfferKey("acme", "P-2"): Offer()}

    decision = price_order(command, offers, CONTEXT)

    assert decision.state is offers
    assert isinstance(decision.answer, OrderNotPriced)
    assert [reason.code for reason in decision.answer.reasons] == ["item-unknown"]
    assert "line 2" in decision.answer.reasons[0].detail


def test_the_largest_order_without_prices_can_be_answered() -> None:
    sku = "P" * 64
    command = price(*((f"line-number-{n:08}", sku, "1") for n in range(200)))

    decision = price_order(command, {OfferKey("acme", sku): Offer()}, CONTEXT)

    assert isinstance(decision.answer, OrderNotPriced)
    assert len(decision.answer.reasons) == 200


def test_a_list_price_is_kept_with_its_tiers_in_ascending_order() -> None:
    event = ListPriceChanged(
        sku="P-1",
        unit="KGM",
        unit_price=eur(250),
        tiers=(Tier(from_quantity=Decimal(100), discount=900), Tier(from_quantity=Decimal(10), discount=500)),
        scarcity_surcharge=300,
        sequence=4,
    )

    item = change_list_price(event, Item(scarce=True, stock_sequence=1), CONTEXT).state

    assert item.list_price is not None
    assert (item.list_price.unit, item.list_price.unit_price) == ("KGM", eur(250))
    assert item.list_price.scarcity_surcharge == 300
    assert [tier.discount for tier in item.list_price.tiers] == [500, 900]
    assert item.scarce


def test_a_stale_list_price_leaves_the_item_alone() -> None:
    item = Item(ListPrice("C62", eur(1)), 4)
    event = ListPriceChanged(sku="P-1", unit="C62", unit_price=eur(2), sequence=4)

    assert change_list_price(event, item, CONTEXT).state is item


def contract(sequence: int) -> ContractChanged:
    agreed = ContractPrice(sku="P-1", from_quantity=Decimal(1), unit_price=eur(900))
    return ContractChanged(partner_id="acme", prices=(agreed,), sequence=sequence)


def test_a_new_contract_replaces_all_prices_of_the_partner() -> None:
    decision = change_contract(contract(3), Contract(2), CONTEXT)

    assert decision.state == Contract(3)
    expected = domain.ContractPrice("P-1", ContractTier(Decimal(1), eur(900)))
    assert decision.facts == (domain.ContractPrices("acme", (expected,)),)


def test_a_stale_contract_leaves_no_trace() -> None:
    known = Contract(3)

    decision = change_contract(contract(3), known, CONTEXT)

    assert decision.state is known
    assert decision.facts == ()


def test_stock_events_in_the_wrong_order_leave_the_newer_level() -> None:
    low = StockLow(sku="P-1", available=Decimal(1), reorder_point=Decimal(5), sequence=1)
    recovered = StockRecovered(sku="P-1", available=Decimal(9), sequence=2)

    in_order = note_recovery(recovered, note_scarcity(low, Item(), CONTEXT).state, CONTEXT).state
    out_of_order = note_scarcity(low, note_recovery(recovered, Item(), CONTEXT).state, CONTEXT).state

    assert note_scarcity(low, Item(), CONTEXT).state.scarce
    assert in_order == out_of_order == Item(scarce=False, stock_sequence=2)


def test_every_message_finds_its_states() -> None:
    low = StockLow(sku="acme", available=Decimal(1), reorder_point=Decimal(5), sequence=1)

    assert offers_of(price(("1", "P-1", "1"), ("2", "P-1", "1"))) == [OfferKey("acme", "P-1")] * 2
    assert item_of(low) == ItemKey("acme")
    assert contract_of(contract(1)) == ContractKey("acme")


def test_an_item_and_a_partner_of_the_same_name_are_different_keys() -> None:
    assert len({ItemKey("acme"), ContractKey("acme")}) == 2

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.values import AMOUNT_MINOR_MAX, Money, OrderLine
from services.pricing.domain import (
    Contract,
    ContractPrice,
    ContractPrices,
    ContractTier,
    Item,
    ListPrice,
    Offer,
    OfferKey,
    PricedLine,
    Problem,
    Quote,
    VolumeTier,
    price_line,
    quote,
)


def eur(minor: int) -> Money:
    return Money(amount_minor=minor, currency="EUR")


def line(quantity: str, *, number: str = "1", sku: str = "P-1", unit: str = "C62") -> OrderLine:
    return OrderLine(line=number, sku=sku, quantity=Decimal(quantity), unit=unit)


def offer(
    price: int = 1_000,
    *,
    tiers: tuple[tuple[str, int], ...] = (),
    surcharge: int = 0,
    scarce: bool = False,
    contract: tuple[ContractTier, ...] = (),
) -> Offer:
    listed = ListPrice("C62", eur(price), tuple(VolumeTier(Decimal(q), d) for q, d in tiers), surcharge)
    return Offer(Item(listed, 1, scarce, 1), contract)


def agreed(from_quantity: str, minor: int, currency: str = "EUR") -> ContractTier:
    return ContractTier(Decimal(from_quantity), Money(amount_minor=minor, currency=currency))


def priced(order_line: OrderLine, offered: Offer, currency: str = "EUR") -> PricedLine:
    outcome = price_line(order_line, offered, currency)
    assert isinstance(outcome, PricedLine)
    return outcome


def names(outcome: PricedLine) -> list[str]:
    return [rule.name for rule in outcome.rules]


def codes(outcome: PricedLine | Quote | tuple[Problem, ...]) -> list[str]:
    assert isinstance(outcome, tuple)
    return [problem.code for problem in outcome]


def test_without_anything_else_the_list_price_counts() -> None:
    outcome = priced(line("3"), offer(1_250))

    assert outcome.amount_minor == 3_750
    assert [(rule.name, rule.detail) for rule in outcome.rules] == [("list-price", "12.50 EUR per C62")]


@pytest.mark.parametrize(("quantity", "amount"), [("9.999", 9_999), ("10", 9_500), ("99", 94_050), ("100", 90_000)])
def test_the_highest_volume_tier_that_the_line_reaches_applies(quantity: str, amount: int) -> None:
    assert priced(line(quantity), offer(tiers=(("10", 500), ("100", 1_000)))).amount_minor == amount


def test_a_contract_replaces_list_price_tier_and_surcharge() -> None:
    offered = offer(tiers=(("1", 5_000),), surcharge=300, scarce=True, contract=(agreed("1", 900),))

    outcome = priced(line("10"), offered)

    assert outcome.amount_minor == 9_000
    assert names(outcome) == ["contract-price"]


def test_a_contract_holds_even_where_the_list_would_be_cheaper() -> None:
    assert priced(line("1"), offer(1_000, contract=(agreed("1", 1_100),))).amount_minor == 1_100


@pytest.mark.parametrize(("quantity", "amount"), [("9", 9_000), ("10", 8_000), ("50", 35_000), ("51", 35_700)])
def test_the_contract_tier_with_the_highest_reached_threshold_applies(quantity: str, amount: int) -> None:
    contract = (agreed("50", 700), agreed("10", 800))

    assert priced(line(quantity), offer(1_000, contract=contract)).amount_minor == amount


def test_a_contract_in_another_currency_is_silent() -> None:
    assert names(priced(line("1"), offer(contract=(agreed("1", 1, "USD"),)))) == ["list-price"]


def test_a_contract_may_price_in_a_currency_that_the_list_lacks() -> None:
    outcome = priced(line("2"), offer(contract=(agreed("1", 450, "USD"),)), "USD")

    assert outcome.amount_minor == 900


def test_scarcity_is_charged_after_the_volume_tier_and_only_while_stock_is_low() -> None:
    low = offer(1_000, tiers=(("10", 1_000),), surcharge=250, scarce=True)
    enough = offer(1_000, tiers=(("10", 1_000),), surcharge=250)

    assert priced(line("10"), low).amount_minor == 9_225
    assert [(rule.name, rule.detail) for rule in priced(line("10"), low).rules] == [
        ("list-price", "10.00 EUR per C62"),
        ("volume-tier", "-10.00 % from 10 on"),
        ("scarcity-surcharge", "+2.50 % while stock is low"),
    ]
    assert priced(line("10"), enough).amount_minor == 9_000


@pytest.mark.parametrize(("quantity", "amount"), [("0.4", 0), ("0.499", 0), ("0.5", 1), ("1.5", 2), ("2.5", 3)])
def test_rounds_half_up_to_minor_units(quantity: str, amount: int) -> None:
    outcome = priced(line(quantity), offer(1))

    assert outcome.amount_minor == amount
    assert names(outcome) == ["list-price", "rounding"]


def test_rounds_once_at_the_end_and_not_after_each_rule() -> None:
    # 10 becomes 9.5 and then 9.405; rounded in between as well, it would become 10 and then 9.9, that is 10.
    outcome = priced(line("1"), offer(10, tiers=(("1", 500),), surcharge=-100, scarce=True))

    assert outcome.amount_minor == 9
    assert outcome.rules[-1].detail == "9.405 to 9 minor units, half up"


@given(
    quantity=st.decimals("0.001", "999999999.999", places=3),
    price=st.integers(0, AMOUNT_MINOR_MAX),
    discount=st.integers(0, 10_000),
    surcharge=st.integers(-10_000, 10_000),
)
def test_every_price_is_the_exact_product_rounded_half_up_or_refused_as_too_large(
    quantity: Decimal, price: int, discount: int, surcharge: int
) -> None:
    offered = offer(price, tiers=(("0.001", discount),), surcharge=surcharge, scarce=True)
    exact = Fraction(quantity) * price * Fraction(10_000 - discount, 10_000) * Fraction(10_000 + surcharge, 10_000)
    expected = int(exact + Fraction(1, 2))

    outcome = price_line(line(str(quantity)), offered, "EUR")

    if expected > AMOUNT_MINOR_MAX:
        assert codes(outcome) == ["amount-too-large"]
    else:
        assert isinstance(outcome, PricedLine)
        assert outcome.amount_minor == expected


def test_the_order_costs_the_sum_of_its_rounded_lines() -> None:
    lines = (line("0.5", number="1"), line("0.5", number="2"), line("1", number="3", sku="P-2"))
    offers = {OfferKey("acme", "P-1"): offer(1), OfferKey("acme", "P-2"): offer(700)}

    outcome = quote("acme", "EUR", lines, offers)

    assert isinstance(outcome, Quote)
    assert outcome.total == eur(702)
    assert [part.line.line for part in outcome.lines] == ["1", "2", "3"]


def test_all_problems_of_all_lines_are_told_at_once_and_name_their_line() -> None:
    usd = Offer(Item(ListPrice("KGM", Money(amount_minor=5, currency="USD")), 1))
    lines = (line("1", number="10"), line("1", number="20", sku="P-2"), line("1", number="30", sku="P-3"))
    offers = {
        OfferKey("acme", "P-1"): offer(),
        OfferKey("acme", "P-2"): usd,
        OfferKey("acme", "P-3"): Offer(),
    }

    outcome = quote("acme", "EUR", lines, offers)

    assert codes(outcome) == ["unit-mismatch", "currency-mismatch", "item-unknown"]
    assert isinstance(outcome, tuple)
    assert [problem.detail.split(":")[0] for problem in outcome] == ["line 20", "line 20", "line 30"]


def test_a_contract_price_needs_the_items_unit_as_well() -> None:
    assert codes(price_line(line("1", unit="DZN"), offer(contract=(agreed("1", 5),)), "EUR")) == ["unit-mismatch"]
    assert codes(price_line(line("1"), Offer(Item(), (agreed("1", 5),)), "EUR")) == ["item-unknown"]


def test_a_total_beyond_what_money_can_say_has_no_price() -> None:
    lines = (line("1", number="1"), line("1", number="2"))

    outcome = quote("acme", "EUR", lines, {OfferKey("acme", "P-1"): offer(AMOUNT_MINOR_MAX)})

    assert codes(outcome) == ["amount-too-large"]


@pytest.mark.parametrize("sequence", [4, 5])
def test_a_fact_that_is_not_newer_changes_nothing(sequence: int) -> None:
    price = ListPrice("C62", eur(1))
    item = Item().with_price(price, 5).with_stock(scarce=True, sequence=5)
    contract = Contract().replaced(5)

    assert item.with_price(ListPrice("C62", eur(2)), sequence) is item
    assert item.with_stock(scarce=False, sequence=sequence) is item
    assert contract.replaced(sequence) is contract


def test_price_and_stock_are_numbered_apart() -> None:
    item = Item().with_price(ListPrice("C62", eur(1)), 5).with_stock(scarce=True, sequence=0)

    assert item.scarce
    assert item.price_sequence == 5


def test_what_cannot_be_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        ListPrice("C62", eur(-1))
    with pytest.raises(ValueError, match="stands twice"):
        ListPrice("C62", eur(1), (VolumeTier(Decimal(10), 1), VolumeTier(Decimal("10.0"), 2)))
    with pytest.raises(ValueError, match="negative"):
        ContractPrices("acme", (ContractPrice("P-1", agreed("1", -1)),))
    with pytest.raises(ValueError, match="two prices for P-1"):
        ContractPrices("acme", (ContractPrice("P-1", agreed("1", 1)), ContractPrice("P-1", agreed("1.000", 2))))

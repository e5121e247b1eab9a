"""What a line costs: the contract's price, otherwise the list price with volume tier and scarcity surcharge; rounded once.

Between the stored integers and the rounding everything is exact: a product of quantity (12 digits), price (16), discount
and surcharge (5 each) has at most 38 digits. The context below holds these without loss, and fails rather than lose a digit.

Amounts are rounded half up, per line and once. Half to even would be free of bias over many lines. But a partner's invoice
check recomputes the price line by line, and there commerce rounds half up. No sum of rounded parts is rounded again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from itertools import pairwise
from typing import NamedTuple

from contracts.values import AMOUNT_MINOR_MAX, Money, OrderLine

WHOLE = 10_000
"""Discounts and surcharges are hundredths of a percent of this."""

_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
_ROUNDED = Context(prec=60, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])
_ONE = Decimal(1)


class OfferKey(NamedTuple):
    """What one partner is offered of one item."""

    partner_id: str
    sku: str


@dataclass(frozen=True, slots=True, order=True)
class ItemKey:
    sku: str


@dataclass(frozen=True, slots=True, order=True)
class ContractKey:
    partner_id: str


@dataclass(frozen=True, slots=True)
class VolumeTier:
    """From this quantity of the line on, so many hundredths of a percent less."""

    from_quantity: Decimal
    discount: int


@dataclass(frozen=True, slots=True)
class ContractTier:
    """From this quantity of the line on, this price for one unit."""

    from_quantity: Decimal
    unit_price: Money


@dataclass(frozen=True, slots=True)
class ListPrice:
    """What one unit costs everybody. Tiers ascend; the surcharge (hundredths of a percent) counts while stock is low."""

    unit: str
    unit_price: Money
    tiers: tuple[VolumeTier, ...] = ()
    scarcity_surcharge: int = 0

    def __post_init__(self) -> None:
        _refuse_negative(self.unit_price)
        _refuse_descending([tier.from_quantity for tier in self.tiers])


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of one item: its list price, if any, and whether its stock is low; each with its fact's number."""

    list_price: ListPrice | None = None
    price_sequence: int | None = None
    scarce: bool = False
    stock_sequence: int | None = None

    def with_price(self, price: ListPrice, sequence: int) -> "Item":
        """The item at this price, or this very item when a later price is known already."""
        if self.price_sequence is not None and sequence <= self.price_sequence:
            return self
        return replace(self, list_price=price, price_sequence=sequence)

    def with_stock(self, *, scarce: bool, sequence: int) -> "Item":
        """The item with this stock level, or this very item when a later level is known already."""
        if self.stock_sequence is not None and sequence <= self.stock_sequence:
            return self
        return replace(self, scarce=scarce, stock_sequence=sequence)


@dataclass(frozen=True, slots=True)
class Contract:
    """Which version of a partner's contract is in force; its prices are rows of their own, read by item."""

    sequence: int | None = None

    def replaced(self, sequence: int) -> "Contract":
        """The contract under this number, or this very contract when a later one is in force already."""
        if self.sequence is not None and sequence <= self.sequence:
            return self
        return Contract(sequence)


@dataclass(frozen=True, slots=True)
class ContractPrice:
    sku: str
    tier: ContractTier


@dataclass(frozen=True, slots=True)
class ContractPrices:
    """All prices of a partner's contract, replacing all before. Raises ValueError for two prices that could not be told apart."""

    partner_id: str
    prices: tuple[ContractPrice, ...]

    def __post_init__(self) -> None:
        seen = set()
        for price in self.prices:
            _refuse_negative(price.tier.unit_price)
            place = (price.sku, price.tier.unit_price.currency, price.tier.from_quantity)
            if place in seen:
                raise ValueError(f"the contract has two prices for {place[0]} in {place[1]} from {_plain(place[2])} on")
            seen.add(place)


@dataclass(frozen=True, slots=True)
class Offer:
    """All that can set one partner's price of one item: the item, and the contract's tiers for it, in any currency."""

    item: Item = Item()
    contract: tuple[ContractTier, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that took part in a price."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class PricedLine:
    line: OrderLine
    amount_minor: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something has no price: a code for programs and a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order costs, line by line in the order's own order."""

    total: Money
    lines: tuple[PricedLine, ...]


def quote(
    partner_id: str, currency: str, lines: Sequence[OrderLine], offers: Mapping[OfferKey, Offer]
) -> Quote | tuple[Problem, ...]:
    """The price of all lines, or every problem of every line at once, so that the partner can mend them in one go."""
    priced: list[PricedLine] = []
    problems: list[Problem] = []
    for line in lines:
        outcome = price_line(line, offers[OfferKey(partner_id, line.sku)], currency)
        if isinstance(outcome, PricedLine):
            priced.append(outcome)
        else:
            problems += outcome
    total_minor = sum(line.amount_minor for line in priced)
    if not problems and total_minor > AMOUNT_MINOR_MAX:
        problems.append(Problem("amount-too-large", "the order costs more than can be expressed; split it"))
    if problems:
        return tuple(problems)
    return Quote(Money(amount_minor=total_minor, currency=currency), tuple(priced))


def price_line(line: OrderLine, offer: Offer, currency: str) -> PricedLine | tuple[Problem, ...]:
    """One line's price and the rules that made it, in the order in which they were applied; or all that is wrong with it."""
    listed = offer.item.list_price
    if listed is None:
        # Also where a contract has a price: without the item's unit, a dozen could be sold at the price of one.
        return (Problem("item-unknown", f"line {line.line}: item {line.sku} has no list price"),)
    problems: list[Problem] = []
    if line.unit != listed.unit:
        detail = f"line {line.line}: item {line.sku} is sold by {listed.unit}, not by {line.unit}"
        problems.append(Problem("unit-mismatch", detail))
    agreed = _contract_tier(offer.contract, line.quantity, currency)
    if agreed is None and listed.unit_price.currency != currency:
        detail = f"line {line.line}: item {line.sku} has a price in {listed.unit_price.currency}, none in {currency}"
        problems.append(Problem("currency-mismatch", detail))
    if problems:
        return tuple(problems)
    if agreed is not None:
        exact, rules = _by_contract(agreed, line, listed.unit)
    else:
        exact, rules = _by_list(listed, line, scarce=offer.item.scarce)
    return _rounded(line, exact, rules)


def _contract_tier(tiers: Sequence[ContractTier], quantity: Decimal, currency: str) -> ContractTier | None:
    """The tier with the highest threshold that the quantity reaches; None where the contract has no such tier."""
    reached = [tier for tier in tiers if tier.unit_price.currency == currency and tier.from_quantity <= quantity]
    return max(reached, key=lambda tier: tier.from_quantity, default=None)


def _by_contract(tier: ContractTier, line: OrderLine, unit: str) -> tuple[Decimal, list[Rule]]:
    detail = f"{tier.unit_price} per {unit} from {_plain(tier.from_quantity)} on"
    exact = _EXACT.multiply(line.quantity, Decimal(tier.unit_price.amount_minor))
    return exact, [Rule("contract-price", detail)]


def _by_list(listed: ListPrice, line: OrderLine, *, scarce: bool) -> tuple[Decimal, list[Rule]]:
    exact = _EXACT.multiply(line.quantity, Decimal(listed.unit_price.amount_minor))
    rules = [Rule("list-price", f"{listed.unit_price} per {listed.unit}")]
    volume = next((tier for tier in reversed(listed.tiers) if tier.from_quantity <= line.quantity), None)
    if volume is not None and volume.discount:
        exact = _EXACT.multiply(exact, _factor(-volume.discount))
        rules.append(Rule("volume-tier", f"{_percent(-volume.discount)} from {_plain(volume.from_quantity)} on"))
    if scarce and listed.scarcity_surcharge:
        exact = _EXACT.multiply(exact, _factor(listed.scarcity_surcharge))
        rules.append(Rule("scarcity-surcharge", f"{_percent(listed.scarcity_surcharge)} while stock is low"))
    return exact, rules


def _rounded(line: OrderLine, exact: Decimal, rules: list[Rule]) -> PricedLine | tuple[Problem, ...]:
    whole = exact.quantize(_ONE, context=_ROUNDED)
    if whole > AMOUNT_MINOR_MAX:
        return (Problem("amount-too-large", f"line {line.line}: costs more than can be expressed; split it"),)
    if whole != exact:
        rules.append(Rule("rounding", f"{_plain(exact)} to {whole} minor units, half up"))
    return PricedLine(line, int(whole), tuple(rules))


def _factor(change: int) -> Decimal:
    return Decimal(WHOLE + change).scaleb(-4)


def _percent(change: int) -> str:
    return f"{Decimal(change).scaleb(-2):+f} %"


def _plain(number: Decimal) -> str:
    return f"{number.normalize(_ROUNDED):f}"


def _refuse_negative(price: Money) -> None:
    if price.amount_minor < 0:
        raise ValueError(f"{price} is negative and no price")


def _refuse_descending(quantities: Sequence[Decimal]) -> None:
    for lower, upper in pairwise(quantities):
        if lower >= upper:
            raise ValueError(f"the tier from {_plain(upper)} on stands twice or in the wrong place")

"""What is said to pricing and what pricing says, version 1."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.inventory.v1 import Lines
from contracts.message import Command, Event
from contracts.values import (
    LINES_MAX,
    Currency,
    Money,
    OrderId,
    PartnerId,
    Quantity,
    Reason,
    Sequence,
    Sku,
    Text,
    UnitCode,
    Value,
)

BasisPoints = Annotated[int, Field(strict=True, ge=-10_000, le=10_000)]


class PriceRule(Value):
    """One rule that took part in a line's price, in the order in which they were applied."""

    rule: Text
    detail: Text


class PricedLine(Value):
    """A line's price and how it came about. `amount` is what the line costs, rounded once, at the end."""

    line: str
    sku: Sku
    quantity: Quantity
    amount: Money
    rules: Annotated[tuple[PriceRule, ...], Field(max_length=10)]


class PriceOrder(Command):
    """Say what the order costs this partner now. Changes nothing."""

    wire_name: ClassVar[str] = "pricing.price-order.v1"

    order_id: OrderId
    partner_id: PartnerId
    currency: Currency
    lines: Lines


class OrderPriced(Event):
    """The order costs `total`, explained line by line."""

    wire_name: ClassVar[str] = "pricing.order-priced.v1"

    order_id: OrderId
    total: Money
    lines: Annotated[tuple[PricedLine, ...], Field(max_length=LINES_MAX)]


class OrderNotPriced(Event):
    """Some line has no price for this partner, currency or unit: an answer, not a failure."""

    wire_name: ClassVar[str] = "pricing.order-not-priced.v1"

    order_id: OrderId
    reasons: tuple[Reason, ...]


class ContractPrice(Value):
    """What a partner pays for one unit of an item, from a quantity on."""

    sku: Sku
    from_quantity: Quantity
    unit_price: Money


class ContractChanged(Event):
    """The partner's contract prices are now these. Replaces the contract before it; an older `sequence` is ignored."""

    wire_name: ClassVar[str] = "pricing.contract-changed.v1"
    subject_field: ClassVar[str] = "partner_id"

    partner_id: PartnerId
    prices: Annotated[tuple[ContractPrice, ...], Field(max_length=2000)]
    sequence: Sequence


class Tier(Value):
    """From this quantity on, the unit price is lower by so many hundredths of a percent."""

    from_quantity: Quantity
    discount: Annotated[int, Field(strict=True, ge=0, le=10_000)]


class ListPriceChanged(Event):
    """What one unit of an item costs everybody without a contract. Replaces what was known; an older `sequence` is ignored.

    `scarcity_surcharge` (hundredths of a percent) applies while the item's stock is low.
    """

    wire_name: ClassVar[str] = "pricing.list-price-changed.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    unit: UnitCode
    unit_price: Money
    tiers: Annotated[tuple[Tier, ...], Field(max_length=10)] = ()
    scarcity_surcharge: BasisPoints = 0
    sequence: Sequence


MESSAGES = (ListPriceChanged, PriceOrder, OrderPriced, OrderNotPriced, ContractChanged)

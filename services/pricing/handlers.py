"""What pricing does with each message: message and state in, state and answer out."""

from collections.abc import Mapping, Sequence

from contracts.inventory.v1 import StockLow, StockRecovered
from contracts.pricing.v1 import (
    ContractChanged,
    ListPriceChanged,
    OrderNotPriced,
    OrderPriced,
    PricedLine,
    PriceOrder,
    PriceRule,
)
from contracts.values import Money, Reason
from infra.chassis.service import Context, Decision
from services.pricing import domain
from services.pricing.domain import Contract, ContractKey, Item, ItemKey, Offer, OfferKey, Quote


def offers_of(command: PriceOrder) -> Sequence[OfferKey]:
    return [OfferKey(command.partner_id, line.sku) for line in command.lines]


def item_of(event: ListPriceChanged | StockLow | StockRecovered) -> ItemKey:
    return ItemKey(event.sku)


def contract_of(event: ContractChanged) -> ContractKey:
    return ContractKey(event.partner_id)


def price_order(command: PriceOrder, offers: Mapping[OfferKey, Offer], context: Context) -> Decision[Mapping[OfferKey, Offer]]:
    outcome = domain.quote(command.partner_id, command.currency, command.lines, offers)
    if not isinstance(outcome, Quote):
        reasons = tuple(Reason(code=problem.code, detail=problem.detail) for problem in outcome)
        return Decision(offers, OrderNotPriced(order_id=command.order_id, reasons=reasons))
    lines = tuple(_told(line, command.currency) for line in outcome.lines)
    return Decision(offers, OrderPriced(order_id=command.order_id, total=outcome.total, lines=lines))


def change_list_price(event: ListPriceChanged, item: Item, context: Context) -> Decision[Item]:
    tiers = (domain.VolumeTier(tier.from_quantity, tier.discount) for tier in event.tiers)
    price = domain.ListPrice(
        unit=event.unit,
        unit_price=event.unit_price,
        tiers=tuple(sorted(tiers, key=lambda tier: tier.from_quantity)),
        scarcity_surcharge=event.scarcity_surcharge,
    )
    return Decision(item.with_price(price, event.sequence))


def change_contract(event: ContractChanged, contract: Contract, context: Context) -> Decision[Contract]:
    after = contract.replaced(event.sequence)
    if after is contract:
        return Decision(contract)
    prices = tuple(
        domain.ContractPrice(price.sku, domain.ContractTier(price.from_quantity, price.unit_price)) for price in event.prices
    )
    return Decision(after, facts=(domain.ContractPrices(event.partner_id, prices),))


def note_scarcity(event: StockLow, item: Item, context: Context) -> Decision[Item]:
    return Decision(item.with_stock(scarce=True, sequence=event.sequence))


def note_recovery(event: StockRecovered, item: Item, context: Context) -> Decision[Item]:
    return Decision(item.with_stock(scarce=False, sequence=event.sequence))


def _told(priced: domain.PricedLine, currency: str) -> PricedLine:
    return PricedLine(
        line=priced.line.line,
        sku=priced.line.sku,
        quantity=priced.line.quantity,
        amount=Money(amount_minor=priced.amount_minor, currency=currency),
        rules=tuple(PriceRule(rule=rule.name, detail=rule.detail) for rule in priced.rules),
    )

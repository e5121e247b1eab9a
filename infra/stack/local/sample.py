"""A small company of our own writing, so that a first order has somebody to sell to and something to sell.

It comes in by the front door: as facts that the systems `erp` and `wms` publish, under ids that make loading it twice harmless.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from contracts.credit.v2 import LimitChanged
from contracts.fulfillment.v1 import CarrierChanged
from contracts.inventory.v1 import ItemChanged, StockCounted, WarehouseChanged
from contracts.pricing.v1 import ContractChanged, ContractPrice, ListPriceChanged, Tier
from contracts.registry import REGISTRY
from contracts.values import Money
from infra.chassis.database import async_url
from infra.stack.local.publishing import Fact, connected
from services.ingress.adapters.partners import create_partner, issue_key

BUYERS: Final = 50
ITEMS: Final = 500
CURRENCY: Final = "EUR"
WAREHOUSES: Final = (("W-HAM", "DE"), ("W-RTM", "NL"), ("W-LYS", "FR"))
HTTP_CARRIERS: Final = ("parcelway",)
FLEET_COUNTRIES: Final = ("DE", "NL", "FR", "BE", "AT", "CH", "DK", "PL")
STOCK_PER_WAREHOUSE: Final = 1000
LOAD_SECONDS_MAX: Final = 120.0

Secret = Callable[[str], str]


async def open_accounts(ingress_url: str, pepper: str, partners: Mapping[str, Sequence[str]], secret: Secret) -> dict[str, str]:
    """Partner accounts with the broker users that may order for them, and a key each. Repeating it gives the same keys."""
    engine = create_async_engine(async_url(ingress_url))
    try:
        async with engine.begin() as connection:
            keys = {}
            for partner, users in partners.items():
                await create_partner(connection, partner, broker_users=users)
                given = f"tk_{secret(f'key id {partner}')[:16]}_{secret(f'api key {partner}')}"
                keys[partner] = await issue_key(connection, pepper, partner, api_key=given)
            return keys
    finally:
        await engine.dispose()


async def load(erp_url: str, wms_url: str, database_url: str) -> None:
    """Publishes the company and waits until every consumer has taken it. Raises TimeoutError when one does not."""
    master, stock = list(master_data()), list(stock_counts())
    async with connected(erp_url) as erp:
        await erp.publish(master)
    # A count is only of use for an item that inventory knows.
    await until_handled(database_url, master)
    async with connected(wms_url) as wms:
        await wms.publish(stock)
    await until_handled(database_url, stock)


def master_data() -> Iterator[Fact]:
    """Buyers, items, prices, contracts, warehouses, carriers."""
    for number in range(1, BUYERS + 1):
        limit = Money(amount_minor=10_000_000, currency=CURRENCY)
        buyer = f"C-{number}"
        yield Fact(f"sample-limit-{buyer}", LimitChanged(buyer_id=buyer, limit=limit, sequence=1, reason="sample company"))
    for rank, (warehouse, country) in enumerate(WAREHOUSES, start=1):
        event = WarehouseChanged(warehouse=warehouse, country=country, priority=rank, sequence=1)
        yield Fact(f"sample-warehouse-{warehouse}", event)
    for number in range(1, ITEMS + 1):
        yield from _item(number)
    for partner, percent in (("acme", 90), ("globex", 95)):
        prices = tuple(
            ContractPrice(sku=f"P-{number}", from_quantity=Decimal(1), unit_price=_price(number, percent))
            for number in range(1, ITEMS + 1, 5)
        )
        yield Fact(f"sample-contract-{partner}", ContractChanged(partner_id=partner, prices=prices, sequence=1))
    yield from carriers()


def _item(number: int) -> Iterator[Fact]:
    sku = f"P-{number}"
    item = ItemChanged(
        sku=sku, unit="C62", weight_grams=100 + number * 37 % 4900, reorder_point=Decimal(60), recovery_level=Decimal(200),
        sequence=1,
    )  # fmt: skip
    yield Fact(f"sample-item-{sku}", item)
    tiers = (Tier(from_quantity=Decimal(10), discount=300), Tier(from_quantity=Decimal(100), discount=800))
    price = ListPriceChanged(sku=sku, unit="C62", unit_price=_price(number, 100), tiers=tiers, scarcity_surcharge=500, sequence=1)
    yield Fact(f"sample-price-{sku}", price)


def _price(number: int, percent: int) -> Money:
    return Money(amount_minor=(199 + number * 131 % 9_700) * percent // 100, currency=CURRENCY)


def carriers() -> Iterator[Fact]:
    """Our own fleet for the countries around, and one that is booked over HTTP for everywhere else and for what is urgent."""
    fleet = CarrierChanged(
        carrier="own-fleet", booking="own-fleet", countries=FLEET_COUNTRIES, service_levels=("economy", "standard"),
        weight_grams_max=2_000_000_000, rank=1, sequence=1,
    )  # fmt: skip
    parcelway = CarrierChanged(
        carrier="parcelway", booking="http", service_levels=("economy", "standard", "express", "overnight"),
        weight_grams_max=2_000_000_000, rank=2, sequence=1,
    )  # fmt: skip
    yield Fact("sample-carrier-own-fleet", fleet)
    yield Fact("sample-carrier-parcelway", parcelway)


def stock_counts() -> Iterator[Fact]:
    """What lies in the warehouses."""
    for warehouse, _ in WAREHOUSES:
        for number in range(1, ITEMS + 1):
            sku = f"P-{number}"
            event = StockCounted(warehouse=warehouse, sku=sku, on_hand=Decimal(STOCK_PER_WAREHOUSE), sequence=1)
            yield Fact(f"sample-count-{warehouse}-{sku}", event)


async def until_handled(database_url: str, facts: Sequence[Fact]) -> None:
    """Waits until each fact is in the inbox of each of its receivers. The administrator's URL: it looks into all schemas."""
    expected: dict[str, set[str]] = {}
    for fact in facts:
        for queue in REGISTRY[fact.event.wire_name].receivers:
            expected.setdefault(queue, set()).add(fact.id)
    engine = create_async_engine(async_url(database_url))
    try:
        async with asyncio.timeout(LOAD_SECONDS_MAX), engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for queue, ids in sorted(expected.items()):
                schema = queue.split(".", 1)[0]
                count = text(f'SELECT count(*) FROM "{schema}".inbox WHERE consumer = :queue AND message_id = ANY(:ids)')  # noqa: S608
                while (await connection.execute(count, {"queue": queue, "ids": sorted(ids)})).scalar_one() < len(ids):
                    await asyncio.sleep(0.1)
    finally:
        await engine.dispose()

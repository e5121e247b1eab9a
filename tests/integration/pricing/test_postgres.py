import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.values import Money
from services.pricing.adapters.postgres import PostgresOffers, PostgresPrices
from services.pricing.domain import (
    Contract,
    ContractKey,
    ContractPrice,
    ContractPrices,
    ContractTier,
    Item,
    ItemKey,
    ListPrice,
    Offer,
    OfferKey,
    VolumeTier,
)
from tests.support.schemas import migrated
from tests.support.suites.repository import InsertingPromises, RepositoryPromises

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

OFFERS = PostgresOffers()
PRICES = PostgresPrices()
WAIT_SECONDS = 10.0
Key = ItemKey | ContractKey
State = Item | Contract


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "pricing", "services.pricing") as engine:
        yield engine


def eur(minor: int) -> Money:
    return Money(amount_minor=minor, currency="EUR")


def agreed(sku: str, from_quantity: str, price: Money) -> ContractPrice:
    return ContractPrice(sku, ContractTier(Decimal(from_quantity), price))


ITEM = Item(ListPrice("KGM", eur(250), (VolumeTier(Decimal("10.5"), 500), VolumeTier(Decimal(100), 900)), -25), 4)


async def save(engine: AsyncEngine, changed: Mapping[Key, State], facts: Sequence[object] = ()) -> None:
    async with engine.begin() as connection:
        await PRICES.load(connection, list(changed))
        await PRICES.save(connection, changed, facts)


async def offer(engine: AsyncEngine, partner: str, sku: str) -> Offer:
    async with engine.begin() as connection:
        key = OfferKey(partner, sku)
        return (await OFFERS.load(connection, [key, key]))[key]


async def test_what_nobody_knows_is_loaded_as_nothing(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        states = await PRICES.load(connection, [ItemKey("x"), ContractKey("x"), ItemKey("x")])

    assert states == {ItemKey("x"): Item(), ContractKey("x"): Contract()}
    assert await offer(engine, "x", "x") == Offer()
    assert await offer(engine, "y", "y") == Offer()


@pytest.mark.parametrize(
    "item", [ITEM, Item(ListPrice("C62", eur(0)), 0, scarce=True, stock_sequence=0), Item(None, None, True, 3)]
)
async def test_an_item_comes_back_as_it_was_saved(engine: AsyncEngine, item: Item) -> None:
    await save(engine, {ItemKey("P-1"): item, ItemKey("P-2"): ITEM})

    async with engine.begin() as connection:
        states = await PRICES.load(connection, [ItemKey("P-1")])
    assert states == {ItemKey("P-1"): item}
    assert (await offer(engine, "acme", "P-1")).item == item


async def test_an_offer_holds_only_this_partners_prices_of_this_item(engine: AsyncEngine) -> None:
    in_dollars = Money(amount_minor=8, currency="USD")
    mine = (agreed("P-1", "1", eur(9)), agreed("P-1", "1", in_dollars), agreed("P-2", "1", eur(5)))
    others = (agreed("P-1", "1", eur(1)),)
    await save(
        engine,
        {ContractKey("acme"): Contract(1), ContractKey("globex"): Contract(1)},
        [ContractPrices("acme", mine), ContractPrices("globex", others)],
    )

    loaded = await offer(engine, "acme", "P-1")

    assert set(loaded.contract) == {mine[0].tier, mine[1].tier}


async def test_the_newest_contract_of_a_batch_replaces_all_before(engine: AsyncEngine) -> None:
    key = ContractKey("acme")
    await save(engine, {key: Contract(1)}, [ContractPrices("acme", (agreed("P-1", "1", eur(9)),))])

    second = ContractPrices("acme", (agreed("P-1", "2", eur(8)), agreed("P-2", "1", eur(8))))
    third = ContractPrices("acme", (agreed("P-1", "2", eur(7)),))
    await save(engine, {key: Contract(3)}, [second, third])

    assert (await offer(engine, "acme", "P-1")).contract == (third.prices[0].tier,)
    assert (await offer(engine, "acme", "P-2")).contract == ()
    async with engine.begin() as connection:
        assert await PRICES.load(connection, [key]) == {key: Contract(3)}


async def test_an_empty_contract_ends_the_one_before(engine: AsyncEngine) -> None:
    key = ContractKey("acme")
    await save(engine, {key: Contract(1)}, [ContractPrices("acme", (agreed("P-1", "1", eur(9)),))])

    await save(engine, {key: Contract(2)}, [ContractPrices("acme", ())])

    assert (await offer(engine, "acme", "P-1")).contract == ()


async def test_a_price_without_its_parts_is_forbidden_by_name(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError, match="item_price_whole_or_absent"):
        await save(engine, {ItemKey("P-1"): Item(ListPrice("C62", eur(1)), None)})


async def test_pricing_waits_for_nobody_who_changes_prices_and_sees_no_half_of_a_contract(engine: AsyncEngine) -> None:
    key = ContractKey("acme")
    await save(engine, {key: Contract(1)}, [ContractPrices("acme", (agreed("P-1", "1", eur(9)),))])

    async with engine.connect() as changing:
        await changing.begin()
        await PRICES.load(changing, [key, ItemKey("P-1")])
        await PRICES.save(changing, {key: Contract(2)}, [ContractPrices("acme", (agreed("P-1", "1", eur(5)),))])
        async with asyncio.timeout(WAIT_SECONDS):
            before = await offer(engine, "acme", "P-1")
        await changing.commit()

    assert before.contract == (ContractTier(Decimal(1), eur(9)),)
    assert (await offer(engine, "acme", "P-1")).contract == (ContractTier(Decimal(1), eur(5)),)


async def test_overlapping_batches_in_opposite_order_do_not_deadlock(engine: AsyncEngine) -> None:
    keys: list[Key] = [ItemKey(f"P-{n}") for n in range(30)]
    keys += [ContractKey(f"p-{n}") for n in range(10)]

    async def touch(wanted: list[Key]) -> None:
        async with engine.begin() as connection:
            await PRICES.load(connection, wanted)

    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(touch(keys if n % 2 else keys[::-1]) for n in range(10)))

    async with engine.begin() as connection:
        assert len(await PRICES.load(connection, keys)) == 40


async def test_a_hundred_orders_are_loaded_with_two_statements(engine: AsyncEngine) -> None:
    sent: list[str] = []

    def record(conn: object, cursor: object, statement: str, *rest: object) -> None:
        sent.append(statement)

    async with engine.begin() as connection:
        event.listen(connection.sync_connection, "before_cursor_execute", record)
        loaded = await OFFERS.load(connection, [OfferKey(f"p-{n}", f"P-{m}") for n in range(100) for m in range(5)])

    assert len(loaded) == 500
    assert len(sent) == 2


class TestPrices(InsertingPromises):
    """Contracts, which are locked first, and items."""

    repository = PRICES

    def keys(self, count: int, mark: str) -> list[Key]:
        names = [f"{mark}-{number:02}" for number in range(count)]
        return [*(ContractKey(name) for name in names), *(ItemKey(name) for name in names)]

    def changed(self, states: Mapping[Key, State]) -> dict[Key, State]:
        return {key: ITEM if isinstance(state, Item) else Contract(1) for key, state in states.items()}

    def facts(self, keys: Sequence[Key]) -> list[ContractPrices]:
        prices = (agreed("P-1", "1", eur(9)),)
        return [ContractPrices(key.partner_id, prices) for key in keys if isinstance(key, ContractKey)]


class TestOffers(RepositoryPromises):
    repository = OFFERS

    def keys(self, count: int, mark: str) -> list[OfferKey]:
        return [OfferKey(f"{mark}-{number}", f"{mark}-{number}") for number in range(count)]

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.errors import Permanent
from infra.chassis.outbox import new_id
from infra.chassis.service import Finding
from services.inventory.adapters.postgres import PostgresStock, reconcile
from services.inventory.domain import (
    Item,
    Key,
    Order,
    Place,
    Reservation,
    ReservationEnded,
    State,
    Stock,
    StockMoved,
    StockOpened,
    StockReservation,
    Warehouse,
)
from tests.support.schemas import migrated
from tests.support.suites.repository import InsertingPromises, LockingPromises, RepositoryPromises

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

FACTS = PostgresStock(keeps_new_items=True)
COMMANDS = PostgresStock(keeps_new_items=False)
BERLIN = Place("P-1", "berlin")
ITEM, BERLIN_KEY, ORDER = Key("item", "P-1"), Key("warehouse", "berlin"), Key("order", "ord_1")
WAIT_SECONDS = 10.0
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "inventory", "services.inventory") as engine:
        yield engine


@pytest.fixture
async def stocked(engine: AsyncEngine) -> AsyncEngine:
    """P-1, of which ten are in Berlin."""
    described = Item("P-1", "C62", 100, Decimal(3), Decimal(6), sequence=1, changed=True)
    await save(
        engine,
        {ITEM: holding(described, on_hand=10), BERLIN_KEY: Warehouse("DE", 1, 5)},
        [StockOpened(BERLIN), StockMoved(BERLIN, "received", Decimal(10), "/wms#1")],
    )
    return engine


def holding(item: Item, *, on_hand: int | None = None, reserved: int | None = None, warehouse: str = "berlin") -> Item:
    stock = item.at(warehouse)
    after = replace(
        stock,
        on_hand=stock.on_hand if on_hand is None else Decimal(on_hand),
        reserved=stock.reserved if reserved is None else Decimal(reserved),
        changed=True,
    )
    return replace(item, stock={**item.stock, warehouse: after})


async def save(
    engine: AsyncEngine, changed: Mapping[Key, State], facts: Sequence[object] = (), repository: PostgresStock = FACTS
) -> None:
    async with engine.begin() as connection:
        await repository.load(connection, list(changed))
        await repository.save(connection, changed, facts)


async def load(engine: AsyncEngine, *keys: Key, repository: PostgresStock = COMMANDS) -> Mapping[Key, State]:
    async with engine.begin() as connection:
        return await repository.load(connection, keys)


async def stored_item(engine: AsyncEngine) -> Item:
    item = (await load(engine, ITEM))[ITEM]
    assert isinstance(item, Item)
    return item


async def findings(engine: AsyncEngine) -> list[Finding]:
    async with engine.connect() as connection:
        return await reconcile(connection)


def reservation(operation: str = "s:reserve", quantity: int = 4) -> StockReservation:
    return StockReservation(operation, "ord_1", BERLIN, Decimal(quantity))


async def test_what_is_saved_is_loaded_again_with_the_place_of_its_warehouse(stocked: AsyncEngine):
    assert await stored_item(stocked) == Item(
        "P-1",
        "C62",
        100,
        Decimal(3),
        Decimal(6),
        sequence=1,
        stock={"berlin": Stock("berlin", "DE", 1, Decimal(10), Decimal(0))},
    )
    assert (await load(stocked, BERLIN_KEY))[BERLIN_KEY] == Warehouse("DE", 1, 5)


async def test_facts_make_rows_for_what_they_speak_of_and_commands_do_not(engine: AsyncEngine):
    unknown = await load(engine, Key("item", "P-9"), Key("item", "P-9"), repository=COMMANDS)
    async with engine.connect() as connection:
        after_command = (await connection.execute(text("SELECT count(*) FROM item"))).scalar_one()
    await load(engine, Key("item", "P-9"), repository=FACTS)
    async with engine.connect() as connection:
        after_fact = (await connection.execute(text("SELECT count(*) FROM item"))).scalar_one()

    assert unknown == {Key("item", "P-9"): Item("P-9")}
    assert (after_command, after_fact) == (0, 1)


async def test_stock_in_a_warehouse_never_heard_of_has_no_country(engine: AsyncEngine):
    await save(engine, {ITEM: holding(Item("P-1"), on_hand=2, warehouse="oslo")}, [StockOpened(Place("P-1", "oslo"))])

    assert (await stored_item(engine)).stock == {"oslo": Stock("oslo", None, 0, Decimal(2), Decimal(0))}


async def test_a_reservation_made_and_released_in_one_batch_ends_released(stocked: AsyncEngine):
    item = await stored_item(stocked)

    await save(stocked, {ITEM: item}, [reservation(), ReservationEnded("s:reserve", BERLIN, "released")])

    assert (await load(stocked, ORDER))[ORDER] == Order()
    assert await findings(stocked) == []


async def test_open_and_committed_reservations_of_an_order_are_loaded(stocked: AsyncEngine):
    reserved = holding(await stored_item(stocked), reserved=4)
    await save(stocked, {ITEM: reserved}, [reservation()])
    opened = (await load(stocked, ORDER))[ORDER]

    await save(
        stocked,
        {ITEM: holding(reserved, on_hand=6, reserved=0)},
        [ReservationEnded("s:reserve", BERLIN, "committed"), StockMoved(BERLIN, "committed", Decimal(-4), "s:reserve")],
    )

    assert opened == Order((Reservation("s:reserve", BERLIN, Decimal(4)),))
    assert (await load(stocked, ORDER))[ORDER] == Order((Reservation("s:reserve", BERLIN, Decimal(4), "committed"),))
    assert await findings(stocked) == []


async def test_a_second_reservation_of_one_operation_is_stopped_by_the_key(stocked: AsyncEngine):
    await save(stocked, {}, [reservation()])

    with pytest.raises(IntegrityError, match="reservation_one_per_operation_and_place"):
        await save(stocked, {}, [reservation()])


async def test_a_reservation_that_has_ended_cannot_end_again_and_nothing_of_the_batch_is_kept(stocked: AsyncEngine):
    reserved = holding(await stored_item(stocked), reserved=4)
    await save(stocked, {ITEM: reserved}, [reservation()])
    await save(stocked, {ITEM: holding(reserved, reserved=0)}, [ReservationEnded("s:reserve", BERLIN, "released")])

    with pytest.raises(Permanent, match="s:reserve"):
        await save(stocked, {ITEM: holding(reserved, on_hand=1)}, [ReservationEnded("s:reserve", BERLIN, "committed")])

    assert (await stored_item(stocked)).at("berlin").on_hand == 10


async def test_one_cause_moves_stock_once(stocked: AsyncEngine):
    with pytest.raises(IntegrityError, match="stock_movement_one_per_cause_and_place"):
        await save(stocked, {}, [StockMoved(BERLIN, "received", Decimal(10), "/wms#1")])


@pytest.mark.parametrize("levels", [{"on_hand": -1}, {"reserved": -1}])
async def test_the_database_refuses_less_than_nothing(stocked: AsyncEngine, levels: dict[str, int]):
    with pytest.raises(IntegrityError, match="not_negative"):
        await save(stocked, {ITEM: holding(await stored_item(stocked), **levels)})


async def test_whoever_comes_second_to_an_item_waits_and_sees_what_the_first_has_reserved(stocked: AsyncEngine):
    async with stocked.begin() as first:
        loaded = (await COMMANDS.load(first, [ITEM]))[ITEM]
        assert isinstance(loaded, Item)
        second = asyncio.create_task(stored_item(stocked))
        await _until_somebody_waits(stocked)
        await COMMANDS.save(first, {ITEM: holding(loaded, reserved=4)}, [reservation()])

    async with asyncio.timeout(WAIT_SECONDS):
        assert (await second).at("berlin").free == 6


async def test_batches_with_the_same_items_in_opposite_order_do_not_deadlock(engine: AsyncEngine):
    keys = [Key("item", f"P-{n}") for n in range(50)]

    async def reserve(order: Sequence[Key]) -> None:
        async with engine.begin() as connection:
            states = await FACTS.load(connection, order)
            await FACTS.save(connection, states, ())

    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(reserve(keys if n % 2 else keys[::-1]) for n in range(8)))


async def test_the_number_of_statements_does_not_depend_on_the_size_of_the_batch(stocked: AsyncEngine):
    assert await _statements(stocked, 1) == await _statements(stocked, 100) == 4


async def test_reconciliation_names_stock_that_its_ledger_or_its_reservations_do_not_explain(stocked: AsyncEngine):
    clean = await findings(stocked)
    await save(stocked, {ITEM: holding(await stored_item(stocked), on_hand=9, reserved=2)})
    dirty = await findings(stocked)

    assert clean == []
    assert [finding.id for finding in dirty] == ["P-1/berlin"]
    assert "on hand 9, reserved 2; its movements say 10, its open reservations 0" in dirty[0].detail


async def _until_somebody_waits(engine: AsyncEngine) -> None:
    async with asyncio.timeout(WAIT_SECONDS), engine.connect() as connection:
        while not (await connection.execute(WAITING)).scalar_one():
            await connection.rollback()


async def _statements(engine: AsyncEngine, size: int) -> int:
    """How many statements a batch of reservations for this many items sends: lock, read, update, insert."""
    places = [Place(f"S-{n}", "berlin") for n in range(size)]
    keys = [Key("item", place.sku) for place in places]
    async with engine.begin() as connection:
        fresh = {key: holding(Item(key.id, "C62", changed=True), on_hand=5) for key in keys}
        await FACTS.load(connection, keys)
        await FACTS.save(connection, fresh, [StockOpened(place) for place in places])
        sent: list[str] = []
        event.listen(
            connection.sync_connection, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement)
        )
        states = await COMMANDS.load(connection, keys)
        reserved = {key: item.reserve("berlin", Decimal(1)) for key, item in states.items() if isinstance(item, Item)}
        facts = [StockReservation("s:many", "ord_1", place, Decimal(1)) for place in places]
        await COMMANDS.save(connection, reserved, facts)
        await connection.rollback()
    return len(sent)


class StockPromises:
    """Items, in one or several batches."""

    def keys(self, count: int, mark: str) -> list[Key]:
        return [Key("item", f"{mark}-{number:02}") for number in range(count)]

    def changed(self, states: Mapping[Key, State]) -> dict[Key, State]:
        return {
            key: replace(state, unit="C62", sequence=1, changed=True) if isinstance(state, Item) else Warehouse("DE", 1, 1)
            for key, state in states.items()
        }

    def as_stored(self, states: Mapping[Key, State]) -> dict[Key, State]:
        return {key: replace(state, changed=False) if isinstance(state, Item) else state for key, state in states.items()}


class TestStockForFacts(StockPromises, InsertingPromises):
    """Warehouses too; they are locked after the items."""

    repository = FACTS

    def keys(self, count: int, mark: str) -> list[Key]:
        return [*super().keys(count, mark), *(Key("warehouse", f"{mark}-{number:02}") for number in range(count))]

    def facts(self, keys: Sequence[Key]) -> list[StockOpened]:
        return [StockOpened(Place(key.id, new_id())) for key in keys if key.kind == "item"]


class TestStockForCommands(StockPromises, LockingPromises):
    """An item that nobody has described is unknown and has no row."""

    repository = COMMANDS

    async def stored(self, engine: AsyncEngine, keys: Sequence[Key]) -> None:
        async with engine.begin() as connection:
            await FACTS.load(connection, keys)

    def facts(self, keys: Sequence[Key]) -> list[StockReservation]:
        return [StockReservation(new_id(), "ord_1", Place(key.id, "berlin"), Decimal(1)) for key in keys]


class TestReservations(RepositoryPromises):
    """An order's reservations, which have no lock of their own."""

    repository = COMMANDS

    def keys(self, count: int, mark: str) -> list[Key]:
        return [Key("order", f"{mark}-{number}") for number in range(count)]

    def facts(self, keys: Sequence[Key]) -> list[StockReservation]:
        return [StockReservation(new_id(), key.id, BERLIN, Decimal(1)) for key in keys]

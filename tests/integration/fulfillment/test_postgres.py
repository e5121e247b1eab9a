import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.outbox import new_id
from infra.chassis.service import Finding
from services.fulfillment.adapters.postgres import PostgresParcels, reconcile
from services.fulfillment.domain import Carrier, Delivery, Key, Order, Parcel, ParcelPlanned, State, plan
from tests.support.schemas import migrated
from tests.support.suites.repository import InsertingPromises, RepositoryPromises

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

PARCELS = PostgresParcels()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VAN = Carrier("van", "own-fleet", frozenset({"AT", "DE"}), ("standard", "express"), 1_000, 1, active=True, sequence=4)
FAST = Carrier("fast", "http", frozenset(), ("express",), 50_000, 2, active=True, sequence=1)
ORDER = Key("order", "ord_1")
WAIT_SECONDS = 10.0
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "fulfillment", "services.fulfillment") as engine:
        yield engine


async def save(engine: AsyncEngine, changed: Mapping[Key, State], facts: Sequence[object] = ()) -> None:
    async with engine.begin() as connection:
        await PARCELS.load(connection, list(changed))
        await PARCELS.save(connection, changed, facts)


async def load(engine: AsyncEngine, key: Key) -> State:
    async with engine.begin() as connection:
        return (await PARCELS.load(connection, [key, key]))[key]


async def parcels(engine: AsyncEngine) -> list[Parcel]:
    order = await load(engine, ORDER)
    assert isinstance(order, Order)
    return list(order.parcels.values())


async def findings(engine: AsyncEngine) -> list[Finding]:
    async with engine.connect() as connection:
        return await reconcile(connection)


def planned(operation: str = "s:ship", carrier: Carrier = FAST, warehouse: str = "berlin") -> Parcel:
    return plan(operation, "ord_1", warehouse, carrier)


async def test_an_order_is_loaded_with_its_parcels_and_with_the_active_carriers_by_rank(engine: AsyncEngine):
    retired = replace(FAST, carrier="old", active=False)
    await save(engine, {Key("carrier", carrier.carrier): carrier for carrier in (FAST, VAN, retired)})
    await save(engine, {}, [ParcelPlanned(planned()), ParcelPlanned(planned(carrier=VAN, warehouse="bonn"))])

    order = await load(engine, ORDER)

    assert isinstance(order, Order)
    assert order.carriers == (VAN, FAST)
    assert order.of("s:ship") == (planned(), planned(carrier=VAN, warehouse="bonn"))
    assert await load(engine, Key("order", "ord_2")) == Order((VAN, FAST))


async def test_a_carrier_is_replaced_and_one_never_heard_of_takes_nothing(engine: AsyncEngine):
    key = Key("carrier", "van")
    unknown = await load(engine, key)
    await save(engine, {key: VAN})

    assert unknown == Carrier("van")
    assert await load(engine, key) == VAN


async def test_a_parcel_planned_and_cancelled_in_one_batch_ends_cancelled(engine: AsyncEngine):
    parcel = planned(carrier=VAN)

    await save(engine, {ORDER: Order().holding([parcel.cancelled()])}, [ParcelPlanned(parcel)])

    assert [found.state for found in await parcels(engine)] == ["cancelled"]


async def test_a_parcel_goes_to_the_next_carrier_and_keeps_its_place(engine: AsyncEngine):
    await save(engine, {}, [ParcelPlanned(planned())])
    refused = planned().refused("does not like it")
    await save(engine, {ORDER: Order().holding([refused])})
    after_refusal = await parcels(engine)

    await save(engine, {ORDER: Order().holding([refused.given_to(VAN)])})

    assert after_refusal == [replace(refused, changed=False)]
    assert await parcels(engine) == [planned(carrier=VAN)]


async def test_a_second_parcel_of_one_operation_and_warehouse_is_stopped_by_the_key(engine: AsyncEngine):
    await save(engine, {}, [ParcelPlanned(planned())])

    with pytest.raises(IntegrityError, match="parcel_one_per_operation_and_warehouse"):
        await save(engine, {}, [ParcelPlanned(planned(carrier=VAN))])


async def test_a_delivery_is_recorded_on_the_parcel_that_its_carrier_names(engine: AsyncEngine):
    parcel = planned()
    await save(engine, {}, [ParcelPlanned(parcel)])
    await save(engine, {ORDER: Order().holding([parcel.booked("T-1")])})
    ours, other = Key("parcel", "fast", "T-1"), Key("parcel", "van", "T-1")
    before = await load(engine, ours)

    await save(engine, {ours: Delivery(NOW), other: Delivery(NOW)})

    assert before == Delivery()
    assert await load(engine, ours) == Delivery(NOW)
    assert await load(engine, other) == Delivery()
    assert [found.state for found in await parcels(engine)] == ["delivered"]


async def test_a_cancellation_waits_for_a_delivery_that_is_being_recorded_and_sees_it(engine: AsyncEngine):
    await save(engine, {}, [ParcelPlanned(planned(carrier=VAN))])
    key = Key("parcel", "van", str(planned(carrier=VAN).tracking))

    async with engine.begin() as delivery:
        await PARCELS.load(delivery, [key])
        cancellation = asyncio.create_task(parcels(engine))
        async with asyncio.timeout(WAIT_SECONDS), engine.connect() as watching:
            while not (await watching.execute(WAITING)).scalar_one():
                await watching.rollback()
        await PARCELS.save(delivery, {key: Delivery(NOW)}, ())

    async with asyncio.timeout(WAIT_SECONDS):
        assert [parcel.state for parcel in await cancellation] == ["delivered"]


async def test_shipments_do_not_wait_for_a_carrier_that_is_being_changed(engine: AsyncEngine):
    await save(engine, {Key("carrier", "van"): VAN})
    async with engine.begin() as change, asyncio.timeout(WAIT_SECONDS):
        await PARCELS.load(change, [Key("carrier", "van")])

        order = await load(engine, ORDER)

    assert isinstance(order, Order)
    assert order.carriers == (VAN,)


@pytest.mark.parametrize("size", [1, 100])
async def test_the_number_of_statements_does_not_depend_on_the_size_of_the_batch(engine: AsyncEngine, size: int):
    sent: list[str] = []
    async with engine.begin() as connection:
        event.listen(
            connection.sync_connection, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement)
        )
        keys = [Key("order", f"ord_{n}") for n in range(size)]
        states = await PARCELS.load(connection, keys)
        facts = [ParcelPlanned(plan(f"s{n}:ship", f"ord_{n}", "berlin", VAN)) for n in range(size)]
        await PARCELS.save(connection, states, facts)

    assert len(sent) == 3


async def test_reconciliation_names_parcels_sent_twice_and_those_that_nobody_waits_for(engine: AsyncEngine):
    await save(engine, {}, [ParcelPlanned(planned(carrier=VAN))])
    clean = await findings(engine)
    await save(engine, {}, [ParcelPlanned(planned("s:again", VAN)), ParcelPlanned(planned("s:ship", FAST, "oslo"))])

    assert clean == []
    assert [(finding.kind, finding.id) for finding in await findings(engine)] == [
        ("doubled", "ord_1/berlin"),
        ("unanswered", "s:ship/oslo"),
    ]


async def test_a_parcel_whose_command_is_pending_or_an_open_dead_letter_is_explained(engine: AsyncEngine):
    await save(engine, {}, [ParcelPlanned(planned()), ParcelPlanned(planned("t:ship"))])
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO operation (operation_id, correlation_id, state, pending_do, dead_do) "
                "VALUES ('s:ship', 's', 'pending', 'x', false), ('t:ship', 't', 'claimed', NULL, true)"
            )
        )

    assert await findings(engine) == []


class TestCarriers(InsertingPromises):
    repository = PARCELS

    def keys(self, count: int, mark: str) -> list[Key]:
        return [Key("carrier", f"{mark}-{number:02}") for number in range(count)]

    def changed(self, states: Mapping[Key, State]) -> dict[Key, State]:
        return {key: replace(VAN, carrier=key.id) for key in states}


class TestParcels(RepositoryPromises):
    """Of orders and as their carriers name them. A parcel that is not there has nothing to lock."""

    repository = PARCELS

    def keys(self, count: int, mark: str) -> list[Key]:
        names = [f"{mark}-{number}" for number in range(count)]
        return [*(Key("order", name) for name in names), *(Key("parcel", "van", name) for name in names)]

    def facts(self, keys: Sequence[Key]) -> list[ParcelPlanned]:
        return [ParcelPlanned(plan(new_id(), key.id, "berlin", VAN)) for key in keys if key.kind == "order"]

"""Shipments with carriers outside, through the loop, the caller and the database; only the broker is missing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from pydantic_core import from_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from contracts.envelope import STRUCTURED, Envelope
from contracts.fulfillment.v1 import CancelShipment, CarrierChanged, CreateShipment, ShipmentDelivered
from contracts.message import Message
from contracts.values import Address, Allocation
from infra.chassis.caller import Caller
from infra.chassis.database import async_url
from infra.chassis.decoding import Raw
from infra.chassis.loop import Delivery, Loop
from infra.chassis.outbox import OutboxRow, new_id
from infra.chassis.schema import upgrade
from infra.chassis.service import Finding
from infra.chassis.workplace import Workplace
from services.fulfillment.adapters.postgres import reconcile
from services.fulfillment.settings import Settings
from services.fulfillment.wiring import build
from tests.integration.fulfillment.conftest import TOKEN
from tests.support.waiting import wait_until

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

ORDER = "ord_00000000000000000001"
OPERATION = "saga-1:ship"
SHIP_TO = Address(name="Ada", lines=("Weg 1",), city="Berlin", postal_code="10115", country="DE")
WAIT_SECONDS = 20.0


class Acknowledgements:
    """A channel whose broker always takes acknowledgements."""

    async def acknowledge(self, tag: int) -> None:
        return None


class Sent:
    """In the place of the relay: keeps what is sent, and wakes those who wait for it."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []
        self._changed = asyncio.Condition()

    def submit(self, rows: Sequence[OutboxRow]) -> None:
        self.rows.extend(rows)
        self._wake = asyncio.ensure_future(self._notify())

    async def wait(self, enough: Callable[[list[OutboxRow]], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: enough(self.rows))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Fulfillment:
    """The service at work, as its queues see it."""

    def __init__(self, loops: dict[str, Loop], sent: Sent, engine: AsyncEngine) -> None:
        self._loops = loops
        self._sent = sent
        self.engine = engine
        self._tag = 0

    def tell(self, message: Message, *, operation: str | None = None) -> None:
        self._tag += 1
        envelope = Envelope(
            id=new_id(),
            source="/test",
            type=message.wire_name,
            time=datetime.now(UTC),
            data=message.model_dump(mode="json"),
            subject=message.subject,
            correlationid="saga-1",
            operationid=operation,
        )
        raw = Raw(
            body=envelope.to_bytes(),
            content_type=STRUCTURED,
            content_encoding=None,
            headers={},
            message_id=envelope.id,
            type=envelope.type,
            sender="orchestrator" if operation else "erp",
            exchange="commands" if operation else "events",
            routing_key=message.wire_name,
        )
        queue = "fulfillment.commands" if operation else "fulfillment.events"
        self._loops[queue].offer(Delivery(raw, Acknowledgements(), self._tag, datetime.now(UTC)))

    async def answers(self, count: int) -> list[tuple[str, Any]]:
        """The first so many messages that were sent: type and payload; of a dead letter, only that it is one."""
        await self._sent.wait(lambda rows: len(rows) >= count)
        return [
            ("dead-letter", None) if row.exchange == "dead-letters" else (row.type, from_json(row.body)["data"])
            for row in self._sent.rows
        ]

    async def carrier(self, name: str, rank: int, booking: str = "http") -> None:
        event = CarrierChanged.model_validate(
            {
                "carrier": name,
                "booking": booking,
                "service_levels": ("standard",),
                "weight_grams_max": 100_000 if booking == "http" else 1_000,
                "rank": rank,
                "sequence": 1,
            }
        )
        self.tell(event)
        await self.until("SELECT count(*) FROM carrier WHERE carrier = :it AND active", it=name)

    async def until(self, count: str, **parameters: str) -> None:
        """Waits until a row of the database says so."""

        async def counted() -> int:
            async with self.engine.connect() as connection:
                return int((await connection.execute(text(count), parameters)).scalar_one())

        await wait_until(counted, what=count)

    async def findings(self) -> list[Finding]:
        async with self.engine.connect() as connection:
            return await reconcile(connection)


@asynccontextmanager
async def at_work(database_url: str, simulator: httpx2.AsyncClient) -> AsyncIterator[Fulfillment]:
    settings = Settings(
        database_url=database_url,
        broker_url="amqp://unused",
        operator_token="unused",
        carrier_urls={name: f"{simulator.base_url}/{name}" for name in ("fast", "slow")},
        carrier_tokens={"fast": TOKEN, "slow": TOKEN},
        carrier_timeout_seconds=0.5,
        retry_first_seconds=0.05,
        retry_delay_seconds_max=0.1,
        retry_attempts_max=3,
    )
    service = build(settings)
    engine = create_async_engine(async_url(database_url), connect_args={"server_settings": {"search_path": "fulfillment"}})
    sent, on_calls = Sent(), asyncio.Event()
    loops = [
        Loop(Workplace(service.name, "0", consumer, settings, external=True), engine, sent, on_calls)
        for consumer in service.consumers
    ]
    caller = Caller(service.name, engine, settings, service.dependencies, loops, on_calls)
    async with asyncio.TaskGroup() as tasks:
        for worker in (*loops, caller):
            tasks.create_task(worker.run())
        try:
            yield Fulfillment({loop.queue: loop for loop in loops}, sent, engine)
        finally:
            for worker in (*loops, caller):
                worker.stop()
    await engine.dispose()


@pytest.fixture
async def fulfillment(database_url: str, simulator: httpx2.AsyncClient) -> AsyncIterator[Fulfillment]:
    """With a fast carrier of rank 2, a slow one of rank 3, and our own fleet for what is light."""
    await upgrade(database_url, "fulfillment", "services.fulfillment")
    async with at_work(database_url, simulator) as fulfillment:
        await fulfillment.carrier("van", 1, "own-fleet")
        await fulfillment.carrier("fast", 2)
        await fulfillment.carrier("slow", 3)
        yield fulfillment


def create(**weights: int) -> CreateShipment:
    parts = tuple(
        Allocation(line="1", sku="P-1", warehouse=name, country="DE", quantity=Decimal(1), weight_grams=weight)
        for name, weight in weights.items()
    )
    return CreateShipment(order_id=ORDER, allocations=parts, ship_to=SHIP_TO)


CANCEL = CancelShipment(order_id=ORDER)


async def effects(simulator: httpx2.AsyncClient) -> list[tuple[str, str]]:
    return [(effect["effect"], effect["carrier"]) for effect in (await simulator.get("/effects")).json()]


async def order(simulator: httpx2.AsyncClient, **fault: Any) -> None:
    assert (await simulator.post("/faults", json=fault)).status_code == 201


async def test_the_own_fleet_and_a_carrier_outside_share_an_order(fulfillment: Fulfillment, simulator: httpx2.AsyncClient):
    fulfillment.tell(create(berlin=500, paris=5_000), operation=OPERATION)

    [(kind, answer)] = await fulfillment.answers(1)

    assert kind == "fulfillment.shipment-created.v1"
    assert [shipment["carrier"] for shipment in answer["shipments"]] == ["van", "fast"]
    assert await effects(simulator) == [("booked", "fast")]
    assert await fulfillment.findings() == []


@pytest.mark.parametrize("kind", ["execute-then-fail", "garbage", "unavailable", "slow"])
async def test_a_carrier_that_fails_for_a_while_books_once(fulfillment: Fulfillment, simulator: httpx2.AsyncClient, kind: str):
    await order(simulator, kind=kind, count=1, delay_seconds=60)
    fulfillment.tell(create(berlin=5_000), operation=OPERATION)

    [(answer, _)] = await fulfillment.answers(1)

    assert answer == "fulfillment.shipment-created.v1"
    assert await effects(simulator) == [("booked", "fast")]


async def test_a_refusal_goes_to_the_next_carrier_and_the_last_one_ends_with_nothing_booked(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    await order(simulator, kind="refuse", carrier="fast", count=1)
    fulfillment.tell(create(berlin=5_000), operation=OPERATION)
    first = await fulfillment.answers(1)
    await order(simulator, kind="refuse", carrier="fast", action="book", count=1)
    await order(simulator, kind="refuse", carrier="slow", action="book", count=1)
    fulfillment.tell(create(berlin=500, bonn=5_000, paris=5_000), operation="saga-2:ship")

    second = await fulfillment.answers(2)

    assert first[0][1]["shipments"][0]["carrier"] == "slow"
    assert second[1][0] == "fulfillment.shipment-refused.v1"
    assert (await effects(simulator))[1:] == [("booked", "fast"), ("cancelled", "fast")]
    assert await fulfillment.findings() == []


async def test_a_cancellation_takes_every_booking_back_and_says_so_again_when_asked_again(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    fulfillment.tell(create(berlin=500, paris=5_000), operation=OPERATION)
    await fulfillment.answers(1)

    fulfillment.tell(CANCEL, operation=OPERATION)
    await fulfillment.answers(2)
    fulfillment.tell(CANCEL, operation=OPERATION)
    answers = await fulfillment.answers(3)

    assert [kind for kind, _ in answers[1:]] == ["fulfillment.shipment-cancelled.v1"] * 2
    assert answers[1][1] == answers[2][1]
    assert [shipment["carrier"] for shipment in answers[1][1]["shipments"]] == ["van", "fast"]
    assert await effects(simulator) == [("booked", "fast"), ("cancelled", "fast")]


async def test_a_cancellation_that_comes_while_the_carrier_is_asked_waits_and_then_takes_back(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    await order(simulator, kind="slow", count=1, delay_seconds=0.3)
    fulfillment.tell(create(berlin=5_000), operation=OPERATION)
    await fulfillment.until("SELECT count(*) FROM call WHERE sent")
    fulfillment.tell(CANCEL, operation=OPERATION)

    kinds = [kind for kind, _ in await fulfillment.answers(2)]

    assert kinds == ["fulfillment.shipment-created.v1", "fulfillment.shipment-cancelled.v1"]
    assert await effects(simulator) == [("booked", "fast"), ("cancelled", "fast")]


async def test_a_carrier_that_stays_silent_makes_a_dead_letter_and_the_undo_forgets_the_booking_all_the_same(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    await order(simulator, kind="execute-then-fail", action="book", count=1)
    await order(simulator, kind="unavailable", carrier="fast")
    fulfillment.tell(create(berlin=5_000), operation=OPERATION)
    dead = await fulfillment.answers(1)
    explained = await fulfillment.findings()
    await simulator.delete("/faults")

    fulfillment.tell(CANCEL, operation=OPERATION)
    answers = await fulfillment.answers(2)

    assert [kind for kind, _ in dead] == ["dead-letter"]
    assert explained == []
    assert answers[1][0] == "fulfillment.shipment-cancelled.v1"
    assert await effects(simulator) == [("booked", "fast"), ("cancelled", "fast")]


async def test_a_command_sent_again_after_its_dead_letter_goes_on_with_the_same_booking(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    await order(simulator, kind="execute-then-fail", action="book", count=1)
    await order(simulator, kind="unavailable", carrier="fast")
    fulfillment.tell(create(berlin=5_000), operation=OPERATION)
    await fulfillment.answers(1)
    await simulator.delete("/faults")

    fulfillment.tell(create(berlin=5_000), operation=OPERATION)
    await fulfillment._sent.wait(lambda rows: any(row.type == "fulfillment.shipment-created.v1" for row in rows))

    assert await effects(simulator) == [("booked", "fast")]


async def test_a_parcel_that_has_left_or_arrived_is_named_when_it_cannot_be_taken_back(
    fulfillment: Fulfillment, simulator: httpx2.AsyncClient
):
    fulfillment.tell(create(berlin=500, paris=5_000), operation=OPERATION)
    [(_, created)] = await fulfillment.answers(1)
    own = next(shipment for shipment in created["shipments"] if shipment["carrier"] == "van")
    fulfillment.tell(ShipmentDelivered(carrier="van", tracking=own["tracking"], delivered_at=datetime.now(UTC)))
    await fulfillment.until("SELECT count(*) FROM parcel WHERE state = 'delivered'")
    await simulator.post("/departures", json={"carrier": "fast", "booking": f"{OPERATION}#paris#fast"})

    fulfillment.tell(CANCEL, operation=OPERATION)
    answers = await fulfillment.answers(2)

    assert answers[1][0] == "fulfillment.shipment-not-cancellable.v1"
    assert [reason["code"] for reason in answers[1][1]["reasons"]] == ["already-left", "already-left"]

"""Consumption from the real broker: what is not taken comes again, and the watchdog survives a broker that stands still."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aio_pika
import aiormq
import pytest
from aio_pika.robust_queue import RobustQueue

from infra.broker import direct_delivery
from infra.chassis.consumption import Consumption, ConsumptionSettings
from infra.chassis.loop import Delivery
from tests.support.servers import TestBroker
from tests.support.waiting import wait_until

QUEUE = "taken"


class Publisher:
    """Somebody else's connection, with a quorum queue as those of the services."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel

    async def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            await self._channel.default_exchange.publish(aio_pika.Message(body), QUEUE)

    async def ready(self) -> int:
        """Messages in the queue that no consumer holds."""
        declared = await self._channel.declare_queue(QUEUE, passive=True)
        return declared.declaration_result.message_count or 0


@pytest.fixture
async def publisher(broker: TestBroker) -> AsyncIterator[Publisher]:
    connection = await aio_pika.connect(broker.url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        yield Publisher(channel)


class Taker:
    """Takes deliveries as a loop does, and may be told to fail at some."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.failing: dict[bytes, int] = {}

    def offer(self, delivery: Delivery) -> None:
        left = self.failing.get(delivery.raw.body, 0)
        if left:
            self.failing[delivery.raw.body] = left - 1
            raise RuntimeError("a bug of the loop")
        self.taken.append(delivery)

    @property
    def bodies(self) -> set[bytes]:
        return {delivery.raw.body for delivery in self.taken}

    async def acknowledge(self) -> None:
        """As the loop: the last delivery of each channel, with all before it."""
        for delivery in {id(one.channel): one for one in self.taken}.values():
            try:
                await delivery.channel.acknowledge(delivery.tag)
            except ConnectionError:
                continue


@asynccontextmanager
async def consuming(
    broker: TestBroker, taker: Taker, *, on_lost: Callable[[], None] = lambda: None, **settings: Any
) -> AsyncIterator[Consumption]:
    given = ConsumptionSettings(prefetch_count=100, **settings)
    subscribed = Consumption("test", broker.url, {QUEUE: taker.offer}, given, on_lost=on_lost, on_back=lambda: None)
    try:
        await subscribed.start()
        yield subscribed
    finally:
        await subscribed.cancel()
        await subscribed.close()


async def test_messages_of_every_size_are_taken_whole_and_in_order(broker: TestBroker, publisher: Publisher) -> None:
    taker = Taker()
    # Nothing at all, one frame, and several (a frame of this broker has 128 KiB).
    bodies = [b"", b"small", bytes(range(256)) * 2000, b"last"]

    async with consuming(broker, taker):
        await publisher.publish(*bodies)
        await wait_until(lambda: len(taker.taken) == len(bodies))
        await taker.acknowledge()

    assert [delivery.raw.body for delivery in taker.taken] == bodies
    assert await publisher.ready() == 0


async def test_another_consumer_of_the_process_is_served_by_the_library_as_before(
    broker: TestBroker, publisher: Publisher
) -> None:
    direct_delivery.install()
    bodies = [b"", b"small", bytes(range(256)) * 2000]
    connection = await aio_pika.connect(broker.url)
    async with connection:
        queue = await (await connection.channel()).declare_queue(QUEUE, passive=True)
        taken: list[bytes] = []

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await message.ack()
            taken.append(message.body)

        await queue.consume(take)
        await publisher.publish(*bodies)
        await wait_until(lambda: len(taken) == len(bodies))

    assert sorted(taken) == sorted(bodies)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_delivery_that_cannot_be_taken_is_not_acknowledged_with_its_neighbours_and_comes_again(
    broker: TestBroker, publisher: Publisher, times: int
) -> None:
    taker = Taker()
    taker.failing[b"1"] = times
    await publisher.publish(b"0", b"1", b"2")

    async with consuming(broker, taker, abandon_seconds=0.3) as subscribed:
        await wait_until(lambda: b"2" in taker.bodies)
        with pytest.raises(ConnectionError):
            await taker.taken[-1].channel.acknowledge(taker.taken[-1].tag)
        await wait_until(lambda: b"1" in taker.bodies)
        await publisher.publish(b"3")
        await wait_until(lambda: b"3" in taker.bodies)
        assert (await subscribed.depth(QUEUE))[1] == 1
        await taker.acknowledge()

    assert taker.bodies == {b"0", b"1", b"2", b"3"}
    assert await publisher.ready() == 0


async def test_what_comes_before_the_library_says_that_it_listens_is_taken(
    broker: TestBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    consume = RobustQueue.consume

    async def answered_late(self: RobustQueue, *arguments: Any, **values: Any) -> str:
        tag = await consume(self, *arguments, **values)
        # Both have been sent, and what the broker says next on this channel comes after them.
        await wait_until(publisher.ready, lambda ready: ready == 0)
        await (await self.channel.get_underlay_channel()).queue_declare(QUEUE, passive=True)
        return tag

    monkeypatch.setattr(RobustQueue, "consume", answered_late)
    taker = Taker()
    await publisher.publish(b"0", b"1")

    async with consuming(broker, taker):
        await publisher.publish(b"2")
        await wait_until(lambda: b"2" in taker.bodies)

    assert taker.bodies == {b"0", b"1", b"2"}


async def test_subscribing_again_loses_nothing_that_comes_meanwhile(
    broker: TestBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, taker = RobustQueue.cancel, Taker()

    async def meanwhile(self: RobustQueue, *arguments: Any, **values: Any) -> aiormq.spec.Basic.CancelOk:
        await publisher.publish(b"0")
        await wait_until(lambda: b"0" in taker.bodies)
        return await cancel(self, *arguments, **values)

    async with consuming(broker, taker) as subscribed:
        monkeypatch.setattr(RobustQueue, "cancel", meanwhile)
        await subscribed._resubscribe(QUEUE)
        monkeypatch.setattr(RobustQueue, "cancel", cancel)
        await publisher.publish(b"1")
        await wait_until(lambda: b"1" in taker.bodies)
        await taker.acknowledge()

    assert taker.bodies == {b"0", b"1"}
    assert await publisher.ready() == 0


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def look_again_and_again(subscribed: Consumption) -> None:
    """The watchdog of a process, at a shorter interval."""
    while True:
        await subscribed.watch(QUEUE)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("probe_seconds", "heartbeat_seconds", "ends"),
    [(0.5, 60, False), (0.5, 1, True), (30.0, 1, True)],
    ids=["it answers in the end", "the connections end", "the connection ends under the question"],
)
async def test_the_watchdog_survives_a_broker_that_stands_still_in_the_middle_of_its_question(
    broker: TestBroker,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    probe_seconds: float,
    heartbeat_seconds: int,
    ends: bool,
) -> None:
    if broker.servers.private is None:
        pytest.skip("the servers of TUTTI_TEST_HOME are not ours to freeze")
    patience = {"probe_seconds_max": probe_seconds, "heartbeat_seconds": heartbeat_seconds}
    asked, freeze, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _ask_before_freezing(monkeypatch, asked, freeze)
    pid, taker = broker.servers.broker_pid, Taker()

    async with consuming(broker, taker, on_lost=lost.set, **patience) as subscribed:
        watchdog = asyncio.create_task(look_again_and_again(subscribed))
        await wait_until(lambda: subscribed.up[QUEUE])
        freeze.set()
        await asked.wait()
        with frozen(pid):
            freeze.clear()
            await wait_until(lambda: not subscribed.up[QUEUE])
            if ends:
                await wait_until(lost.is_set)
            assert not watchdog.done(), "a library's cancellation has ended it"
        await wait_until(lambda: subscribed.up[QUEUE])
        await _publish(broker, b"after")
        await wait_until(lambda: b"after" in taker.bodies)
        assert not watchdog.done(), "a library's cancellation has ended it"
        watchdog.cancel()
        await asyncio.wait([watchdog])
    said = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert "broker_unreachable" in said


def _ask_before_freezing(monkeypatch: pytest.MonkeyPatch, asked: asyncio.Event, freeze: asyncio.Event) -> None:
    """Says when a passive declare is about to be sent, and lets it wait until the broker stands still."""
    declare = aiormq.Channel.queue_declare

    async def held(self: aiormq.Channel, *arguments: Any, **values: Any) -> Any:
        if freeze.is_set():
            asked.set()
            await wait_until(lambda: not freeze.is_set(), every=0.001)
        return await declare(self, *arguments, **values)

    monkeypatch.setattr(aiormq.Channel, "queue_declare", held)


async def _publish(broker: TestBroker, body: bytes) -> None:
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(body), QUEUE)

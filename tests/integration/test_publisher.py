"""The publisher against a real broker: each outcome, each way to lose a channel or connection, and the order.

These tests also pin what the publisher uses of aiormq below its public interface.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import aiormq
import pytest
from pamqp import commands
from pamqp.common import FieldValue
from uuid_utils.compat import uuid7

from infra.broker.confirm_channel import ConfirmChannel
from infra.broker.connection import BrokerUnreachable, ConnectionSettings
from infra.broker.publisher import Outcome, Outgoing, Publisher, PublisherSettings, Receipt
from tests.support.proxy import TcpProxy, proxy_before
from tests.support.servers import TestBroker, store_queue_names
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

QUEUE = "credit.commands"
QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# Time-outs in tests that wait for one, and in tests in which waiting for one would be the fault.
SHORT = PublisherSettings(timeout_seconds=1.0, channel_open_seconds=0.5, connection=ConnectionSettings(reconnect_seconds=0.1))
ENDLESS = PublisherSettings(timeout_seconds=600.0, connection=ConnectionSettings(reconnect_seconds=0.1))
FAULT_SECONDS = 30.0
CHANNELS = 'length([1 || [{{vhost, <<"{vhost}">>}}] <- rabbit_channel:info_all([vhost])])'


@pytest.fixture
async def channel(broker: TestBroker) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """A channel of the test's own, in a virtual host with the one quorum queue."""
    async with aiormq.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
        yield channel


@pytest.fixture
async def publisher(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> AsyncIterator[Publisher]:
    async with connected(broker.url) as publisher:
        yield publisher


@asynccontextmanager
async def connected(url: str, settings: PublisherSettings | None = None) -> AsyncIterator[Publisher]:
    publisher = Publisher(url, name="test", settings=settings)
    await publisher.connect()
    try:
        yield publisher
    finally:
        await publisher.close()


@asynccontextmanager
async def proxied(url: str, settings: PublisherSettings) -> AsyncIterator[tuple[TcpProxy, Publisher]]:
    async with (
        proxy_before(url) as proxy,
        connected(proxy.in_front_of(url), settings) as publisher,
    ):
        yield proxy, publisher


def message(routing_key: str = QUEUE, *, exchange: str = "", body: bytes = b"{}") -> Outgoing:
    return Outgoing(
        exchange=exchange,
        routing_key=routing_key,
        message_id=str(uuid7()),
        body=body,
        content_type="application/json",
        type="credit.reserve-credit.v1",
        correlation_id="order-1",
        app_id="orchestrator",
        user_id="admin",
        timestamp=NOW,
        headers={"traceparent": "00-1-2-03", "attempt": 1},
    )


def outcomes(receipts: Sequence[Receipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


def ids(batch: Sequence[Outgoing]) -> list[str]:
    return [each.message_id for each in batch]


async def contents(channel: aiormq.abc.AbstractChannel, queue: str = QUEUE) -> list[aiormq.abc.DeliveredMessage]:
    """Takes everything out of the queue."""
    taken: list[aiormq.abc.DeliveredMessage] = []
    while True:
        got = await channel.basic_get(queue, no_ack=True)
        if isinstance(got.delivery, commands.Basic.GetEmpty):
            return taken
        taken.append(got)


def ids_of(taken: Sequence[aiormq.abc.DeliveredMessage]) -> list[str | None]:
    return [each.header.properties.message_id for each in taken]


async def until_queued(channel: aiormq.abc.AbstractChannel, count: int, queue: str = QUEUE) -> None:
    await wait_until(lambda: channel.queue_declare(queue, passive=True), lambda declared: declared.message_count == count)


async def until_not_ready(publisher: Publisher) -> None:
    await wait_until(lambda: not publisher.ready)


async def until_channels(broker: TestBroker, count: int) -> None:
    """Until the broker has so many channels open in the virtual host: the test's own one is among them."""
    await wait_until(lambda: broker.evaluate(CHANNELS.format(vhost=broker.vhost)), lambda counted: int(counted) == count)


async def test_confirms_a_batch_and_keeps_its_order(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    batch = [message() for _ in range(100)]

    receipts = await publisher.publish(batch)

    assert outcomes(receipts) == [Outcome.CONFIRMED] * 100
    assert ids_of(await contents(channel)) == ids(batch)


async def test_sends_all_properties_and_sends_persistently(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    sent = message(body=b'{"amount": "130.00"}')

    await publisher.publish([sent])

    [got] = await contents(channel)
    properties = got.header.properties
    assert got.body == sent.body
    assert properties.delivery_mode == 2
    assert properties.message_id == sent.message_id
    assert (properties.content_type, properties.message_type) == (sent.content_type, sent.type)
    assert (properties.correlation_id, properties.app_id) == (sent.correlation_id, sent.app_id)
    assert (properties.user_id, properties.timestamp) == (sent.user_id, NOW)
    assert properties.headers is not None
    assert properties.headers.items() >= sent.headers.items()


async def test_sends_a_batch_in_one_socket_write(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publisher.publish([message()])
    writes: list[bytes] = []
    write = asyncio.StreamWriter.write

    def recording(writer: asyncio.StreamWriter, data: bytes) -> None:
        if b"find me" in data:
            writes.append(data)
        write(writer, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", recording)
    await publisher.publish([message(body=b"find me") for _ in range(100)])

    assert [data.count(b"find me") for data in writes] == [100]


async def test_an_empty_batch_is_nothing(publisher: Publisher) -> None:
    assert await publisher.publish([]) == []


async def test_tells_what_no_queue_wanted(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    batch = [message("nobody" if position % 3 == 0 else QUEUE) for position in range(30)]

    receipts = await publisher.publish(batch)

    expected = [Outcome.UNROUTABLE if position % 3 == 0 else Outcome.CONFIRMED for position in range(30)]
    assert outcomes(receipts) == expected


async def test_tells_what_no_queue_wanted_when_its_body_comes_back_in_several_frames(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message(), message("nobody", body=b"x" * 250_000), message()]

    receipts = await publisher.publish(batch)

    assert outcomes(receipts) == [Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.CONFIRMED]


async def test_tells_what_a_full_queue_does_not_take(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    arguments: dict[str, FieldValue] = {"x-max-length": 3, "x-overflow": "reject-publish"}
    await channel.queue_declare("small", durable=True, arguments=arguments)

    receipts = await publisher.publish([message("small") for _ in range(5)])

    assert outcomes(receipts) == [Outcome.CONFIRMED] * 3 + [Outcome.NACKED] * 2


async def test_counts_confirms_that_stand_for_many(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[aiormq.abc.ConfirmationFrameType] = []
    on_confirm = ConfirmChannel._on_confirm_frame

    async def recording(confirmed: ConfirmChannel, frame: aiormq.abc.ConfirmationFrameType) -> None:
        frames.append(frame)
        await on_confirm(confirmed, frame)

    monkeypatch.setattr(ConfirmChannel, "_on_confirm_frame", recording)
    batches = [[message() for _ in range(100)] for _ in range(5)]
    receipts = await asyncio.gather(*(publisher.publish(batch) for batch in batches))

    assert any(getattr(frame, "multiple", False) for frame in frames)
    assert len(frames) < 500
    assert [outcomes(each) for each in receipts] == [[Outcome.CONFIRMED] * 100] * 5
    assert set(ids_of(await contents(channel))) == {each.message_id for batch in batches for each in batch}


@pytest.mark.parametrize("culprits", [{0}, {7}, {19}, {3, 4, 17}, set(range(20))])
async def test_finds_those_that_a_missing_exchange_refuses_and_delivers_their_neighbours(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel, culprits: set[int]
) -> None:
    batch = [message(exchange="missing" if position in culprits else "") for position in range(20)]

    receipts = await publisher.publish(batch)

    refused = {position for position, each in enumerate(receipts) if each.outcome is Outcome.REFUSED}
    assert refused == culprits
    assert all("no exchange 'missing'" in receipts[position].reason for position in culprits)
    good = [each.message_id for position, each in enumerate(batch) if position not in culprits]
    assert [receipt.outcome for receipt in receipts].count(Outcome.CONFIRMED) == len(good)
    assert set(ids_of(await contents(channel))) == set(good)


async def test_blames_nobody_for_a_channel_that_another_batch_has_closed(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel
) -> None:
    for _ in range(10):
        culprit, *others = await asyncio.gather(
            publisher.publish([message(exchange="missing")]),
            *(publisher.publish([message()]) for _ in range(5)),
        )
        assert outcomes(culprit) == [Outcome.REFUSED]
        assert [outcomes(each) for each in others] == [[Outcome.CONFIRMED]] * 5


async def test_finds_those_for_which_a_permission_is_missing(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    await channel.exchange_declare("commands", exchange_type="topic", durable=True)
    await channel.exchange_declare("events", exchange_type="topic", durable=True)
    await channel.queue_bind(QUEUE, "commands", "#")
    async with (
        broker.user_with(configure="", write="^commands$", read="") as url,
        connected(url) as publisher,
    ):
        batch = [replace(message(exchange="commands"), user_id="") for _ in range(4)]
        batch[1] = replace(batch[1], exchange="events")
        batch[2] = replace(batch[2], user_id="somebody-else")

        receipts = await publisher.publish(batch)

    expected = [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.REFUSED, Outcome.CONFIRMED]
    assert outcomes(receipts) == expected
    assert "ACCESS_REFUSED" in receipts[1].reason
    assert "user_id" in receipts[2].reason


async def test_what_is_in_flight_when_the_connection_is_cut_is_unknown_and_goes_out_again_afterwards(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message() for _ in range(20)]
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        proxy.hold_answers()
        publishing = asyncio.create_task(publisher.publish(batch))
        await until_queued(channel, 20)
        async with asyncio.timeout(FAULT_SECONDS):
            await proxy.cut()
            first = await publishing
        proxy.release()
        async with asyncio.timeout(FAULT_SECONDS):
            await publisher.wait_until_ready()
        second = await publisher.publish(batch)

    assert outcomes(first) == [Outcome.UNKNOWN] * 20
    assert outcomes(second) == [Outcome.CONFIRMED] * 20
    assert ids_of(await contents(channel)) == ids(batch) * 2


async def test_a_connection_that_is_cut_while_its_channel_opens_is_no_cancellation(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        proxy.hold_answers()
        publishing = asyncio.create_task(publisher.publish([message()]))
        async with asyncio.timeout(FAULT_SECONDS):
            await until_channels(broker, 2)
            await proxy.cut()
            receipts = await publishing

    assert outcomes(receipts) == [Outcome.UNKNOWN]


async def test_comes_back_after_the_broker_has_closed_the_connection(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    async with connected(broker.url, ENDLESS) as publisher:
        await publisher.publish([message("nobody")])
        await broker.close_connections()
        await until_not_ready(publisher)
        async with asyncio.timeout(FAULT_SECONDS):
            lost = await publisher.publish([message()])
            await publisher.wait_until_ready()
            back = await publisher.publish([message("nobody")])

    assert outcomes(lost) == [Outcome.UNKNOWN]
    assert "CONNECTION_FORCED" in lost[0].reason
    assert outcomes(back) == [Outcome.UNROUTABLE]


async def test_answers_at_once_while_there_is_no_connection(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await proxy.stop_listening()
        await until_not_ready(publisher)
        async with asyncio.timeout(FAULT_SECONDS):
            receipts = await publisher.publish([message(), message()])

    assert outcomes(receipts) == [Outcome.UNKNOWN] * 2
    assert "no connection" in receipts[0].reason


async def test_lets_others_run_while_there_is_no_connection(broker: TestBroker) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await proxy.stop_listening()
        await until_not_ready(publisher)
        others = asyncio.Event()
        asyncio.get_running_loop().call_soon(others.set)

        await publisher.publish([message()])

        assert others.is_set()


async def test_under_a_memory_alarm_the_first_batch_is_unknown_and_nothing_more_is_sent(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    first, second, third = [[message() for _ in range(3)] for _ in range(3)]
    async with proxied(broker.url, SHORT) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        async with broker.memory_alarm():
            blocked = [await publisher.publish(batch) for batch in (first, second, second, third)]
        async with asyncio.timeout(FAULT_SECONDS):
            while outcomes(again := await publisher.publish(first)) != [Outcome.CONFIRMED] * 3:
                assert outcomes(again) == [Outcome.UNKNOWN] * 3

        assert [outcomes(each) for each in blocked] == [[Outcome.UNKNOWN] * 3] * 4
        assert proxy.accepted == 1
    # Once out of the socket, after the alarm, and once again; the other batches never left us.
    arrived = Counter(ids_of(await contents(channel)))
    assert arrived.keys() == set(ids(first))
    assert min(arrived.values()) >= 2


async def test_a_broker_that_falls_silent_loses_channel_and_connection_and_is_found_again(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message() for _ in range(3)]
    async with proxied(broker.url, SHORT) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        proxy.fall_silent()
        unanswered = await publisher.publish(batch)
        unopened = await publisher.publish(batch)
        await proxy.cut()
        proxy.release()
        async with asyncio.timeout(FAULT_SECONDS):
            await publisher.wait_until_ready()
            back = await publisher.publish(batch)

        assert proxy.accepted > 1
    assert outcomes(unanswered) == outcomes(unopened) == [Outcome.UNKNOWN] * 3
    assert "no answer" in unanswered[0].reason
    assert "does not open a channel" in unopened[0].reason
    assert outcomes(back) == [Outcome.CONFIRMED] * 3


async def test_survives_the_broker_being_killed(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    if broker.servers.private is None:
        pytest.skip("the servers of TUTTI_TEST_HOME are not ours to kill")
    batch = [message() for _ in range(50)]
    settings = replace(ENDLESS, timeout_seconds=5.0)
    async with connected(broker.url, settings) as publisher:
        await publisher.publish(batch)
        await store_queue_names(broker.servers.broker_pid)
        await broker.servers.private.restart_broker(kill=True)
        async with asyncio.timeout(60):
            while outcomes(receipts := await publisher.publish(batch)) != [Outcome.CONFIRMED] * 50:
                assert Outcome.REFUSED not in outcomes(receipts)
                await asyncio.wait_for(publisher.wait_until_ready(), 60)


async def test_carries_bodies_of_any_number_of_frames(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    frame_max = channel.connection.connection_tune.frame_max
    sizes = [0, 1, frame_max - 9, frame_max - 8, frame_max - 7, 2 * (frame_max - 8), 16 * 1024 * 1024]
    batch = [message(body=bytes(range(256)) * (size // 256) + b"x" * (size % 256)) for size in sizes]
    settings = PublisherSettings(body_bytes_max=16 * 1024 * 1024, timeout_seconds=60)
    async with connected(broker.url, settings) as publisher:
        receipts = await publisher.publish(batch)

    assert outcomes(receipts) == [Outcome.CONFIRMED] * len(batch)
    assert [got.body for got in await contents(channel)] == [each.body for each in batch]


async def test_refuses_before_the_write_what_the_broker_would_end_the_connection_for(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    settings = PublisherSettings(header_bytes_max=1024 * 1024)
    good = message()
    bad = {
        "body": replace(message(), body=b"x" * (256 * 1024 + 1)),
        "properties": replace(message(), headers={"trace": "x" * 140_000}),
        "message id": replace(message(), message_id=""),
        "255": replace(message(), routing_key="x" * 256),
        "object": replace(message(), headers={"object": object()}),  # type: ignore[dict-item] # what it is about
        "AMQP": replace(message(), timestamp=datetime(1969, 1, 1, tzinfo=UTC)),
    }
    async with proxy_before(broker.url) as proxy:
        async with connected(proxy.in_front_of(broker.url), settings) as publisher:
            receipts = await publisher.publish([*bad.values(), good])
        assert proxy.accepted == 1

    assert outcomes(receipts) == [Outcome.REFUSED] * len(bad) + [Outcome.CONFIRMED]
    assert all(word in receipt.reason for word, receipt in zip(bad, receipts, strict=False))
    assert ids_of(await contents(channel)) == ids([good])


async def test_refuses_properties_beyond_their_limit(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    batch = [replace(message(), headers={"trace": "x" * size}) for size in (15_000, 17_000)]

    receipts = await publisher.publish(batch)

    assert outcomes(receipts) == [Outcome.CONFIRMED, Outcome.REFUSED]


async def test_equal_ids_in_a_batch_get_an_answer_each(publisher: Publisher, channel: aiormq.abc.AbstractChannel) -> None:
    first = message()
    lost = replace(first, routing_key="nobody")
    copies = [first, lost, message(), first, lost]

    receipts = await publisher.publish(copies)

    routed = [Outcome.CONFIRMED, Outcome.UNROUTABLE]
    assert outcomes(receipts) == [*routed, Outcome.CONFIRMED, *routed]
    assert ids_of(await contents(channel)) == ids([first, copies[2], first])


async def test_equal_ids_of_concurrent_batches_get_an_answer_each(
    publisher: Publisher, channel: aiormq.abc.AbstractChannel
) -> None:
    lost = message("nobody")
    found = replace(lost, routing_key=QUEUE)

    receipts = await asyncio.gather(*(publisher.publish([each]) for each in (lost, found, lost, found, lost)))

    routed = [[Outcome.UNROUTABLE], [Outcome.CONFIRMED]]
    assert [outcomes(each) for each in receipts] == [*routed, *routed, [Outcome.UNROUTABLE]]


async def test_splits_a_batch_that_is_too_large_for_one_write_and_keeps_its_order(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message(body=b"x" * 1000) for _ in range(10)]
    async with connected(broker.url, PublisherSettings(write_bytes_max=2500)) as publisher:
        receipts = await publisher.publish(batch)

    assert outcomes(receipts) == [Outcome.CONFIRMED] * 10
    assert ids_of(await contents(channel)) == ids(batch)


async def test_a_cancelled_publish_is_cancelled_and_leaves_a_working_publisher(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message() for _ in range(5)]
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        proxy.hold_answers()
        publishing = asyncio.create_task(publisher.publish(batch))
        await until_queued(channel, 5)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        proxy.release()
        receipts = await publisher.publish(batch)

        assert proxy.accepted == 1
    assert outcomes(receipts) == [Outcome.CONFIRMED] * 5


async def test_says_what_is_wrong_when_nothing_listens(broker: TestBroker) -> None:
    async with proxy_before(broker.url) as proxy:
        url = proxy.in_front_of(broker.url)
    settings = replace(SHORT, connection=ConnectionSettings(startup_seconds=0.5, reconnect_seconds=0.1))

    with pytest.raises(BrokerUnreachable, match="the last failure was"):
        await Publisher(url, name="test", settings=settings).connect()


async def test_says_what_is_wrong_when_the_listener_is_no_broker() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    settings = replace(SHORT, connection=ConnectionSettings(startup_seconds=0.5, reconnect_seconds=0.1))
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as rude:
        port = rude.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachable, match=f"no broker at 127.0.0.1:{port}"):
            await Publisher(f"amqp://127.0.0.1:{port}/", name="test", settings=settings).connect()


async def test_closing_twice_changes_nothing_and_afterwards_nothing_is_sent(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    publisher = Publisher(broker.url, name="test")
    await publisher.connect()

    await publisher.close()
    await publisher.close()

    assert not publisher.ready
    assert outcomes(await publisher.publish([message()])) == [Outcome.UNKNOWN]

"""The publisher against a real broker: bodies of every size, equal ids, and how it ends.

These tests also pin what the publisher uses of aiormq below its public interface.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import aiormq
import pytest

from infra.broker.connection import BrokerUnreachable, ConnectionSettings
from infra.broker.publisher import Outcome, Publisher, PublisherSettings
from tests.integration.broker.publishing import (
    ENDLESS,
    QUEUE,
    SHORT,
    connected,
    contents,
    ids,
    ids_of,
    message,
    outcomes,
    proxied,
    until_queued,
)
from tests.support.proxy import proxy_before
from tests.support.servers import TestBroker

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]


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

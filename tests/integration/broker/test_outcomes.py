"""The publisher against a real broker: each outcome of a message, and whose fault it is.

These tests also pin what the publisher uses of aiormq below its public interface.
"""

import asyncio
from dataclasses import replace

import aiormq
import pytest
from pamqp.common import FieldValue

from infra.broker.confirm_channel import ConfirmChannel
from infra.broker.publisher import Outcome, Publisher
from tests.integration.broker.publishing import (
    NOW,
    QUEUE,
    connected,
    contents,
    ids,
    ids_of,
    message,
    outcomes,
)
from tests.support.servers import TestBroker

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]


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

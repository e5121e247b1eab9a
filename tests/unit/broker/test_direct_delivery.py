"""How frames are taken apart whatever the socket's chunks, and how those of a delivery are put together."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import aiormq
import pytest
from aio_pika.queue import consumer
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from infra.broker.direct_delivery import DeliveryChannel, Direct, FrameReader

CONSUMER = "consumer"
BODIES = [b"first", b"second" * 40]
FRAMES = [
    Heartbeat(),
    *(
        one
        for tag, body in enumerate(BODIES, start=1)
        for one in (
            Basic.Deliver(CONSUMER, tag, False, "events", "credit.credit-reserved.v1"),
            ContentHeader(0, len(body), Basic.Properties(message_id=f"m-{tag}", user_id="credit")),
            ContentBody(body),
        )
    ),
    Basic.Ack(7, True),
]
WIRE = b"".join(frame.marshal(one, 0 if isinstance(one, Heartbeat) else 3) for one in FRAMES)


class Chunked(asyncio.StreamReader):
    """A socket from which each read gets one of the chunks, and then the end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        self._chunks = iter(chunks)

    async def read(self, n: int = -1) -> bytes:
        return next(self._chunks, b"")


async def _read(chunks: Iterable[bytes]) -> list[tuple[int, Any]]:
    reader = FrameReader(Chunked(chunks))
    found: list[tuple[int, Any]] = []
    with pytest.raises(AMQPConnectionError):
        await _gather(reader, found)
    return found


async def _gather(reader: FrameReader, found: list[tuple[int, Any]]) -> None:
    while True:
        _, channel, received = await reader.get_frame()
        found.append((channel, received))


@given(cuts=st.lists(st.integers(0, len(WIRE)), max_size=30))
def test_frames_are_the_same_wherever_the_socket_cuts_them(cuts: list[int]) -> None:
    ends = [*sorted(cuts), len(WIRE)]
    chunks = [WIRE[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    found = asyncio.run(_read([chunk for chunk in chunks if chunk]))

    assert [channel for channel, _ in found] == [0] + [3] * 7
    assert [type(received) for _, received in found] == [type(one) for one in FRAMES]
    assert [received.value for _, received in found if isinstance(received, ContentBody)] == BODIES


async def test_a_broker_of_another_version_is_heard() -> None:
    found = await _read([ProtocolHeader(1, 0, 0).marshal()])

    assert [type(received) for _, received in found] == [ProtocolHeader]


async def test_what_is_no_frame_is_said() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(frame.marshal(ContentBody(b"body"), 3)[:-1] + b"\x00")

    with pytest.raises(InvalidFrameError):
        await FrameReader(stream).get_frame()


async def test_a_connection_that_is_cut_is_an_error_of_the_connection() -> None:
    stream = asyncio.StreamReader()
    stream.set_exception(ConnectionResetError("reset by peer"))

    with pytest.raises(AMQPConnectionError, match="reset by peer"):
        await FrameReader(stream).get_frame()


DELIVER = Basic.Deliver(CONSUMER, 1, False, "events", "credit.credit-reserved.v1")


@pytest.fixture
async def channel() -> AsyncIterator[tuple[DeliveryChannel, list[bytes]]]:
    """A channel with one direct consumer, as aio-pika registers it, on a connection that was never opened; and what is taken."""
    connection = aiormq.Connection("amqp://127.0.0.1:1/")
    connection.connection_tune = Connection.Tune(frame_max=128 * 1024)
    taken: list[bytes] = []
    made = DeliveryChannel(connection, 1, publisher_confirms=False)
    made.consumers[CONSUMER] = partial(consumer, Direct(lambda message: taken.append(message.body)), no_ack=False)
    yield made, taken
    await made.close()


async def test_a_delivery_in_several_frames_is_handed_over_with_the_last(channel: tuple[DeliveryChannel, list[bytes]]) -> None:
    receiving, taken = channel
    for received in (DELIVER, ContentHeader(0, 6, Basic.Properties()), ContentBody(b"one")):
        await receiving.frames.put((1, received))
    assert taken == []

    await receiving.frames.put((1, ContentBody(b"two")))

    assert taken == [b"onetwo"]
    assert receiving.frames.empty()


async def test_a_channel_that_ends_within_a_delivery_hands_nothing_over(channel: tuple[DeliveryChannel, list[bytes]]) -> None:
    receiving, taken = channel
    await receiving.frames.put((1, DELIVER))
    await receiving.frames.put((1, ContentHeader(0, 6, Basic.Properties())))

    await receiving.frames.put((1, Channel.Close(541, "the node stops", 0, 0)))

    assert receiving.frames.qsize() == 1
    assert taken == []


@pytest.mark.parametrize("received", [Basic.Ack(1), ContentBody(b"body"), DELIVER], ids=["a confirm", "a body", "a delivery"])
async def test_a_frame_that_belongs_to_no_delivery_ends_the_connection_and_settles_nothing(
    channel: tuple[DeliveryChannel, list[bytes]], received: Any
) -> None:
    receiving, taken = channel
    await receiving.frames.put((1, DELIVER))

    with pytest.raises(InvalidFrameError):
        await receiving.frames.put((1, received))

    assert taken == []

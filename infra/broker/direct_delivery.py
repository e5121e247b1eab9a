"""From the socket to a consumer in one step: deliveries are put together and handed over where their frames are read.

aiormq reads a frame in three awaits, and passes each of the three frames of a delivery through a queue to the channel's own task. That
starts a task for the consumer, in which aio-pika wraps the message and starts another task. A consumer of ours only puts the message
into a queue, so that way is most of the price of a delivery; ADR 13 has the figures.

    socket ──chunk──> FrameReader ──frame──> channel.frames ──Deliver, header, body──> Direct.take          (here)
                                                  └─ everything else ──> the channel's task, as before

What stays: frames of a channel are taken in their order, a consumer that is not `Direct` is served as before, and frames that are part
of no delivery take their old way. Tests pin the internals that this leans on: `FrameReceiver.get_frame`, `Channel.frames`,
`Channel.consumers`, and that aio-pika's consumer is a partial with the callback as its first argument.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiormq
import aiormq.connection
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

CHUNK_BYTES: Final = 64 * 1024
# Type, channel and size stand before the payload, one octet behind it.
SIZE: Final = slice(3, 7)
OVERHEAD_BYTES: Final = 8
# A broker that speaks another version of the protocol answers with this.
PROTOCOL_HEADER: Final = b"AMQP"


def install() -> None:
    """From now on this process' connections read in this way. Repeating it changes nothing."""
    vars(aiormq.connection).update(FrameReceiver=FrameReader, Channel=DeliveryChannel)


class Direct:
    """A consumer's callback: on a channel of ours `take` is called with each delivery at once, in order, and must not wait.

    An exception of `take` ends the connection, so `take` deals with its failures itself.
    """

    def __init__(self, take: Callable[[DeliveredMessage], None]) -> None:
        self.take = take

    async def __call__(self, message: object) -> None:
        raise AssertionError("the library did not use a channel of ours; was `install` called before connecting?")


class FrameReader(aiormq.connection.FrameReceiver):
    """Reads what is there, and takes it apart frame by frame."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._chunk = b""
        self._position = 0

    async def get_frame(self) -> Any:
        """(size, channel, frame). Raises AMQPConnectionError when the connection ends, InvalidFrameError for what is no frame."""
        while (found := self._next()) is None:
            try:
                chunk = await self.reader.read(CHUNK_BYTES)
            except OSError as error:
                raise AMQPConnectionError(f"Server communication error: {error!r}") from error
            if not chunk:
                raise AMQPConnectionError("Server connection unexpectedly closed")
            self._chunk = self._chunk[self._position :] + chunk
            self._position = 0
        return found

    def _next(self) -> tuple[int, int, Any] | None:
        data, start = self._chunk, self._position
        if len(data) - start < OVERHEAD_BYTES:
            return None
        size = OVERHEAD_BYTES
        if not data.startswith(PROTOCOL_HEADER, start):
            size += int.from_bytes(data[start + SIZE.start : start + SIZE.stop])
        if len(data) - start < size:
            return None
        self._position = start + size
        try:
            return frame.unmarshal(data[start : start + size])
        except PAMQPException as error:
            raise InvalidFrameError(str(error)) from error


class DeliveryChannel(aiormq.Channel):
    """A channel that hands deliveries to `Direct` consumers at once."""

    def __init__(self, connection: AbstractConnection, number: int, *, frame_buffer: int | None = None, **values: Any) -> None:
        super().__init__(connection, number, frame_buffer=frame_buffer, **values)
        # Nobody waits for frames yet: the reader's task has not begun.
        self.frames = _Frames(self._takes, frame_buffer or 0)
        self._begin_again()

    def _begin_again(self) -> None:
        self._delivery: Basic.Deliver | None = None
        self._consumer: Direct | None = None
        self._header: ContentHeader | None = None
        self._pieces: list[bytes] = []
        self._missing = 0

    def _takes(self, received: Any) -> bool:
        """Whether the frame is part of a delivery to a `Direct` consumer; with the last one it is handed over."""
        if self._delivery is None:
            if type(received) is not Basic.Deliver:
                return False
            self._consumer = _direct(self.consumers.get(received.consumer_tag or ""))
            if self._consumer is None:
                return False
            self._delivery = received
            return True
        if isinstance(received, ContentHeader) and self._header is None:
            self._header, self._missing = received, received.body_size
        elif isinstance(received, ContentBody) and self._header is not None:
            self._pieces.append(received.value)
            self._missing -= len(received.value)
        elif isinstance(received, Channel.Close | Channel.CloseOk):
            # The channel ends in the middle of a delivery: it was not acknowledged, and comes again.
            self._begin_again()
            return False
        else:
            # With this frame let through, the delivery would be lost and yet be acknowledged with its neighbours. So the connection
            # ends, and all of them come again.
            raise InvalidFrameError(f"{received!r} within a delivery")
        if self._missing <= 0:
            self._hand_over(self._delivery, self._header)
        return True

    def _hand_over(self, delivery: Basic.Deliver, header: ContentHeader) -> None:
        body, consumer = b"".join(self._pieces), self._consumer
        self._begin_again()
        assert consumer is not None
        consumer.take(DeliveredMessage(delivery=delivery, header=header, body=body, channel=self))


def _direct(consumer: Any) -> Direct | None:
    """The `Direct` in what the library has made of a callback: a partial of its own function, around the callback or a wrapper of it."""
    arguments = getattr(consumer, "args", ())
    callback = arguments[0] if arguments else None
    callback = getattr(callback, "__wrapped__", callback)
    return callback if isinstance(callback, Direct) else None


class _Frames(asyncio.Queue[Any]):
    """The frames for the channel's task, without those that are taken on the way."""

    def __init__(self, takes: Callable[[Any], bool], maxsize: int) -> None:
        super().__init__(maxsize)
        self._takes = takes

    async def put(self, item: Any) -> None:
        if not self._takes(item[1]):
            await super().put(item)

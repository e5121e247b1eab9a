"""Publishes a batch in one socket write and waits once for all its confirms.

aio-pika's public interface takes a task, a drain and a lock for each message, and that is what publishing
costs. Here a batch is marshalled into one byte string and numbered as a whole; the broker's confirms are
counted off against the numbers, and one future ends the wait.

Numbers. On a channel in confirm mode the broker counts publishes from 1, and an ack or nack names such a
number, or with `multiple` all numbers up to it. A write takes the next numbers in the same step in which it
enters aiormq's write queue, so the two orders are one.

Returns. `basic.return` carries no number, but the message; it precedes that message's ack. It is matched by
message id, therefore an id is never in flight twice on a channel: a second copy waits for the first.

A channel that the broker closes. A missing exchange or permission closes the channel for everything in flight
on it, and the broker does not say which message it was. What is open then is sent again by halves,
on channels that carry nothing else, until one message closes a channel all by itself. So no other message can
be blamed, and the innocent are delivered, some of them twice under the same id.

What is not known. After a timeout, a lost connection or a cancelled wait a message may or may not have
arrived. The channel is given up with it, so that the next copy of the id travels on a fresh one; if the
broker does not even open that, the connection goes too. While an alarm blocks the connection nothing is sent
at all: it would only fill the socket, and what is in the socket arrives after all.
"""

import asyncio
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import lru_cache

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.common import FieldValue
from pamqp.header import ContentHeader

from infra.broker.confirm_channel import Answer, ChannelRefused, ConfirmChannel, open_confirm_channel
from infra.broker.connection import BrokerUnreachable, ConnectionSettings, KeptConnection

PERSISTENT = 2
FRAME_OVERHEAD_BYTES = 8
# Distinct (exchange, routing key, channel number): far fewer than this in one process.
PUBLISH_FRAMES_CACHED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to the broker, persistent and mandatory. The message id must not be empty.

    Floats in headers travel in single precision, and header names beyond 128 bytes are cut: both are pamqp's.
    """

    exchange: str
    routing_key: str
    message_id: str
    body: bytes
    content_type: str
    type: str
    correlation_id: str
    app_id: str
    user_id: str
    timestamp: datetime
    headers: Mapping[str, FieldValue]


class Outcome(Enum):
    """What became of one message. Each outcome asks another answer of the caller."""

    CONFIRMED = "confirmed"
    """The broker has stored it in every queue that it was routed to. Done."""

    UNROUTABLE = "unroutable"
    """The broker took it and no queue wanted it. An event may have no receiver; a command must have."""

    NACKED = "nacked"
    """The broker could not take it now: a queue is full or has no leader. Back off and send it again."""

    REFUSED = "refused"
    """It can never be sent as it is: it is beyond a limit, or it alone closed a channel. Park it."""

    UNKNOWN = "unknown"
    """It may or may not have arrived, or was never sent. Send it again under the same id."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """An outcome and, unless it is CONFIRMED, the reason in words for an operator."""

    outcome: Outcome
    reason: str = ""


RECEIPTS = {
    Answer.ACK: Receipt(Outcome.CONFIRMED),
    Answer.NACK: Receipt(Outcome.NACKED, "the broker answered nack: a queue is full or not available"),
    Answer.RETURN: Receipt(Outcome.UNROUTABLE, "no queue is bound for this exchange and routing key"),
    Answer.NONE: None,
}


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    timeout_seconds: float = 10.0
    """For one `publish` with all its waits."""
    channel_open_seconds: float = 5.0
    """A connection on which no channel opens within this time is dropped."""
    header_bytes_max: int = 16 * 1024
    """All properties and headers of one message, marshalled. Beyond frame_max the connection would end."""
    body_bytes_max: int = 256 * 1024
    write_bytes_max: int = 16 * 1024 * 1024
    """Bodies in one write. A batch beyond it goes out in several, one after the other's confirms."""
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)


class Unsendable(ValueError):
    """The broker would refuse the message, or end the connection; the text says why."""


class Publisher:
    """Publishes on a connection of its own and keeps it connected.

    The connection is its own, because an alarm blocks a connection that publishes, with the acknowledgements on it.
    `publish` may be called concurrently; the writes share one channel.
    """

    def __init__(self, url: str, *, name: str, settings: PublisherSettings | None = None) -> None:
        self._settings = settings or PublisherSettings()
        self._connection = KeptConnection(url, name=name, settings=self._settings.connection)
        self._channel: ConfirmChannel | None = None
        self._opening = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether there is a connection. One that an alarm blocks is still one."""
        return self._connection.ready

    async def wait_until_ready(self) -> None:
        """Returns once there is a connection. The bound is the caller's."""
        await self._connection.wait_until_ready()

    async def connect(self) -> None:
        """Connects, and stays connected until `close`. Raises BrokerUnreachable after `startup_seconds`."""
        await self._connection.start()

    async def close(self) -> None:
        """Ends the connection; what is in flight becomes UNKNOWN. Repeating it changes nothing."""
        await self._connection.stop()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Receipt]:
        """Publishes in the order given and returns one receipt per message, in the same order.

        Returns within `timeout_seconds`, and at once while there is no connection. Does not raise for a
        fault of the broker, the network or a message. If an id occurs twice, the second waits for the first one's answer.
        """
        receipts: list[Receipt | None] = [None] * len(batch)
        reason = ""
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                for write in self._writes(batch):
                    await self._publish(batch, write, receipts)
        except TimeoutError:
            reason = f"no answer within {self._settings.timeout_seconds} s"
        except BrokerUnreachable as error:
            reason = str(error)
            # Perhaps nothing has been awaited so far. A caller that tries again at once would then keep the event
            # loop from all other tasks, and from the new connection.
            await asyncio.sleep(0)
        unknown = Receipt(Outcome.UNKNOWN, reason)
        return [receipt or unknown for receipt in receipts]

    def _writes(self, batch: Sequence[Outgoing]) -> Iterator[list[int]]:
        """Splits a batch, by positions, where an id comes again or a write would become too large."""
        write: list[int] = []
        ids: set[str] = set()
        size = 0
        for position, message in enumerate(batch):
            length = len(message.body)
            if write and (message.message_id in ids or size + length > self._settings.write_bytes_max):
                yield write
                write, ids, size = [], set(), 0
            write.append(position)
            ids.add(message.message_id)
            size += length
        if write:
            yield write

    async def _publish(self, batch: Sequence[Outgoing], write: Sequence[int], receipts: list[Receipt | None]) -> None:
        channel = await self._shared_channel()
        try:
            await self._send(channel, batch, write, receipts)
        except ChannelRefused:
            await self._search(batch, _still_open(write, receipts), receipts)
        finally:
            if _still_open(write, receipts):
                self._give_up(channel)

    async def _search(self, batch: Sequence[Outgoing], suspects: Sequence[int], receipts: list[Receipt | None]) -> None:
        """Sends by halves, in order and on channels of its own, what was open on a closed channel."""
        channel = await self._open_channel()
        try:
            await self._send(channel, batch, suspects, receipts)
        except ChannelRefused as refused:
            if len(suspects) == 1:
                reason = f"the broker closed the channel for it: {refused}"
                receipts[suspects[0]] = Receipt(Outcome.REFUSED, reason)
                return
            suspects = _still_open(suspects, receipts)
            middle = len(suspects) // 2
            for half in (suspects[:middle], suspects[middle:]):
                if half:
                    await self._search(batch, half, receipts)
        finally:
            self._give_up(channel)

    async def _send(
        self,
        channel: ConfirmChannel,
        batch: Sequence[Outgoing],
        write: Sequence[int],
        receipts: list[Receipt | None],
    ) -> None:
        """One write and one wait. Raises ChannelRefused or BrokerUnreachable if some stay open."""
        frames: list[bytes] = []
        sent: list[int] = []
        for position in write:
            try:
                frames += self._marshal(batch[position], channel)
            except Unsendable as error:
                receipts[position] = Receipt(Outcome.REFUSED, str(error))
            else:
                sent.append(position)
        if not sent:
            return
        flight = await channel.send([batch[position].message_id for position in sent], b"".join(frames))
        try:
            await flight.landed
        finally:
            for position, answer in zip(sent, flight.answers, strict=True):
                receipts[position] = RECEIPTS[answer]
        if flight.open:
            channel.raise_end()

    def _marshal(self, message: Outgoing, channel: ConfirmChannel) -> list[bytes]:
        """The frames of one publish: method, header, and as many of body as it takes. Raises Unsendable."""
        number = channel.number
        room = channel.max_content_size
        body = message.body
        if not message.message_id:
            raise Unsendable("the message id is empty")
        if len(body) > self._settings.body_bytes_max:
            raise Unsendable(f"the body has {len(body)} bytes, the limit is {self._settings.body_bytes_max}")
        try:
            method = _publish_frame(message.exchange, message.routing_key, number)
            header = frame.marshal(ContentHeader(0, len(body), _properties(message)), number)
        except (TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise Unsendable(f"AMQP cannot carry its properties: {error}") from error
        header_bytes = len(header) - FRAME_OVERHEAD_BYTES
        header_bytes_max = min(self._settings.header_bytes_max, room)
        if header_bytes > header_bytes_max:
            raise Unsendable(f"its properties have {header_bytes} bytes, the limit is {header_bytes_max}")
        pieces = (body[start : start + room] for start in range(0, len(body), room))
        return [method, header, *(frame.marshal(ContentBody(piece), number) for piece in pieces)]

    async def _shared_channel(self) -> ConfirmChannel:
        # Returns when no alarm blocks the connection.
        await self._connection.current().ready()
        async with self._opening:
            if self._channel is None or not self._channel.usable:
                self._channel = await self._open_channel()
            return self._channel

    async def _open_channel(self) -> ConfirmChannel:
        connection = self._connection.current()
        try:
            async with asyncio.timeout(self._settings.channel_open_seconds):
                return await open_confirm_channel(connection)
        except TimeoutError as error:
            self._connection.drop()
            raise BrokerUnreachable("the broker does not open a channel") from error

    def _give_up(self, channel: ConfirmChannel) -> None:
        if self._channel is channel:
            self._channel = None
        try:
            channel.give_up()
        except BrokerUnreachable:
            self._connection.drop()


@lru_cache(maxsize=PUBLISH_FRAMES_CACHED_MAX)
def _publish_frame(exchange: str, routing_key: str, channel_number: int) -> bytes:
    publish = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return frame.marshal(publish, channel_number)


def _properties(message: Outgoing) -> commands.Basic.Properties:
    return commands.Basic.Properties(
        content_type=message.content_type,
        headers=dict(message.headers),
        delivery_mode=PERSISTENT,
        correlation_id=message.correlation_id,
        message_id=message.message_id,
        timestamp=message.timestamp,
        message_type=message.type,
        user_id=message.user_id,
        app_id=message.app_id,
    )


def _still_open(positions: Sequence[int], receipts: Sequence[Receipt | None]) -> list[int]:
    return [position for position in positions if receipts[position] is None]

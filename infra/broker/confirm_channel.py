"""A channel that sends many publishes in one write and counts their confirms off in bulk.

What this module uses of aiormq below its public interface: five methods of `aiormq.Channel`
(`_on_confirm_frame`, `_on_return_frame`, `_on_close_frame`, `_get_frame`, `_read_content`), and placing our
class in `connection.channels` as `Connection.channel` would. tests/integration/broker/ pins them.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum
from itertools import chain

import aiormq
from aiormq.abc import ChannelFrame, ConfirmationFrameType
from pamqp import commands
from pamqp.header import ContentHeader

from infra.broker.connection import BrokerUnreachable, library_failures

# Confirms and returns wait here for the channel's reader; the connection's reader waits when it is full.
FRAMES_QUEUED_MAX = 1024
# The protocol's own bound, for a broker that sets none.
CHANNELS_MAX = 65535


class ChannelRefused(Exception):
    """The broker closed the channel because of something sent on it; the text is the broker's."""


class Answer(Enum):
    """What the broker has said about one publish."""

    ACK = "ack"
    NACK = "nack"
    RETURN = "return"
    NONE = "none"


class Flight:
    """One write under way: consecutive delivery tags, and the answers so far, by position in the write."""

    __slots__ = ("_answered_below", "_first_tag", "_positions", "_returned", "answers", "landed", "open")

    def __init__(self, ids: Sequence[str], first_tag: int, landed: asyncio.Future[None]) -> None:
        self.answers = [Answer.NONE] * len(ids)
        self.open = len(ids)
        self.landed = landed
        self._first_tag = first_tag
        self._positions = {message_id: position for position, message_id in enumerate(ids)}
        self._returned: set[int] = set()
        self._answered_below = 0
        assert len(self._positions) == len(ids), "an id is twice in one write"

    def shares(self, ids: Sequence[str]) -> bool:
        return not self._positions.keys().isdisjoint(ids)

    def note_return(self, message_id: str) -> None:
        """The ack of a returned message follows its return."""
        position = self._positions.get(message_id)
        if position is not None:
            self._returned.add(position)

    def mark(self, tag: int, *, multiple: bool, answer: Answer) -> None:
        """Takes an ack or nack. Tags of other flights, and tags that have their answer, change nothing."""
        position = tag - self._first_tag
        size = len(self.answers)
        if multiple:
            positions = range(self._answered_below, min(position + 1, size))
            self._answered_below = max(self._answered_below, positions.stop)
        else:
            positions = range(position, position + 1) if 0 <= position < size else range(0)
        answers = self.answers
        for position in positions:
            if answers[position] is Answer.NONE:
                answers[position] = Answer.RETURN if position in self._returned else answer
                self.open -= 1
        if not self.open:
            self.land()

    def land(self) -> None:
        if not self.landed.done():
            self.landed.set_result(None)


class ConfirmChannel(aiormq.Channel):
    """Publishes only. Each write is a flight, which lands when all is answered or the channel has ended."""

    def __init__(self, connection: aiormq.Connection, number: int) -> None:
        super().__init__(connection, number, publisher_confirms=True, frame_buffer=FRAMES_QUEUED_MAX)
        self._flights: list[Flight] = []
        self._next_tag = 1
        self._writing = asyncio.Lock()
        self._refusal: str | None = None
        self._given_up = False
        self.closing.add_done_callback(self._land_all)

    async def send(self, ids: Sequence[str], payload: bytes) -> Flight:
        """Writes the frames of `len(ids)` publishes at once. Waits while one of the ids is in flight here.

        Raises BrokerUnreachable if the channel is of no use any more; then nothing has been written.
        """
        async with self._writing:
            # No flight can join while we hold the lock, so one look is enough.
            same = {flight.landed for flight in self._flights if flight.shares(ids)}
            if same:
                await asyncio.wait(same)
            if not self.usable:
                raise BrokerUnreachable("the channel ended before the write")
            self._write(payload)
            # No await since the look at `usable`: the broker closes the connection for a frame on a channel
            # that has ended. Nor between write and numbering: tags are taken in the order of the writes.
            flight = Flight(ids, self._next_tag, self.loop.create_future())
            self._next_tag += len(ids)
            self._flights.append(flight)
        return flight

    @property
    def usable(self) -> bool:
        """False from the moment in which either side has begun to close it; `is_closed` follows later."""
        return not (self._given_up or self._refusal is not None or self.is_closed)

    def raise_end(self) -> None:
        """Says why a flight has landed with open answers: raises ChannelRefused or BrokerUnreachable."""
        if self._refusal is not None and not self._given_up:
            raise ChannelRefused(self._refusal)
        raise BrokerUnreachable("the channel ended before the broker's answer")

    def give_up(self) -> None:
        """Closes the channel without waiting, unless it has ended.

        `Channel.close` would send a second close when the first is not answered in time, as under an alarm,
        and the broker closes the connection for that.
        """
        if self.usable:
            self._given_up = True
            close = commands.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            self._write(ChannelFrame.marshall(self.number, [close]).payload)

    def _write(self, payload: bytes) -> None:
        try:
            self.write_queue.put_nowait(ChannelFrame(payload=payload, should_close=False))
        except asyncio.QueueFull as error:
            # aiormq's writer never waits for us, so a full queue means that it has stopped.
            raise BrokerUnreachable("the connection does not write any more") from error

    def _land_all(self, _: asyncio.Future[None]) -> None:
        for flight in self._flights:
            flight.land()
        self._flights.clear()

    async def _on_confirm_frame(self, frame: ConfirmationFrameType) -> None:
        answer = Answer.ACK if isinstance(frame, commands.Basic.Ack) else Answer.NACK
        assert frame.delivery_tag is not None
        multiple = getattr(frame, "multiple", False)
        for flight in self._flights:
            flight.mark(frame.delivery_tag, multiple=multiple, answer=answer)
        self._flights = [flight for flight in self._flights if flight.open]

    async def _on_return_frame(self, frame: commands.Basic.Return) -> None:
        header = await self._get_frame()
        assert isinstance(header, ContentHeader)
        message = await self._read_content(frame, header)
        message_id = message.header.properties.message_id
        assert message_id is not None
        for flight in self._flights:
            flight.note_return(message_id)

    async def _on_close_frame(self, frame: commands.Channel.Close) -> None:
        self._refusal = frame.reply_text
        await super()._on_close_frame(frame)


async def open_confirm_channel(connection: aiormq.Connection) -> ConfirmChannel:
    """Opens a channel in confirm mode. Raises BrokerUnreachable."""
    with library_failures():
        channel = ConfirmChannel(connection, _free_number(connection))
        connection.channels[channel.number] = channel
        await channel.open()
    return channel


def _free_number(connection: aiormq.Connection) -> int:
    # In turn rather than the lowest: aiormq frees the number of a channel that the broker closes a moment
    # before it sends its close-ok.
    last, most = connection.last_channel, connection.connection_tune.channel_max or CHANNELS_MAX
    in_turn = chain(range(last + 1, most + 1), range(1, last + 1))
    connection.last_channel = next(number for number in in_turn if number not in connection.channels)
    return connection.last_channel

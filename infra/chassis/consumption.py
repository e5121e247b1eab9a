"""Consumption by FastStream behind one small interface, so that a measurement can overrule the choice.

Each queue gets a channel of its own: on a shared channel, acknowledging "multiple" would acknowledge other consumers' messages.
The subscriber acknowledges nothing, answers no `reply_to`, declares nothing and leaves the bytes alone; it hands each message
over and returns at once. FastStream subscribes, connects and comes back; a delivery does not pass through it, but straight from the
socket to the loop (`infra/broker/direct_delivery.py`, ADR 13). FastStream's own path copies, wraps and parses what the loop decodes
itself, and swallows the handler's exceptions. It also drops, without a word, what comes while a subscriber is starting or stopping;
acknowledging "multiple" would then acknowledge such a message without its effect. The watchdog asks the broker whether the queue has a
consumer: connected is not the same as consuming.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractRobustConnection
from aiormq.abc import DeliveredMessage
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from pamqp.commands import Basic

from infra.broker import direct_delivery, lenient_frames
from infra.broker.connection import BrokerUnreachable, library_failures
from infra.broker.direct_delivery import Direct
from infra.chassis.decoding import Raw
from infra.chassis.loop import Delivery
from infra.chassis.metrics import CONSUMER_RESTARTS, CONSUMER_UP

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConsumptionSettings:
    """How many deliveries are held, and how long the broker is waited for.

    `reconnect_seconds`: aio-pika waits a fixed time between attempts; an offset per process keeps a restarted broker from meeting all of
    them at once. `abandon_seconds`: a delivery that cannot be taken comes again at once; without a pause the channel would be opened and
    closed in a circle.
    """

    prefetch_count: int
    heartbeat_seconds: int = 10
    reconnect_seconds: float = 1.0
    probe_seconds_max: float = 5.0
    abandon_seconds: float = 1.0


class AmqpChannel:
    """The channel of one delivery, as the loop sees it."""

    __slots__ = ("_channel", "_close_seconds_max", "abandoned")

    def __init__(self, channel: Any, close_seconds_max: float) -> None:
        self._channel = channel
        self._close_seconds_max = close_seconds_max
        self.abandoned = False

    async def acknowledge(self, tag: int) -> None:
        """Acknowledges this delivery and all before it. Raises ConnectionError when the channel has died or been abandoned."""
        if self.abandoned:
            raise ConnectionError("a delivery of this channel was not taken, and must not be acknowledged with the others")
        try:
            with library_failures():
                await self._channel.basic_ack(tag, multiple=True)
        except BrokerUnreachable as error:
            raise ConnectionError("the channel that delivered the message is gone") from error

    async def close(self) -> None:
        """Returns everything unacknowledged to the queue; the library opens the channel and its consumer again. Does not fail."""
        try:
            with library_failures():
                async with asyncio.timeout(self._close_seconds_max):
                    await self._channel.close()
        except BrokerUnreachable as error:
            log.warning("channel_close_failed", error=str(error)[:200])


class Consumption:
    """The subscriptions of one service. `offers` maps each queue to the function that takes its deliveries.

    `on_lost` and `on_back` are told when the connection ends and when it has been restored with its consumers.
    """

    def __init__(
        self,
        service: str,
        url: str,
        offers: Mapping[str, Callable[[Delivery], None]],
        settings: ConsumptionSettings,
        *,
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        lenient_frames.install()
        direct_delivery.install()
        self._service = service
        self._url = _with_heartbeat(url, settings.heartbeat_seconds)
        self._settings = settings
        self._channels: dict[int, AmqpChannel] = {}
        self._abandoning: set[asyncio.Task[None]] = set()
        self._broker = RabbitBroker(
            self._url,
            app_id=service,
            client_properties={"connection_name": f"{service} consumers"},  # type: ignore[arg-type]
            apply_types=False,
            logger=None,
            graceful_timeout=0.1,
            reconnect_interval=settings.reconnect_seconds + random.uniform(0.0, 0.5),
            on_close=[lambda *_: on_lost()],
            on_reconnected=[lambda *_: on_back()],
        )
        self._subscribers = {queue: self._subscribe(queue, offer) for queue, offer in offers.items()}
        self._probe: AbstractRobustConnection | None = None
        self._missing: dict[str, int] = {}
        self.up: dict[str, bool] = dict.fromkeys(offers, False)

    def _subscribe(self, queue: str, offer: Callable[[Delivery], None]) -> Any:
        subscriber = self._broker.subscriber(
            RabbitQueue(queue, declare=False),
            channel=Channel(prefetch_count=self._settings.prefetch_count),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
        )

        def take(message: DeliveredMessage) -> None:
            try:
                offer(self._delivery(message))
            except Exception as error:
                # The next "multiple" would acknowledge the message without its effect.
                log.critical(
                    "delivery_failed",
                    queue=queue,
                    action="the channel is closed, all that is unacknowledged comes again",
                    exc_info=error,
                )
                self._abandon(self._channel(message.channel))

        direct = Direct(take)
        subscriber(direct.__call__)
        # Straight from the socket to the loop: see the top of this module.
        subscriber.consume = direct  # type: ignore[method-assign, assignment]
        return subscriber

    def _channel(self, library_channel: Any) -> AmqpChannel:
        channel = self._channels.get(id(library_channel))
        if channel is None or channel._channel is not library_channel:
            self._channels = {key: known for key, known in self._channels.items() if not known._channel.is_closed}
            channel = self._channels[id(library_channel)] = AmqpChannel(library_channel, self._settings.probe_seconds_max)
        return channel

    def _abandon(self, channel: AmqpChannel) -> None:
        """Nothing more is acknowledged on this channel; in a moment it is closed. Repeating it changes nothing."""
        if channel.abandoned:
            return
        channel.abandoned = True
        # In a task of its own: this method runs in the task that reads the connection, where nothing may wait.
        task = asyncio.create_task(self._close_abandoned(channel))
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _close_abandoned(self, channel: AmqpChannel) -> None:
        await asyncio.sleep(self._settings.abandon_seconds)
        await channel.close()

    def _delivery(self, message: DeliveredMessage) -> Delivery:
        delivery, properties = message.delivery, message.header.properties
        assert isinstance(delivery, Basic.Deliver)
        headers = properties.headers or {}
        deliveries = headers.get("x-delivery-count", 0)
        raw = Raw(
            body=message.body,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            headers=headers,
            message_id=properties.message_id,
            type=properties.message_type,
            sender=properties.user_id,
            exchange=delivery.exchange,
            routing_key=delivery.routing_key or "",
            deliveries=deliveries if isinstance(deliveries, int) else 0,
        )
        assert delivery.delivery_tag is not None
        return Delivery(raw, self._channel(message.channel), delivery.delivery_tag, datetime.now(UTC))

    async def start(self) -> None:
        """Subscribes to every queue. Raises the library's error when the broker cannot be reached or a queue is missing."""
        await self._broker.start()
        self._probe = await aio_pika.connect_robust(
            self._url,
            reconnect_interval=self._settings.reconnect_seconds,
            client_properties={"connection_name": f"{self._service} watchdog"},
        )
        for queue in self.up:
            self._mark(queue, True)

    async def cancel(self) -> None:
        """Cancels the consumers at the broker first: nothing new comes, and what was delivered can be finished."""
        for subscriber in self._subscribers.values():
            try:
                with library_failures():
                    async with asyncio.timeout(self._settings.probe_seconds_max):
                        await self._cancel(subscriber)
            except BrokerUnreachable as error:
                log.info("consumer_cancel_failed", queue=subscriber.queue.name, error=str(error)[:200])
                subscriber._consumer_tag = None

    async def _cancel(self, subscriber: Any) -> None:
        queue, tag = subscriber._queue_obj, subscriber._consumer_tag
        if queue is not None and tag is not None and not queue.channel.is_closed:
            await queue.cancel(tag)
        subscriber._consumer_tag = None

    async def close(self) -> None:
        """Closes the connections; what was delivered and not acknowledged returns to its queue."""
        for task in self._abandoning:
            task.cancel()
        for close in (self._broker.stop, *((self._probe.close,) if self._probe else ())):
            try:
                with library_failures():
                    async with asyncio.timeout(self._settings.probe_seconds_max):
                        await close()
            except BrokerUnreachable as error:
                log.info("broker_close_failed", error=str(error)[:200])

    async def depth(self, queue: str) -> tuple[int, int]:
        """(ready messages, consumers) as the broker counts them. Raises ConnectionError when it cannot be asked.

        On a channel of its own each time: aio-pika answers a passive declare of a queue it knows from memory.
        """
        if self._probe is None:
            raise ConnectionError("not started")
        try:
            with library_failures():
                async with asyncio.timeout(self._settings.probe_seconds_max):
                    channel = await self._probe.channel()
                    try:
                        declared = (await channel.declare_queue(queue, passive=True)).declaration_result
                    finally:
                        await channel.close()
        except BrokerUnreachable as error:
            raise ConnectionError(f"the broker cannot be asked about {queue}: {error}") from error
        return declared.message_count or 0, declared.consumer_count or 0

    async def watch(self, queue: str) -> None:
        """One look of the watchdog: a queue without a consumer twice in a row is subscribed again."""
        try:
            _, consumers = await self.depth(queue)
        except ConnectionError as error:
            log.warning("broker_unreachable", queue=queue, error=str(error)[:200])
            self._mark(queue, False)
            return
        self._mark(queue, consumers > 0)
        self._missing[queue] = 0 if consumers else self._missing.get(queue, 0) + 1
        if self._missing[queue] >= 2:
            self._missing[queue] = 0
            log.error("consumer_missing", queue=queue, action="subscribing again")
            CONSUMER_RESTARTS.labels(self._service, queue).inc()
            await self._resubscribe(queue)

    async def _resubscribe(self, queue: str) -> None:
        subscriber = self._subscribers[queue]
        try:
            with library_failures():
                async with asyncio.timeout(self._settings.probe_seconds_max * 2):
                    await subscriber.stop()
                    await subscriber.start()
        except BrokerUnreachable as error:
            log.error("subscribe_failed", queue=queue, error=str(error)[:300])

    def _mark(self, queue: str, up: bool) -> None:
        self.up[queue] = up
        CONSUMER_UP.labels(self._service, queue).set(up)


def _with_heartbeat(url: str, seconds: int) -> str:
    return f"{url}{'&' if '?' in url else '?'}heartbeat={seconds}"

"""Programs that know the broker's address, the envelope, and nothing else of ours: plain aio-pika and the CloudEvents SDK."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

EXCHANGE = "events"
HEARD_MAX = 100_000

Mode = Literal["structured", "binary"]


@dataclass(frozen=True, slots=True)
class System:
    """A system at the broker, as its own user."""

    user: str
    channel: AbstractChannel

    async def say(
        self, type: str, data: dict[str, Any], *, mode: Mode = "structured", id: str | None = None, source: str | None = None
    ) -> str:
        """Publishes a fact, persistent and mandatory; returns its id when the broker has confirmed it."""
        event_id = id or str(uuid4())
        event = CloudEvent(
            {
                "id": event_id,
                "source": source or f"/{self.user}",
                "type": type,
                "specversion": "1.0",
                "time": datetime.now(UTC),
                "datacontenttype": "application/json",
            },
            data,
        )
        message = (to_structured if mode == "structured" else to_binary)(event, JSONFormat())
        await self.send(type, message, message_id=event_id)
        return event_id

    async def send(self, routing_key: str, message: RabbitMQMessage, *, message_id: str | None = None, **properties: Any) -> None:
        """Publishes these bytes. Raises what aio-pika raises when the broker does not take them."""
        exchange = await self.channel.get_exchange(EXCHANGE, ensure=False)
        await exchange.publish(
            aio_pika.Message(
                message.body,
                headers=dict(message.headers),
                content_type=message.content_type,
                message_id=message_id,
                user_id=properties.pop("user_id", self.user),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                **properties,
            ),
            routing_key,
            mandatory=True,
        )


@asynccontextmanager
async def system(broker_url: str) -> AsyncIterator[System]:
    """A connected system for the length of the block."""
    async with await aio_pika.connect(broker_url) as connection:
        yield System(urlsplit(broker_url).username or "", await connection.channel(on_return_raises=True))


@dataclass(slots=True)
class Ear:
    """Every event since it began to listen, in order of arrival, as (wire name, envelope)."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: AbstractIncomingMessage) -> None:
        assert len(self.events) < HEARD_MAX, "this test hears more than it should"
        # Poison is published here as well, and is nothing that an ear could understand.
        with suppress(ValueError, RecursionError):
            envelope = json.loads(message.body)
            self.events.append((message.routing_key or "", envelope if isinstance(envelope, dict) else {}))
        self._changed.set()

    def of(self, subject: str, type: str | None = None) -> list[dict[str, Any]]:
        """The envelopes about one business object, of one type or of all."""
        return [envelope for name, envelope in self.events if envelope.get("subject") == subject and type in (None, name)]

    async def hears(self, holds: Callable[["Ear"], Any], *, within: float, what: str) -> Any:
        """Waits until it holds, and returns what it found. Raises AssertionError after `within` seconds."""
        try:
            async with asyncio.timeout(within):
                while not (found := holds(self)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not heard within {within:g} s: {what}; {len(self.events)} other events") from None
        return found

    async def event(self, type: str, subject: str, *, within: float) -> dict[str, Any]:
        """The data of the first such event."""
        heard = await self.hears(lambda ear: ear.of(subject, type), within=within, what=f"{type} about {subject}")
        return dict(heard[0]["data"])


@asynccontextmanager
async def listening(broker_url: str) -> AsyncIterator[Ear]:
    """Hears every event as this system, over a queue of its own that ends with the block."""
    user = urlsplit(broker_url).username
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"{user}.ear-{uuid4().hex}", exclusive=True, auto_delete=True)
        await queue.bind(EXCHANGE, "#")
        ear = Ear()
        await queue.consume(ear.take, no_ack=True)
        yield ear

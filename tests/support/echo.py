"""Repeats what the services say, one to three times and out of order, under the same message ids: duplicates and reordering."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import aio_pika
import httpx2
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from yarl import URL

from infra.broker.names import COMMANDS, EVENTS
from tests.support.platform import Platform

WINDOW: Final = 20
COPIES_MAX: Final = 3
FLUSH_SECONDS: Final = 0.5


@dataclass(slots=True)
class Echo:
    """Collects a window of messages, then publishes copies of it in another order. Does not repeat its own copies."""

    chance: random.Random
    channel: AbstractChannel
    seen: set[str] = field(default_factory=set)
    repeated: int = 0
    _window: list[AbstractIncomingMessage] = field(default_factory=list)

    async def hear(self, message: AbstractIncomingMessage) -> None:
        identity = message.message_id or ""
        if not identity or identity in self.seen:
            return
        self.seen.add(identity)
        self._window += [message] * self.chance.randint(1, COPIES_MAX)
        if len(self._window) >= WINDOW * COPIES_MAX:
            await self.flush()

    async def flush(self) -> None:
        window, self._window = self._window, []
        self.chance.shuffle(window)
        for message in window:
            exchange = await self.channel.get_exchange(message.exchange or "", ensure=False)
            # The copy is the message, down to its sender: the administrator may sign for others.
            copy = aio_pika.Message(
                message.body,
                headers=message.headers,
                content_type=message.content_type,
                message_id=message.message_id,
                correlation_id=message.correlation_id,
                type=message.type,
                app_id=message.app_id,
                user_id=message.user_id,
                timestamp=message.timestamp,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(copy, message.routing_key or "", mandatory=False)
            self.repeated += 1

    async def flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()


@asynccontextmanager
async def echoing(platform: Platform, chance: random.Random) -> AsyncIterator[Echo]:
    """Repeats everything on both exchanges for the length of the block."""
    await _may_sign_for_others(platform)
    async with await aio_pika.connect(platform.addresses["broker"]) as connection:
        listening, speaking = await connection.channel(), await connection.channel()
        queue = await listening.declare_queue(f"echo-{uuid4().hex}", exclusive=True, auto_delete=True)
        for exchange in (COMMANDS, EVENTS):
            await queue.bind(exchange, "#")
        echo = Echo(chance, speaking)
        flushing = asyncio.create_task(echo.flush_regularly())
        try:
            await queue.consume(echo.hear, no_ack=True)
            yield echo
            flushing.cancel()
            await echo.flush()
        finally:
            flushing.cancel()


async def _may_sign_for_others(platform: Platform) -> None:
    """RabbitMQ lets only an impersonator publish with another user's id."""
    management = URL(platform.addresses["management"])
    user, password = management.user or "", management.password or ""
    async with httpx2.AsyncClient(auth=(user, password), trust_env=False, timeout=10) as client:
        address = f"{management.with_user(None)}".rstrip("/") + f"/api/users/{user}"
        answer = await client.put(address, json={"password": password, "tags": "administrator,impersonator"})
        answer.raise_for_status()

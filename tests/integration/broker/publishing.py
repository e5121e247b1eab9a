"""A publisher and a queue on a real broker, and what became of the messages: for the tests beside this module."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiormq
from pamqp import commands
from pamqp.common import FieldValue
from uuid_utils.compat import uuid7

from infra.broker.connection import ConnectionSettings
from infra.broker.publisher import Outcome, Outgoing, Publisher, PublisherSettings, Receipt
from tests.support.proxy import TcpProxy, proxy_before
from tests.support.servers import TestBroker
from tests.support.waiting import wait_until

QUEUE = "credit.commands"
QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# Time-outs in tests that wait for one, and in tests in which waiting for one would be the fault.
SHORT = PublisherSettings(timeout_seconds=1.0, channel_open_seconds=0.5, connection=ConnectionSettings(reconnect_seconds=0.1))
ENDLESS = PublisherSettings(timeout_seconds=600.0, connection=ConnectionSettings(reconnect_seconds=0.1))
FAULT_SECONDS = 30.0
CHANNELS = 'length([1 || [{{vhost, <<"{vhost}">>}}] <- rabbit_channel:info_all([vhost])])'


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

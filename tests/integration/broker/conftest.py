"""A virtual host with the one quorum queue, and a publisher on it."""

from collections.abc import AsyncIterator

import aiormq
import pytest

from infra.broker.publisher import Publisher
from tests.integration.broker.publishing import (
    QUEUE,
    QUORUM,
    connected,
)
from tests.support.servers import TestBroker


@pytest.fixture
async def channel(broker: TestBroker) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """A channel of the test's own, in a virtual host with the one quorum queue."""
    async with aiormq.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
        yield channel


@pytest.fixture
async def publisher(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> AsyncIterator[Publisher]:
    async with connected(broker.url) as publisher:
        yield publisher

"""Publishes facts as a system would: its own broker user, CloudEvents in structured mode, persistent, mandatory."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from contracts.envelope import STRUCTURED, Envelope
from contracts.message import Event
from infra.broker.names import EVENTS
from infra.broker.publisher import Outcome, Outgoing, Publisher

BATCH: Final = 200


class NotPublished(RuntimeError):
    """The broker did not take some of the facts; the text has the first one's reason."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An event with the id under which it is published; the same id again has no second effect."""

    id: str
    event: Event


class System:
    """One system's connection."""

    def __init__(self, broker_url: str, publisher: Publisher) -> None:
        self._user = urlsplit(broker_url).username or ""
        self._publisher = publisher

    async def publish(self, facts: Iterable[Fact]) -> None:
        """Publishes in order, in batches. Raises NotPublished; what was published before stays published."""
        outgoing = [self._outgoing(fact) for fact in facts]
        for start in range(0, len(outgoing), BATCH):
            await self._send(outgoing[start : start + BATCH])

    async def _send(self, batch: Sequence[Outgoing]) -> None:
        receipts = await self._publisher.publish(batch)
        for message, receipt in zip(batch, receipts, strict=True):
            if receipt.outcome is not Outcome.CONFIRMED:
                raise NotPublished(f"{message.type} {message.message_id}: {receipt.outcome.value}: {receipt.reason}")

    def _outgoing(self, fact: Fact) -> Outgoing:
        now = datetime.now(UTC)
        event = fact.event
        envelope = Envelope(
            id=fact.id,
            source=f"/{self._user}",
            type=event.wire_name,
            time=now,
            subject=event.subject,
            actor=f"system:{self._user}",
            data=event.model_dump(mode="json"),
        )
        return Outgoing(
            exchange=EVENTS,
            routing_key=event.wire_name,
            message_id=fact.id,
            body=envelope.to_bytes(),
            content_type=STRUCTURED,
            type=event.wire_name,
            correlation_id=fact.id,
            app_id=self._user,
            user_id=self._user,
            timestamp=now,
            headers={},
        )


@asynccontextmanager
async def connected(broker_url: str) -> AsyncGenerator[System]:
    """The system's connection for the length of the block."""
    publisher = Publisher(broker_url, name=f"{urlsplit(broker_url).username} system")
    await publisher.connect()
    try:
        yield System(broker_url, publisher)
    finally:
        await publisher.close()

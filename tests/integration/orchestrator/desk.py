"""One replica of the orchestrator on a real database, the messages that it hears, and a player of the services."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import STRUCTURED, Envelope
from infra.chassis.batch import BatchResult, BatchTransaction
from infra.chassis.decoding import Raw
from infra.chassis.hot_connection import hot_transaction
from infra.chassis.inputs import Inputs, SourceRow
from infra.chassis.outbox import OutboxRow, new_id
from infra.chassis.runtime import Service
from infra.chassis.service import Consumer
from infra.chassis.workplace import Workplace
from orchestrator.instance import Instance
from orchestrator.settings import Settings
from tests.scenarios.saga_suite.samples import ORDER_ID, SAMPLES

SAGA = "018f0000-0000-7000-8000-000000000001"
DO = {
    "pricing.price-order.v1": ("pricing.order-priced.v1", "pricing.order-not-priced.v1"),
    "credit.reserve-credit.v1": ("credit.credit-reserved.v1", "credit.credit-declined.v1"),
    "inventory.reserve-stock.v1": ("inventory.stock-reserved.v1", "inventory.stock-short.v1"),
    "compliance.screen-parties.v1": ("compliance.parties-cleared.v1", "compliance.parties-blocked.v1"),
    "fulfillment.create-shipment.v1": ("fulfillment.shipment-created.v1", "fulfillment.shipment-refused.v1"),
    "credit.release-credit.v1": ("credit.credit-released.v1", ""),
    "inventory.release-stock.v1": ("inventory.stock-released.v1", ""),
    "fulfillment.cancel-shipment.v1": ("fulfillment.shipment-cancelled.v1", ""),
}


class Desk:
    """One replica of the orchestrator: hands it messages and rows, and keeps what it would publish."""

    def __init__(self, engine: AsyncEngine, service: Service, settings: Settings) -> None:
        self.engine = engine
        self.service = service
        self.consumer: Consumer = service.consumers[0]
        self.batch = BatchTransaction(Workplace("orchestrator", "test", self.consumer, settings, external=False))
        self.outgoing: list[OutboxRow] = []
        self.outcomes: list[tuple[str, str]] = []

    async def hear(self, *messages: Raw) -> list[OutboxRow]:
        arrivals = tuple(self.batch.admission.admit(message, datetime.now(UTC)) for message in messages)
        return self._keep(await self._handle(Inputs(arrivals=arrivals)))

    async def look_at_rows(self) -> list[OutboxRow]:
        rows: list[SourceRow] = []
        for source in self.consumer.sources:
            async with self.engine.begin() as connection:
                rows += [SourceRow(source, row) for row in await source.claim(connection, 100)]
        return self._keep(await self._handle(Inputs(rows=tuple(rows))))

    async def _handle(self, inputs: Inputs) -> BatchResult:
        async with hot_transaction(self.engine) as connection:
            return await self.batch.handle(connection, inputs)

    def _keep(self, result: BatchResult) -> list[OutboxRow]:
        self.outgoing += result.rows
        self.outcomes += result.outcomes
        return list(result.rows)

    async def make_due(self) -> None:
        """Time passes: in this database all timers of the process are due."""
        async with self.engine.begin() as connection:
            document = (await connection.execute(text("SELECT CAST(document AS text) FROM workflow_instance"))).scalar_one()
            moved = json.loads(document)
            for record in (*moved["steps"].values(), *moved.get("plan", ())):
                if "due_at" in record:
                    record["due_at"] = "2020-01-01T00:00:00+00:00"
            await connection.execute(
                text("UPDATE workflow_instance SET next_timer_at = now(), document = CAST(:document AS json)"),
                {"document": json.dumps(moved)},
            )

    async def instance(self) -> Instance:
        async with self.engine.begin() as connection:
            loaded: Mapping[str, Instance] = await self.consumer.repository.load(connection, [SAGA])
            return loaded[SAGA]

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.engine.begin() as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]


def message(wire_name: str, *, operation_id: str | None = None, **data: Any) -> Raw:
    envelope = Envelope(
        id=new_id(),
        source="/test",
        type=wire_name,
        time=datetime.now(UTC),
        data={**SAMPLES.get(wire_name, {}), **data},
        subject=ORDER_ID,
        correlationid=SAGA,
        operationid=operation_id,
        partnerid="acme",
        actor="partner:acme",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    owner = wire_name.split(".")[0]
    return Raw(
        body=envelope.to_bytes(), content_type=STRUCTURED, content_encoding=None, headers={}, message_id=envelope.id,
        type=wire_name, sender="ingress" if owner == "orders" else owner, exchange="events", routing_key=wire_name,
    )  # fmt: skip


def answer_to(row: OutboxRow, *, refuse: bool = False) -> Raw:
    assert row.operation_id is not None
    return message(DO[row.type][1 if refuse else 0], operation_id=row.operation_id)


async def play(desk: Desk, first: list[OutboxRow], *, refuse: str = "", deaf: str = "") -> None:
    """The services answer whatever is asked, until nothing more is asked."""
    asked = list(first)
    while asked:
        heard = [answer_to(row, refuse=row.type == refuse) for row in asked if row.type in DO and row.type != deaf]
        asked = await desk.hear(*heard) if heard else []


async def ask(desk: Desk, act_id: str, kind: str = "cancel") -> None:
    async with desk.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO operator_act (act_id, saga_id, kind, reason, actor) "
                "VALUES (:act, :saga, :kind, 'why not', 'operator:mia')"
            ),
            {"act": act_id, "saga": SAGA, "kind": kind},
        )


def dead_letter(news: dict[str, str], operation_id: str | None) -> Raw:
    made = message("deadletters.dead-letter-opened.v1", **news)
    envelope = json.loads(made.body)
    envelope["data"] |= {"operation_id": operation_id, "type": "pricing.price-order.v1"}
    return Raw(
        body=json.dumps(envelope).encode(), content_type=STRUCTURED, content_encoding=None, headers={},
        message_id=made.message_id, type=made.type, sender="deadletters", exchange="events", routing_key=made.routing_key,
    )  # fmt: skip

"""What the broker would deliver to the small service of ledger_service.py."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from contracts.credit.v1 import ReleaseCredit, ReserveCredit
from contracts.credit.v2 import LimitChanged
from contracts.deadletters.replay import REPLAY_HEADER, FirstSending, Replay
from contracts.envelope import STRUCTURED, Envelope
from contracts.fulfillment.v1 import (
    CancelShipment,
    CreateShipment,
)
from contracts.values import Money
from infra.broker.names import REPLAY
from infra.chassis.decoding import Raw
from infra.chassis.outbox import new_id
from tests.support.ledger_service import ORDER, QUEUE


def reserve(operation: str, *, buyer: str = "ok", minor: int = 100, order: str = ORDER, **envelope: Any) -> Raw:
    data = ReserveCredit(order_id=order, buyer_id=buyer, amount=Money(amount_minor=minor, currency="EUR"))
    return command(data, operation, **envelope)


def release(operation: str, *, buyer: str = "ok", order: str = ORDER, **envelope: Any) -> Raw:
    data = ReleaseCredit(order_id=order, buyer_id=buyer, amount=Money(amount_minor=0, currency="EUR"))
    return command(data, operation, **envelope)


def create_shipment(operation: str, *, priority: str = "ok", order: str = ORDER, **envelope: Any) -> Raw:
    address = {"name": "A", "lines": ["1"], "city": "B", "postal_code": "1", "country": "DE"}
    allocation = {"line": "1", "sku": "S", "warehouse": "W", "country": "DE", "quantity": "1"}
    data = CreateShipment.model_validate(
        {"order_id": order, "allocations": [allocation], "ship_to": address, "priority": priority}
    )
    return command(data, operation, **envelope)


def cancel_shipment(operation: str, *, order: str = ORDER, **envelope: Any) -> Raw:
    return command(CancelShipment(order_id=order), operation, **envelope)


def limit_changed(buyer: str, *, minor: int = 100, sequence: int = 1, **envelope: Any) -> Raw:
    limit = Money(amount_minor=minor, currency="EUR")
    data = LimitChanged(buyer_id=buyer, limit=limit, sequence=sequence, reason="review")
    given = {"sender": "erp", "source": "/erp", "exchange": "events", **envelope}
    return deliverable(data.wire_name, data, **given)


def command(data: BaseModel, operation: str, **envelope: Any) -> Raw:
    wire_name = str(getattr(data, "wire_name"))  # noqa: B009 - a class variable that pydantic's base does not declare
    given = {"sender": "orchestrator", "source": "/orchestrator", "exchange": "commands", **envelope}
    return deliverable(wire_name, data, operationid=operation, correlationid=operation.split(":")[0], **given)


def deliverable(
    wire_name: str,
    data: BaseModel | Mapping[str, Any],
    *,
    sender: str | None,
    exchange: str,
    headers: Mapping[str, Any] | None = None,
    deliveries: int = 0,
    **envelope: Any,
) -> Raw:
    """What the broker would deliver."""
    payload = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    sealed = Envelope(id=envelope.pop("id", None) or new_id(), type=wire_name, time=datetime.now(UTC), data=payload, **envelope)
    return Raw(
        body=sealed.to_bytes(),
        content_type=STRUCTURED,
        content_encoding=None,
        headers=headers or {},
        message_id=sealed.id,
        type=wire_name,
        sender=sender,
        exchange=exchange,
        routing_key=wire_name,
        deliveries=deliveries,
    )


def replayed(raw: Raw, letter: str = "dl_1", count: int = 1) -> Raw:
    """The same message as the failure desk sends it again; a replay of a replay is one of the first message."""
    marker = {REPLAY_HEADER: Replay(letter, count).marker()}
    if raw.exchange == REPLAY:
        return replace(raw, headers={**raw.headers, **marker})
    first = FirstSending(raw.sender, raw.exchange, raw.routing_key).write()
    return replace(raw, exchange=REPLAY, sender="deadletters", routing_key=QUEUE, headers={**marker, **first})


def unreadable(raw: Raw) -> Raw:
    """The same message, with a payload that an edit has spoilt."""
    return replace(raw, body=raw.body.replace(b'"order_id":', b'"order":').replace(b'"buyer_id":', b'"buyer":'))

"""What was decided and is not yet confirmed: rows written in the transaction of their effect, never published before its commit.

    decide ──> INSERT outbox + emission ──COMMIT──> relay (from memory) ──confirm──> DELETE outbox
                                              └──crash──> sweeper (row locks, rows older than a few seconds) ──┘

The row's message id is fixed when it is inserted, so that publishing it twice is the same message twice, and the receiver's inbox
makes the second copy harmless. `emission` keeps id, type, operation and saga for 30 days (`inbox_retention_days`), so a vanished
outbox row leaves a trace.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils import uuid7

from contracts.envelope import BODY_BYTES_MAX, JSON, STRUCTURED, Envelope
from contracts.message import Message
from infra.broker.names import EXCHANGE_OF
from infra.chassis.errors import Permanent
from infra.chassis.hot_connection import write
from infra.chassis.service import Outbound
from infra.chassis.trace import continued, started

LOG = write(
    """
    INSERT INTO emission (message_id, type, operation_id, correlation_id)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:operations AS text[]), CAST(:correlations AS text[]))
    """
)
INSERT = write(
    """
    INSERT INTO outbox (message_id, exchange, routing_key, type, correlation_id, content_type, headers, body)
    SELECT m.* FROM unnest(
        CAST(:ids AS text[]), CAST(:exchanges AS text[]), CAST(:keys AS text[]), CAST(:types AS text[]),
        CAST(:correlations AS text[]), CAST(:content_types AS text[]), CAST(:headers AS text[]), CAST(:bodies AS bytea[])
    ) AS m
    """
)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One message on its way out."""

    message_id: str
    exchange: str
    routing_key: str
    type: str
    correlation_id: str
    body: bytes = field(repr=False)
    content_type: str = STRUCTURED
    headers: Mapping[str, Any] = field(default_factory=dict)
    operation_id: str | None = None


def new_id() -> str:
    """A UUIDv7: sortable by time, so that indexes grow at their end."""
    return str(uuid7())


@dataclass(frozen=True, slots=True)
class Timing:
    """When the message that is answered was received and taken up, and the milliseconds spent in systems outside."""

    received_at: datetime
    started_at: datetime
    dependency_ms: int = 0


def encode(
    service: str, out: Outbound | Message, cause: Envelope | None, *, now: datetime, timing: Timing | None = None
) -> OutboxRow:
    """The outbox row of a message, its envelope inherited from the message that caused it. Raises Permanent when too large."""
    if isinstance(out, Message):
        out = Outbound(out)
    return encode_payload(service, out, out.message.wire_name, out.message, cause, now=now, timing=timing)


def encode_payload(
    service: str,
    out: Outbound,
    wire_name: str,
    payload: Message | Mapping[str, Any],
    cause: Envelope | None,
    *,
    now: datetime,
    timing: Timing | None = None,
) -> OutboxRow:
    """As `encode`, for a payload of a stored version; `out.message` gives the kind and the subject only."""
    message_id = out.message_id or new_id()
    correlation_id = out.correlation_id or (cause.correlationid if cause else None) or message_id
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": message_id,
        "source": f"/{service}",
        "type": wire_name,
        "time": now,
        "subject": out.subject or out.message.subject,
        "datacontenttype": JSON,
        "dataschema": f"urn:tutti:schema:{wire_name}",
        "correlationid": correlation_id,
    }
    optional = {
        "causationid": out.causation_id or (cause.id if cause else None),
        "operationid": out.operation_id,
        "revision": out.revision or None,
        "actor": out.actor or (cause.actor if cause else None),
        "partnerid": out.partner_id or (cause.partnerid if cause else None),
        "dueby": out.due_by,
        "traceparent": continued(cause.traceparent) if cause else started(),
        "tracestate": cause.tracestate if cause else None,
    }
    if timing is not None:
        optional |= {
            "receivedat": timing.received_at,
            "startedat": timing.started_at,
            "finishedat": now,
            "dependencyms": timing.dependency_ms or None,
        }
    document.update((name, value) for name, value in optional.items() if value is not None)
    document["data"] = payload
    body = to_json(document, exclude_none=False)
    if len(body) > BODY_BYTES_MAX:
        raise Permanent(
            f"{wire_name} would have {len(body)} bytes, {BODY_BYTES_MAX} are allowed; the sender's decision is too large"
        )
    return OutboxRow(
        message_id=message_id,
        exchange=EXCHANGE_OF[out.message.kind],
        routing_key=wire_name,
        type=wire_name,
        correlation_id=correlation_id,
        body=body,
        operation_id=out.operation_id,
    )


async def insert(connection: AsyncConnection, rows: Sequence[OutboxRow]) -> None:
    """Writes outbox and emission log, in the order given."""
    identity = {
        "ids": [row.message_id for row in rows],
        "types": [row.type for row in rows],
        "correlations": [row.correlation_id for row in rows],
    }
    await connection.execute(LOG, {**identity, "operations": [row.operation_id for row in rows]})
    await connection.execute(
        INSERT,
        {
            **identity,
            "exchanges": [row.exchange for row in rows],
            "keys": [row.routing_key for row in rows],
            "content_types": [row.content_type for row in rows],
            "headers": [json.dumps(row.headers) if row.headers else "{}" for row in rows],
            "bodies": [row.body for row in rows],
        },
    )

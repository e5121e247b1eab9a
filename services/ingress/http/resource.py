"""The order as partners read it, and the headers that go with it."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from services.ingress.domain import Order


def order_resource(order: Order) -> dict[str, Any]:
    """The document of docs/public-face.md, section 2."""
    link = f"/v1/orders/{order.order_id}"
    return {
        "order_id": order.order_id,
        "order_number": order.name.order_number,
        "revision": order.name.revision,
        "status": order.status,
        "stage": order.stage,
        "message": order.message,
        "expected_by": None if order.finished else _moment(order.expected_by),
        "accepted_at": _moment(order.accepted_at),
        "finished_at": _moment(order.finished_at),
        "total": order.total and {"amount_minor": order.total.amount_minor, "currency": order.total.currency},
        "reasons": [{"code": reason.code, "detail": reason.detail} for reason in order.reasons],
        "steps": [
            {
                "id": step.id,
                "state": step.state,
                "attempts": step.attempts,
                "started_at": _moment(step.started_at),
                "finished_at": _moment(step.finished_at),
            }
            for step in order.steps
        ],
        "shipments": [{"carrier": parcel.carrier, "tracking": parcel.tracking} for parcel in order.shipments],
        "links": {"self": link, "events": f"{link}/events", "cancel": f"{link}/cancel"},
    }


def rendered(order: Order) -> bytes:
    return to_json(order_resource(order))


def etag(body: bytes) -> str:
    """A strong validator: equal for equal bytes only."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def accepted_headers(order_id: str, retry_after_seconds: int) -> Mapping[str, str]:
    return {"Location": f"/v1/orders/{order_id}", "Retry-After": str(retry_after_seconds)}


def _moment(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, with Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

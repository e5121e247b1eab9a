"""The description of the partner's HTTP surface, OpenAPI 3.1, with examples. The tests hold answers against it."""

from typing import Any, Final

from contracts.orders.v1 import OrderBody
from services.ingress.domain import STATUSES
from services.ingress.http.cancelling import CancelInput
from services.ingress.http.problems import MEDIA_TYPE, TYPES
from services.ingress.intake import OrderInput

PATH: Final = "/v1/openapi.json"
_REFS: Final = "#/components/schemas/{model}"

ORDER_EXAMPLE: Final[dict[str, Any]] = {
    "order_number": "PO-1001",
    "revision": 0,
    "buyer": {"id": "C-17", "name": "Acme GmbH"},
    "ship_to": {
        "name": "Acme Lager 2",
        "lines": ["Hafenstr. 1"],
        "city": "Hamburg",
        "postal_code": "20457",
        "country": "DE",
    },
    "currency": "EUR",
    "requested_delivery": "2026-12-01",
    "priority": "normal",
    "lines": [{"line": "1", "sku": "P-100", "quantity": "3", "unit": "C62"}],
}
_ORDER_ID: Final = "ord_0197a1b2c3d47e5f8a9b0c1d2e3f4a5b"
_RESOURCE_EXAMPLE: Final[dict[str, Any]] = {
    "order_id": _ORDER_ID,
    "order_number": "PO-1001",
    "revision": 0,
    "status": "completed",
    "stage": "completed",
    "message": "Completed; 1 shipment(s) handed to the carriers.",
    "expected_by": None,
    "accepted_at": "2026-11-21T10:04:00.000Z",
    "finished_at": "2026-11-21T10:04:01.000Z",
    "total": {"amount_minor": 12345, "currency": "EUR"},
    "reasons": [],
    "steps": [
        {
            "id": "reserve-credit",
            "state": "done",
            "attempts": 1,
            "started_at": "2026-11-21T10:04:00.100Z",
            "finished_at": "2026-11-21T10:04:00.200Z",
        }
    ],
    "shipments": [{"carrier": "own-fleet", "tracking": "OF-1"}],
    "links": {
        "self": f"/v1/orders/{_ORDER_ID}",
        "events": f"/v1/orders/{_ORDER_ID}/events",
        "cancel": f"/v1/orders/{_ORDER_ID}/cancel",
    },
}
_MOMENT: Final = {"type": ["string", "null"], "format": "date-time"}


def document() -> dict[str, Any]:
    """The whole description, as JSON."""
    schemas = _schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Orders",
            "version": "1",
            "description": "Post orders and follow them. Errors are RFC 9457 documents; each type leads to its text.",
        },
        "servers": [{"url": "/"}],
        "security": [{"apiKey": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: `tk_…`."}},
            "schemas": schemas,
            "headers": _headers(),
        },
    }


def _schemas() -> dict[str, Any]:
    order = OrderInput.model_json_schema(ref_template=_REFS)
    schemas: dict[str, Any] = order.pop("$defs", {})
    schemas["OrderInput"] = order | {"description": OrderBody.__doc__ or "", "examples": [ORDER_EXAMPLE]}
    schemas["CancelInput"] = CancelInput.model_json_schema(ref_template=_REFS)
    schemas["Order"] = _object(
        {
            "order_id": {"type": "string"},
            "order_number": {"type": "string"},
            "revision": {"type": "integer"},
            "status": {"enum": sorted(STATUSES)},
            "stage": {"type": "string"},
            "message": {"type": "string", "description": "Where the order stands, for people."},
            "expected_by": _MOMENT,
            "accepted_at": {"type": "string", "format": "date-time"},
            "finished_at": _MOMENT,
            "total": {
                "anyOf": [
                    _object({"amount_minor": {"type": "integer"}, "currency": {"type": "string"}}),
                    {"type": "null"},
                ]
            },
            "reasons": _array(_object({"code": {"type": "string"}, "detail": {"type": "string"}})),
            "steps": _array(
                _object(
                    {
                        "id": {"type": "string"},
                        "state": {"type": "string"},
                        "attempts": {"type": "integer"},
                        "started_at": _MOMENT,
                        "finished_at": _MOMENT,
                    }
                )
            ),
            "shipments": _array(_object({"carrier": {"type": "string"}, "tracking": {"type": "string"}})),
            "links": _object({name: {"type": "string"} for name in ("self", "events", "cancel")}),
        }
    ) | {"examples": [_RESOURCE_EXAMPLE]}
    schemas["Orders"] = _object({"orders": _array({"$ref": "#/components/schemas/Order"}), "next": {"type": ["string", "null"]}})
    schemas["Problem"] = _problem()
    return schemas


def _problem() -> dict[str, Any]:
    required = {
        "type": {"enum": [kind.path for kind in TYPES.values()]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "correlation_id": {"type": "string"},
        "retryable": {"type": "boolean"},
    }
    schema = _object(required)
    schema["properties"] |= {
        "order_id": {"type": "string", "description": "duplicate-order: the order that exists."},
        "errors": _array(_object({"pointer": {"type": "string"}, "detail": {"type": "string"}})),
    }
    return schema


def _headers() -> dict[str, Any]:
    texts = {
        "X-Correlation-Id": "The process of the order, or this request where there is no order. Name it to us.",
        "RateLimit-Policy": "The quota.",
        "RateLimit": "What is left of it.",
    }
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}


def _paths() -> dict[str, Any]:
    order_id = {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/orders": {
            "post": {
                "operationId": "createOrder",
                "summary": "Post an order",
                "parameters": [
                    _header("Idempotency-Key", required=True, text="1 to 255 printable ASCII characters; kept for 7 days."),
                    _header("Prefer", required=False, text="`wait=N`: up to N (at most 30) seconds for the order's end."),
                ],
                "requestBody": _body("OrderInput", required=True),
                "responses": {
                    "200": _answer("It has ended within the time you waited.", "Order"),
                    "202": _answer("It is accepted and will come to a definite end.", "Order"),
                    **_problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503),
                },
            },
            "get": {
                "operationId": "listOrders",
                "summary": "Your orders, newest first",
                "parameters": [
                    {"name": name, "in": "query", "required": False, "schema": schema}
                    for name, schema in (
                        ("order_number", {"type": "string", "maxLength": 64}),
                        ("status", {"enum": sorted(STATUSES)}),
                        ("after", {"type": "string", "description": "the `next` of the page before"}),
                        ("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
                    )
                ],
                "responses": {"200": _answer("A page.", "Orders"), **_problems(401, 403, 422, 429, 500, 503)},
            },
        },
        "/v1/orders/{order_id}": {
            "get": {
                "operationId": "getOrder",
                "summary": "One order",
                "parameters": [order_id, _header("If-None-Match", required=False, text="The ETag that you have.")],
                "responses": {
                    "200": _answer("The order.", "Order"),
                    "304": {"description": "It is as you know it."},
                    **_problems(401, 403, 404, 429, 500, 503),
                },
            }
        },
        "/v1/orders/{order_id}/cancel": {
            "post": {
                "operationId": "cancelOrder",
                "summary": "Ask for an order to be cancelled",
                "parameters": [order_id],
                "requestBody": _body("CancelInput", required=False),
                "responses": {
                    "202": _answer("It is being taken back.", "Order"),
                    **_problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
                },
            }
        },
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _header(name: str, *, required: bool, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "description": text, "schema": {"type": "string"}}


def _body(schema: str, *, required: bool) -> dict[str, Any]:
    return {
        "required": required,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _answer(text: str, schema: str) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _headers()}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "headers": headers, "content": content}


def _problems(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {
            "description": ", ".join(kind.code for kind in TYPES.values() if kind.status == status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }

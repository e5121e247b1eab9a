"""One message of each kind that a workflow may start with or be answered with, as it arrives: complete, in JSON's terms."""

from collections.abc import Mapping

from pydantic import JsonValue

from contracts.registry import REGISTRY

ORDER_ID = "ord_0123456789abcdefghij"
_ORDER = {"order_id": ORDER_ID}
_EURO = {"amount_minor": 12345, "currency": "EUR"}
_LINE = {"line": "1", "sku": "P-100", "quantity": "3", "unit": "C62"}
_ALLOCATION = {
    "line": "1",
    "sku": "P-100",
    "warehouse": "north",
    "country": "DE",
    "quantity": "3",
    "weight_grams": 900,
}
_SHIPMENT = {"warehouse": "north", "carrier": "own-fleet", "tracking": "OF-1"}
_HOLD = {**_ORDER, "buyer_id": "C-17", "amount": _EURO}
_MATCH = {"party": "Acme GmbH", "listed": "Acne GmbH", "uid": "77", "programs": ["SDGT"], "score": 88}
_ADDRESS = {
    "name": "Acme",
    "lines": ["Hafenstr. 1"],
    "city": "Hamburg",
    "postal_code": "20457",
    "country": "DE",
}


def _reasons(code: str) -> dict[str, list[dict[str, str]]]:
    return {"reasons": [{"code": code, "detail": f"the sample says {code}"}]}


_RAW: Mapping[str, Mapping[str, object]] = {
    "orders.order-accepted.v1": {
        **_ORDER,
        "order_number": "PO-1001",
        "revision": 0,
        "partner_id": "acme",
        "accepted_at": "2026-11-21T10:00:00Z",
        "buyer": {"id": "C-17", "name": "Acme GmbH"},
        "ship_to": _ADDRESS,
        "currency": "EUR",
        "lines": [_LINE],
    },
    "pricing.order-priced.v1": {**_ORDER, "total": _EURO, "lines": []},
    "pricing.order-not-priced.v1": {**_ORDER, **_reasons("no-price")},
    "credit.credit-reserved.v1": _HOLD,
    "credit.credit-declined.v1": {**_HOLD, "shortfall": _EURO},
    "credit.credit-released.v1": _HOLD,
    "inventory.stock-reserved.v1": {**_ORDER, "allocations": [_ALLOCATION]},
    "inventory.stock-short.v1": {**_ORDER, "missing": [], **_reasons("stock-short")},
    "inventory.stock-released.v1": {**_ORDER, "allocations": [_ALLOCATION]},
    "inventory.availability-reported.v1": {"query_id": "q-1", "stock": []},
    "compliance.parties-cleared.v1": {**_ORDER, "list_version": "sample-1"},
    "compliance.parties-blocked.v1": {**_ORDER, "list_version": "sample-1", **_reasons("denied-party")},
    "compliance.review-needed.v1": {
        **_ORDER,
        "list_version": "sample-1",
        **_reasons("review-needed"),
        "best_match": _MATCH,
        "matches": [_MATCH],
    },
    "fulfillment.shipment-created.v1": {**_ORDER, "shipments": [_SHIPMENT]},
    "fulfillment.shipment-refused.v1": {**_ORDER, **_reasons("no-carrier")},
    "fulfillment.shipment-cancelled.v1": {**_ORDER, "shipments": [_SHIPMENT]},
    "fulfillment.shipment-not-cancellable.v1": {**_ORDER, **_reasons("has-left")},
}

SAMPLES: Mapping[str, dict[str, JsonValue]] = {
    name: REGISTRY[name].model.model_validate(data).model_dump(mode="json") for name, data in _RAW.items()
}

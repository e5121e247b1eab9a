from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.envelope import Envelope
from contracts.orders.v1 import OrderAccepted, OrderCompleted, OrderRefused, OrderSubmitted
from infra.chassis.errors import Permanent
from infra.chassis.service import Context, Outbound
from services.ingress.domain import NaturalKey, Order, Submission, accepted
from services.ingress.handlers import accept_submission, complete_order, name_of, refuse_order
from services.ingress.http.openapi import ORDER_EXAMPLE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACCEPT = accept_submission(timedelta(seconds=60))
ALLOWED = Submission(frozenset({"erp"}), None)
ORDER = accepted("ord_" + "0" * 26, "saga", NaturalKey("acme", "PO-1001", "C-17", 0), NOW, timedelta(seconds=60))


def context(data: dict[str, Any], sender: str | None = "erp") -> Context:
    ids = iter(f"01890000-0000-7000-8000-{number:012d}" for number in range(10))
    envelope = Envelope(id="m1", source="/erp", type=OrderSubmitted.wire_name, time=NOW, data=data)
    return Context(now=NOW, envelope=envelope, new_id=lambda: next(ids), random=lambda: 0.5, sender=sender)


def submitted(**changes: Any) -> tuple[OrderSubmitted, dict[str, Any]]:
    data = {**ORDER_EXAMPLE, "partner_id": "acme", **changes}
    return OrderSubmitted.model_validate(data), data


def test_a_submission_becomes_an_order_and_its_event() -> None:
    message, data = submitted()

    decision = ACCEPT(message, ALLOWED, context(data))

    [order] = decision.facts
    [sent] = decision.events
    assert isinstance(order, Order)
    assert isinstance(sent, Outbound)
    assert isinstance(sent.message, OrderAccepted)
    assert sent.message.order_id == order.order_id == decision.state.order_id
    assert (sent.correlation_id, sent.partner_id, sent.actor) == (order.correlation_id, "acme", "system:erp")
    assert order.name == name_of(message)


def test_the_second_of_two_equal_submissions_is_ignored() -> None:
    message, data = submitted()
    first = ACCEPT(message, ALLOWED, context(data))

    second = ACCEPT(message, first.state, context(data))

    assert second.state is first.state
    assert (second.events, second.facts) == ((), ())


@pytest.mark.parametrize("sender", ["wms", "ingress", "ERP", ""])
def test_a_broker_user_that_the_account_does_not_name_is_refused(sender: str | None) -> None:
    message, data = submitted()

    with pytest.raises(Permanent, match="may not send"):
        ACCEPT(message, ALLOWED, context(data, sender))


@pytest.mark.parametrize("sender", [None, "deadletters"])
def test_a_sender_that_is_not_stated_is_one_whom_the_broker_lets_send(sender: str | None) -> None:
    message, data = submitted()

    [sent] = ACCEPT(message, ALLOWED, context(data, sender)).events
    assert isinstance(sent, Outbound)
    assert sent.actor == "system:erp"
    with pytest.raises(Permanent, match="erp may not send"):
        ACCEPT(message, Submission(frozenset({"wms"}), None), context(data, sender))


def test_a_submission_is_read_as_strictly_as_a_request() -> None:
    message, data = submitted(surprise=1)

    with pytest.raises(Permanent, match="surprise"):
        ACCEPT(message, ALLOWED, context(data))


def test_an_end_needs_its_order() -> None:
    event = OrderRefused(order_id="ord_" + "1" * 26, order_number="PO-1", partner_id="acme", buyer_id="C-1")

    with pytest.raises(Permanent, match="no order"):
        refuse_order(event, None, context({}))


def test_a_completed_order_keeps_what_the_partner_needs() -> None:
    shipment = {"warehouse": "W-1", "carrier": "own-fleet", "tracking": "OF-1"}
    event = OrderCompleted.model_validate(
        {
            "order_id": ORDER.order_id,
            "order_number": "PO-1001",
            "partner_id": "acme",
            "buyer_id": "C-17",
            "total": {"amount_minor": 5, "currency": "EUR"},
            "allocations": [],
            "shipments": [shipment],
        }
    )

    order = complete_order(event, ORDER, context({})).state

    assert order is not None
    assert (order.status, order.finished_at, order.total) == ("completed", NOW, event.total)
    assert [(parcel.carrier, parcel.tracking) for parcel in order.shipments] == [("own-fleet", "OF-1")]
    assert complete_order(event, order, context({})).state is order

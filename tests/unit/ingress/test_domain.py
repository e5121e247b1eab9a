from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from pydantic import TypeAdapter
from uuid_utils import uuid7

from contracts.values import Money, OrderId, Reason
from services.ingress.domain import FINISHED, STATUSES, End, NaturalKey, Order, Parcel, Progress, Step, accepted

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = accepted("ord_" + "0" * 26, "saga", NaturalKey("acme", "PO-1", "C-1", 0), NOW, timedelta(seconds=60))
STOCK_SHORT = Reason(code="stock-short", detail="Two of P-100 are missing.")
TOTAL = Money(amount_minor=100, currency="EUR")


def told(status: str | None, stage: str | None = None, *steps: Step) -> Progress:
    return Progress(status, stage, None, steps)


def test_a_new_order_runs_and_is_expected() -> None:
    assert (ORDER.status, ORDER.finished) == ("running", False)
    assert ORDER.message == "In progress (accepted); expected by 2026-03-01T12:01:00Z."


@pytest.mark.parametrize("end", get_args(End))
def test_an_end_is_final(end: End) -> None:
    ended = ORDER.ended(end, NOW, total=TOTAL, reasons=[STOCK_SHORT])

    assert ended.finished
    assert ended.ended("failed", NOW, total=None, reasons=[]) is ended
    assert ended.advanced(told("running", "checks")).status == end


def test_an_order_does_not_end_before_it_was_accepted() -> None:
    ended = ORDER.ended("completed", NOW - timedelta(seconds=5), total=TOTAL, reasons=[])

    assert ended.finished_at == NOW


@pytest.mark.parametrize("end", sorted(FINISHED))
def test_an_end_is_left_to_its_event(end: str) -> None:
    assert ORDER.advanced(told(end)).status == "running"


def test_an_order_that_unwinds_does_not_run_again() -> None:
    unwinding = ORDER.advanced(told("compensating"))

    assert unwinding.advanced(told("running")).status == "compensating"
    assert unwinding.advanced(told("stuck")).advanced(told("compensating")).status == "compensating"


def test_an_order_may_wait_and_run_again() -> None:
    assert ORDER.advanced(told("waiting")).advanced(told("running")).status == "running"


def test_a_status_nobody_knows_is_ignored() -> None:
    assert ORDER.advanced(told("dreaming")).status == "running"


def test_the_stage_is_the_first_step_that_is_not_over() -> None:
    steps = (Step("price", "done"), Step("screen", "skipped"), Step("reserve-credit", "sent"), Step("ship", "pending"))

    assert ORDER.advanced(told("running", None, *steps)).stage == "reserve-credit"
    assert ORDER.advanced(told("running", "checks", *steps)).stage == "checks"


def test_every_status_has_a_sentence() -> None:
    for status in STATUSES:
        order = Order("ord_x", ORDER.name, "saga", NOW, status=status, reasons=(STOCK_SHORT,))
        assert order.message.endswith(".")


def test_a_refusal_says_why() -> None:
    refused = ORDER.ended("refused", NOW, total=None, reasons=[STOCK_SHORT])

    assert refused.message == "Refused. Two of P-100 are missing. Everything done before has been taken back."


def test_a_completed_order_tells_its_parcels() -> None:
    completed = ORDER.ended("completed", NOW, total=TOTAL, reasons=[], shipments=[Parcel("own-fleet", "OF-1")])

    assert completed.message == "Completed; 1 shipment(s) handed to the carriers."
    assert completed.total == TOTAL


def test_order_ids_follow_the_contract() -> None:

    assert TypeAdapter(OrderId).validate_python(f"ord_{uuid7().hex}")

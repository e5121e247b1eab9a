"""What is stored of a process is what was there."""

import json
from datetime import UTC, datetime

import pytest

from orchestrator.instance import (
    Cancellation,
    Compensation,
    Instance,
    Reason,
    State,
    StepRecord,
    StepState,
    Stuck,
    UndoState,
)

NOW = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
FULL = Instance(
    id="s-1",
    state=State.STUCK,
    workflow="order-fulfillment",
    version=1,
    subject="ord_1",
    partner="acme",
    actor="partner:acme",
    traceparent="00-1-2-01",
    started_at=NOW,
    next_timer_at=NOW,
    ending=State.FAILED,
    reasons=(Reason("step-timed-out", "ship gave no answer"),),
    input={"lines": [{"sku": "P-1"}], "none": None},
    steps={
        "price": StepRecord(StepState.DONE, 1, "done", {"total": {"amount_minor": 5}}, "m1", NOW, None, NOW, processing_ms=7),
        "ship": StepRecord(StepState.UNDO_FAILED, 5, sent_at=NOW, late=True, backoff_ms=9000),
    },
    plan=(Compensation("ship", "fulfillment.cancel-shipment.v1", "shipping", ("x",), UndoState.FAILED, 3, problem="left"),),
    cancellation=Cancellation("why not", "operator:mia", NOW, too_late=True),
    stuck=Stuck("cannot be undone", "shipping", NOW, NOW, frozen=True),
)


def test_it_comes_back_as_it_was() -> None:
    assert Instance.from_bytes(FULL.to_bytes()) == FULL
    assert Instance.from_bytes(FULL.to_bytes().decode()) == FULL
    assert Instance.from_bytes(Instance("s-2").to_bytes()) == Instance("s-2")


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\x00\x00", "\ufffd\ufffd"),
        ("\\\x00", "\\\ufffd"),
        ("\\u0000", "\\u0000"),
        ("\\\\u0000\x00", "\\\\u0000\ufffd"),
    ],
    ids=["one", "two", "after-a-backslash", "its-name-only", "after-its-name"],
)
def test_a_character_that_the_database_cannot_read_is_replaced(said: str, stored: str) -> None:
    instance = Instance("s-3", input={"name": said}, reasons=(Reason("no", said),))

    body = instance.to_bytes()

    read = Instance.from_bytes(body)
    assert read.reasons == (Reason("no", stored),)
    assert read.input == {"name": stored}


def test_states_are_stored_by_name_and_defaults_not_at_all() -> None:
    document = json.loads(FULL.to_bytes())

    assert document["state"] == "stuck"
    assert document["steps"]["ship"]["state"] == "undo-failed"
    assert "finished_at" not in document
    assert json.loads(Instance("s-2").to_bytes()) == {"id": "s-2"}


def test_what_a_newer_version_wrote_beside_it_is_ignored() -> None:
    document = json.loads(FULL.to_bytes())
    document["sla"] = {"within": "PT10M"}
    document["steps"]["price"]["stage"] = "checks"

    assert Instance.from_bytes(json.dumps(document)) == FULL

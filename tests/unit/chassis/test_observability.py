"""Traces go on, and logs tell no secrets."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import structlog

from contracts.values import Address, Buyer
from infra.chassis import logs
from infra.chassis.trace import continued, started

CANARIES = ("hunter2", "tk_acme_c2VjcmV0", "Jane Doe")


def masked(**fields: Any) -> dict[str, Any]:
    return dict(logs.mask(None, "info", {"event": "happened", **fields}))


def test_a_message_that_follows_stays_in_its_trace_with_a_span_of_its_own() -> None:
    first = started()
    second = continued(first)

    assert second is not None
    assert second != first
    assert (second.split("-")[1], second.split("-")[3]) == (first.split("-")[1], "01")


@pytest.mark.parametrize("traceparent", [None, "", "00-x", "00-" + "A" * 32 + "-" + "b" * 16 + "-01", "00-" + "a" * 32 + "-01"])
def test_what_is_no_trace_is_not_continued(traceparent: str | None) -> None:
    assert continued(traceparent) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"}, {"operator_token": "hunter2"}, {"Authorization": "hunter2"}, {"body": "hunter2"}, {"name": "Jane Doe"},
        {"url": "amqp://credit:hunter2@localhost:5672/"}, {"error": "cannot reach postgresql://credit:hunter2@db/x?y"},
        {"key": "tk_acme_c2VjcmV0"}, {"settings": {"database": {"password": "hunter2"}}}, {"urls": ["amqp://a:hunter2@b/"]},
        {"problem": ConnectionError("amqp://a:hunter2@b/")}, {"headers": {"cookie": "hunter2"}},
    ],
    ids=str,
)  # fmt: skip
def test_secrets_and_names_are_masked_wherever_they_stand(fields: dict[str, Any]) -> None:
    text = json.dumps(masked(**fields), default=str)

    assert not any(canary in text for canary in CANARIES)
    assert "***" in text


@dataclass(frozen=True)
class Seen:
    """Of a kind that has no contract, as domains keep them."""

    name: str
    order: object = None
    key: str = field(default="hunter2", repr=False)


@dataclass(slots=True)
class Slotted:
    id: str


class Place(NamedTuple):
    city: str


BUYER = Buyer(id="C-1", name="Jane Doe")
HOME = Address(name="Jane Doe", lines=("Hafenstr. 1",), city="Jane Doe", postal_code="hunter2", country="DE")


@pytest.mark.parametrize(
    "fields",
    [
        {"lines": ["Jane Doe"]}, {"party": "Jane Doe"}, {"listed": "Jane Doe"}, {"postal_code": "hunter2"}, {"City": "Jane Doe"},
        {"address": "Jane Doe"}, {"ship_to": "Jane Doe"}, {"parties": ["Jane Doe"]}, {"buyer": BUYER}, {"found": HOME},
        {"order": {"ship_to": HOME}}, {"many": [BUYER]}, {"seen": Seen("Jane Doe")}, {"seen": Seen("x", order=BUYER)},
        {"where": Place("Jane Doe")}, {"raw": b"Jane Doe"}, {"raw": {"bytes": bytearray(b"Jane Doe")}},
        {"a": {"b": {"c": {"d": {"e": {"name": "Jane Doe"}}}}}}, {"a": [[[[["Jane Doe"]]]]]},
        {"a": {"b": {"c": {"d": {"e": {"password": "hunter2"}}}}}},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_contracts_call_personal_is_masked_wherever_it_stands(fields: dict[str, Any]) -> None:
    text = json.dumps(masked(**fields), default=str)

    assert not any(canary in text for canary in (*CANARIES, "Hafenstr"))
    assert "***" in text


def test_names_that_are_too_general_hide_no_figures() -> None:
    found = masked(lines=3, buyer=None, parties=0, order={"lines": [{"sku": "P-1"}]}, capacity="10")

    assert found == {
        "event": "happened", "lines": 3, "buyer": None, "parties": 0, "order": {"lines": [{"sku": "P-1"}]}, "capacity": "10",
    }  # fmt: skip


def test_a_structure_is_logged_by_its_fields() -> None:
    assert masked(buyer=BUYER)["buyer"] == {"id": "C-1", "name": "***"}


@pytest.mark.parametrize("part", [Buyer.model_construct(id="C-1"), object.__new__(Slotted)])
def test_a_structure_that_is_built_in_part_is_logged_as_far_as_it_is(part: object) -> None:
    assert masked(part=part)["part"]["id"] in ("C-1", None)


def test_what_is_not_secret_is_left_alone_and_what_is_long_is_cut() -> None:
    found = masked(queue="credit.commands", rows=3, up=True, seconds=0.5, note="x" * 5000)

    assert (found["queue"], found["rows"], found["up"], found["seconds"]) == ("credit.commands", 3, True, 0.5)
    assert len(found["note"]) == logs.VALUE_LENGTH_MAX


def test_secrets_in_the_events_name_are_masked_too() -> None:
    assert "hunter2" not in logs.mask(None, "info", {"event": "at amqp://a:hunter2@b/"})["event"]


def test_a_message_of_the_standard_library_passes_the_same_mask(capsys: pytest.CaptureFixture[str]) -> None:
    before, level = logging.root.handlers[:], logging.root.level
    try:
        logs.configure("test")
        logging.getLogger("somebody.else").warning("connecting to %s", "amqp://credit:hunter2@localhost/")
        error = capsys.readouterr().err
    finally:
        logging.root.handlers[:], logging.root.level = before, level
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()

    assert "somebody" in error or "connecting" in error
    assert "hunter2" not in error

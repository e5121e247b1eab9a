"""Traces go on, and logs tell no secrets."""

import json
import logging
from typing import Any

import pytest
import structlog

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

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from dlq_tools.letters import Found, Letter, read
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.deadletters.record import dead_letter_id
from tests.support.recorded_letters import COMMAND, HEADERS_CUT, NOT_READABLE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAILURE = {"id": "dl_1", "identity": ["credit.commands", "s1:reserve", "do"], "kind": "permanent", "operation_id": "s1:reserve"}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
values = st.recursive(
    scalars | st.datetimes(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
known = st.sampled_from(["x-failure", "x-original", "x-death", "x-replay", "x-delivery-count"])
names = st.none() | st.text(max_size=20)


def found(headers: Mapping[str, Any], sender: str | None = "credit", body: bytes = b"{}") -> Found:
    return Found(
        queue="credit.commands", body=body, headers=headers, content_type=None, content_encoding=None, message_id="m1",
        type="credit.reserve-credit.v1", correlation_id="saga-1", sender=sender,
    )  # fmt: skip


def test_the_record_of_the_loop_is_taken_as_it_is() -> None:
    letter = read(found({"x-failure": json.dumps(FAILURE)}), NOW)
    assert (letter.id, letter.kind, letter.operation_id, letter.step) == ("dl_1", "permanent", "s1:reserve", "reserve")


def test_letters_of_the_first_release_are_read() -> None:
    letter = read(found(COMMAND), NOW)

    assert letter == Letter(
        key="loop:a1a54496aa6fe9b737d50d2213b334f5f09f5fb031203bbca4ca1545fc0cd65b", id="dl_107718a616fb5d786e4a9d17",
        identity=("credit.commands", "s1:reserve", "do"), queue="credit.commands",
        type="credit.reserve-credit.v1", message_id="0191-m", source="/orchestrator", correlation_id="s1", operation_id="s1:reserve",
        subject="ord_1", partner_id="acme", kind="transient", error_class="Transient", error='the bureau says "später"',
        trace='Traceback\n  File "services/credit/handlers.py", line 1, in decide\n', attempts=3,
        first_failed_at=datetime(2026, 11, 21, 9, 59, 58, 500_000, tzinfo=UTC),
        last_failed_at=datetime(2026, 11, 21, 10, tzinfo=UTC), replay=0, revision=3, service="credit", service_version="1.2.3",
        original=COMMAND["x-original"], body=b"{}",
    )  # fmt: skip


@pytest.mark.parametrize("headers", [COMMAND, NOT_READABLE, HEADERS_CUT])
def test_the_original_of_a_letter_is_stored_as_it_was_written(headers: dict[str, str]) -> None:
    assert read(found(headers), NOW).original == headers["x-original"]


def test_what_of_a_record_no_row_takes_is_mended_and_the_rest_is_kept() -> None:
    failure = {"id": 5, "kind": "odd", "attempts": -1, "first_failed_at": "yesterday", "identity": ["a", 1], "type": "t" * 300,
               "error": "a\x00b", "message_id": "m\ud800", "service": "credit"}  # fmt: skip
    letter = read(found({"x-failure": json.dumps(failure), "x-original": json.dumps({"type": "x" * 40_000})}), NOW)

    assert letter.identity == ("credit.commands", "body:44136fa355b3678a1146ad16f7e8649e")
    assert letter.id == dead_letter_id(letter.identity)
    assert (letter.kind, letter.error_class, letter.attempts, letter.first_failed_at) == ("permanent", "Unknown", 1, NOW)
    assert (letter.type, letter.error, letter.message_id, letter.service) == ("t" * 255, "a\\0b", "m\\ud800", "credit")
    assert json.loads(letter.original) == {"headers": {}, "headers_cut": "the original properties did not fit"}


def test_a_record_that_cannot_be_read_says_where_the_failure_is_told() -> None:
    letter = read(found({"x-failure": "{", "x-original": "{"}), NOW)

    assert (letter.kind, letter.error_class) == ("permanent", "UnreadableFailure")
    assert letter.error == "the x-failure header of credit cannot be read; the log of credit has the failure"
    assert letter.original == '{"headers": {}, "headers_cut": "the original properties and headers are not known"}'


def test_what_the_broker_gave_up_is_described_by_the_broker() -> None:
    died = datetime(2026, 3, 1, 11, tzinfo=UTC)
    death = {"reason": "delivery_limit", "exchange": "commands", "routing-keys": ["credit.reserve-credit.v1"], "time": died}
    letter = read(found({"x-death": [death], "x-delivery-count": 51, "h": b"1"}, sender="orchestrator"), NOW)

    assert (letter.kind, letter.error_class, letter.attempts, letter.last_failed_at) == ("broker", "DeliveryLimit", 51, died)
    assert (letter.identity, letter.correlation_id) == (("credit.commands", "body:44136fa355b3678a1146ad16f7e8649e"), "saga-1")
    assert letter.original == (
        '{"content_type": null, "content_encoding": null, "message_id": "m1", "type": "credit.reserve-credit.v1",'
        ' "user_id": "orchestrator", "exchange": "commands", "routing_key": "credit.reserve-credit.v1", "deliveries": 51,'
        ' "headers": {"x-death": [{"reason": "delivery_limit", "exchange": "commands", "routing-keys": ["credit.reserve-credit.v1"],'
        ' "time": "2026-03-01 11:00:00+00:00"}], "x-delivery-count": 51, "h": "1"}}'
    )


def test_another_copy_has_the_same_key_and_another_failure_has_not() -> None:
    first = read(found({"x-failure": json.dumps(FAILURE)}), NOW)
    copy = read(found({"x-failure": json.dumps(FAILURE)}), NOW)
    other = read(found({"x-failure": json.dumps(FAILURE)}, body=b"[]"), NOW)
    assert first.key == copy.key
    assert first.key != other.key


def test_only_the_queues_own_service_is_believed() -> None:
    letter = read(found({"x-failure": json.dumps(FAILURE)}, sender="erp"), NOW)
    assert (letter.kind, letter.correlation_id) == ("broker", "")
    assert letter.id != "dl_1"


def test_a_replay_that_the_broker_gave_up_comes_back_to_its_dead_letter() -> None:
    letter = read(found({"x-replay": "dl_7 3", "x-death": [{"reason": "delivery_limit"}]}, sender="deadletters"), NOW)
    assert (letter.id, letter.replay, letter.error_class) == ("dl_7", 3, "DeliveryLimit")


def test_nobody_else_can_name_a_dead_letter_by_a_replay_header() -> None:
    letter = read(found({"x-replay": "dl_7 3"}, sender="erp"), NOW)
    assert (letter.id != "dl_7", letter.replay) == (True, 0)


@settings(max_examples=200, deadline=None)
@given(
    headers=st.dictionaries(known | st.text(max_size=10), values, max_size=5),
    sender=st.sampled_from(["credit", "deadletters", "erp", None]),
    name=names,
    body=st.binary(max_size=20),
)
def test_anything_at_all_becomes_a_letter_that_rows_take(
    headers: dict[str, Any], sender: str | None, name: str | None, body: bytes
) -> None:
    letter = read(Found("credit.commands", body, headers, name, name, name, name, name, sender), NOW)
    _is_storable(letter, body)


@settings(max_examples=200, deadline=None)
@given(failure=st.dictionaries(st.sampled_from([*FAILURE, "attempts", "replay", "error", "trace", "last_failed_at"]), values))
def test_any_record_of_a_failure_becomes_a_letter_that_rows_take(failure: dict[str, Any]) -> None:
    letter = read(found({"x-failure": json.dumps(failure, default=str), "x-original": failure}), NOW)
    _is_storable(letter, b"{}")


def _is_storable(letter: Any, body: bytes) -> None:
    assert letter.body == body
    texts = [value for name in letter.__slots__ if isinstance(value := getattr(letter, name), str)]
    for text in [*texts, *letter.identity, letter.signature.group, letter.signature.text, letter.step]:
        assert "\x00" not in text
        text.encode()
    assert isinstance(json.loads(letter.original), dict)
    for count in (letter.attempts, letter.replay, letter.revision):
        assert 0 <= count < 2**31

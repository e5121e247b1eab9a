import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dlq_tools.letters import Found, read
from hypothesis import given, settings
from hypothesis import strategies as st

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
        type="credit.reserve-credit.v1", correlation_id="saga-1", sender=sender, exchange="dead-letters", routing_key="credit.commands",
    )  # fmt: skip


def test_the_record_of_the_loop_is_taken_as_it_is() -> None:
    letter = read(found({"x-failure": json.dumps(FAILURE)}), NOW)
    assert (letter.id, letter.kind, letter.operation_id, letter.step) == ("dl_1", "permanent", "s1:reserve", "reserve")


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
    letter = read(Found("credit.commands", body, headers, name, name, name, name, name, sender, name or "", name or ""), NOW)
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

"""What a service writes about a dead letter is what the failure desk reads, and nothing that lies there makes reading fail."""

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.deadletters.lenient import COUNT_MAX
from contracts.deadletters.record import KINDS, NOT_KNOWN, FailureReport, Original, Record, read, read_original, unknown_original
from contracts.deadletters.replay import HEADERS, FirstSending, Replay
from tests.support.recorded_letters import COMMAND, HEADERS_CUT, NOT_READABLE

texts = st.text(max_size=20)
maybe = st.none() | texts
counts = st.integers(0, COUNT_MAX)
moments = st.datetimes(timezones=st.just(UTC))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
originals = st.builds(
    Original, content_type=maybe, content_encoding=maybe, message_id=maybe, type=maybe, user_id=maybe, exchange=texts,
    routing_key=texts, deliveries=counts, headers=st.dictionaries(texts, json_values, max_size=3), headers_cut=maybe,
    more=st.dictionaries(st.text("xyz", min_size=1), json_values, max_size=2),
)  # fmt: skip
reports = st.builds(
    FailureReport, kind=st.sampled_from(KINDS), error_class=texts, error=texts, attempts=st.integers(1, COUNT_MAX),
    first_failed_at=st.none() | moments, last_failed_at=st.none() | moments, trace=texts,
)  # fmt: skip
records = st.builds(
    Record, id=texts, identity=st.lists(texts, max_size=3).map(tuple), queue=texts, service=texts, service_version=texts,
    failure=reports, replay=counts, type=texts, source=maybe, message_id=texts, correlation_id=texts, subject=texts,
    operation_id=maybe, revision=counts, partner_id=maybe, original=originals,
)  # fmt: skip
# What AMQP can bring, and a little more.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=20) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
field_names = st.sampled_from([*json.loads(COMMAND["x-failure"]), *Original.__slots__])
documents = st.dictionaries(field_names, anything, max_size=4)


@settings(deadline=None)
@given(records)
def test_what_is_written_is_read(record: Record) -> None:
    reading = read(record.write())

    assert reading.record == record
    assert reading.unreadable == frozenset()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["x-failure", "x-original"]) | st.text(max_size=10), anything, max_size=4))
def test_any_headers_are_read_and_the_record_can_be_written_again(headers: dict[str, Any]) -> None:
    written = read(headers).record.write()

    assert read(written).record.write() == written


@settings(deadline=None)
@given(documents)
def test_any_documents_are_read_and_the_record_can_be_written_again(document: dict[str, Any]) -> None:
    text = json.dumps(document, default=str)
    for headers in ({"x-failure": text, "x-original": text.encode()}, {"x-failure": text.encode(), "x-original": document}):
        written = read(headers).record.write()

        assert read(written).record.write() == written


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 50_000, '{"a":' * 50_000, b"\xff", 7, None, [], "9" * 5000])
def test_a_header_that_is_no_object_is_named_as_a_whole(text: Any) -> None:
    reading = read({"x-failure": text, "x-original": text})

    assert reading.unreadable == {"x-failure", "x-original"}
    assert read_original(text).headers_cut == "the original properties and headers are not known"


def test_headers_that_are_missing_are_named() -> None:
    assert read({}).unreadable == {"x-failure", "x-original"}


def test_fields_of_another_type_are_named_and_empty() -> None:
    failure = {"id": 5, "identity": ["a", 1], "kind": "odd", "attempts": True, "first_failed_at": "2026-11-21T10:00:00",
               "last_failed_at": "0001-01-01T00:00:00+01:00", "replay": -1, "revision": 10**30, "source": [], "type": "t"}  # fmt: skip
    reading = read({"x-failure": json.dumps(failure), "x-original": '{"exchange": 7, "headers": []}'})

    assert reading.unreadable == {
        "id", "identity", "kind", "attempts", "first_failed_at", "last_failed_at", "source", "original.exchange", "original.headers",
    }  # fmt: skip
    found = reading.record
    assert (found.id, found.identity, found.source, found.original.exchange, found.type) == ("", (), None, "", "t")
    assert (found.failure.kind, found.failure.attempts, found.replay, found.revision) == ("permanent", 1, 0, COUNT_MAX)
    assert found.failure.first_failed_at is None


@pytest.mark.parametrize("headers", [COMMAND, NOT_READABLE, HEADERS_CUT])
def test_letters_of_the_first_release_are_read_whole_and_written_again_byte_for_byte(headers: dict[str, str]) -> None:
    reading = read(headers)

    assert reading.unreadable == frozenset()
    assert list(reading.record.write().items()) == list(headers.items())


def test_what_a_newer_release_says_of_the_original_is_kept() -> None:
    assert json.loads(read_original('{"type": "t", "priority": 5}').to_text())["priority"] == 5


def test_headers_that_do_not_fit_are_left_out_and_it_says_so() -> None:
    original = Original(type="t", headers={"h": "ü" * 4000})

    assert original.fitted(100_000) is original
    fitted = read_original(original.fitted().to_text())
    assert (fitted.type, fitted.headers) == ("t", {})
    assert fitted.headers_cut == f"{len(original.to_text())} bytes of properties and headers did not fit"


def test_an_original_of_which_nothing_is_known_says_why() -> None:
    assert read_original(unknown_original("lost")) == Original(headers_cut="lost")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255), st.integers(0, 999_999_999))
def test_a_replays_marker_is_read_as_it_was_written(letter: str, count: int) -> None:
    assert Replay.read(Replay(letter, count).marker()) == Replay(letter, count)


@pytest.mark.parametrize(
    "marker", [None, 7, "", "dl_1", "dl_1 ", "dl_1 ²", "dl 1 1", " 1", "dl_1 " + "9" * 10, b"dl_1 1", "dl_1 1\n"]
)
def test_what_is_no_marker_is_no_replay(marker: object) -> None:
    assert Replay.read(marker) is None


known = st.none() | st.text(min_size=1)


@given(st.builds(FirstSending, sender=known, exchange=known, routing_key=known, content_encoding=known))
def test_the_first_sending_is_read_as_it_was_written(first: FirstSending) -> None:
    assert FirstSending.read(first.write()) == first
    assert set(first.write()) <= HEADERS


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), anything))
def test_any_headers_tell_a_first_sending(headers: dict[str, Any]) -> None:
    FirstSending.read(headers)


@pytest.mark.parametrize("why", [True, 7, ["x"], {"a": 1}])
def test_headers_that_were_cut_for_an_unreadable_reason_were_cut(why: object) -> None:
    assert read_original(json.dumps({"headers": {}, "headers_cut": why})).headers_cut == NOT_KNOWN


def test_a_field_of_a_newer_release_is_kept_whatever_its_name() -> None:
    written = json.dumps({"headers": {}, "more": {"a": "b"}, "newer": "x"})

    assert json.loads(read_original(written).to_text()).items() >= {"more": {"a": "b"}, "newer": "x"}.items()

"""The poison set: whatever comes in is read, or refused with the place named. Nothing else may happen."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.credit.v2 import LimitChanged
from contracts.deadletters.lenient import printable_headers
from contracts.deadletters.record import body_identity, dead_letter_id
from contracts.deadletters.replay import Replay
from infra.chassis.batch import BatchTransaction
from infra.chassis.decoding import Raw, as_first_sent, identity_of, read, replay_of, resolve
from infra.chassis.errors import Permanent, UnknownVersion
from infra.chassis.service import Route
from infra.chassis.workplace import Workplace
from tests.support.ledger_messages import limit_changed, replayed, reserve
from tests.support.ledger_service import service, settings

CONSUMER = service().consumers[0]
ROUTES: dict[str, Route] = {route.wire_name: route for route in CONSUMER.routes}
GOOD = reserve("s1:step")
DOCUMENT: dict[str, Any] = json.loads(GOOD.body)


def with_body(body: bytes | str) -> Raw:
    return replace(limit_changed("C-1"), body=body if isinstance(body, bytes) else body.encode())


def with_document(**changes: Any) -> Raw:
    document = json.loads(limit_changed("C-1").body) | changes
    return with_body(json.dumps({name: value for name, value in document.items() if value is not ...}))


def with_data(**changes: Any) -> Raw:
    data = json.loads(limit_changed("C-1").body)["data"] | changes
    return with_document(data={name: value for name, value in data.items() if value is not ...})


def with_text(old: str, new: str) -> Raw:
    body = limit_changed("C-1").body.decode()
    assert old in body
    return with_body(body.replace(old, new))


NESTED = "[" * 100_000 + "]" * 100_000


def decode(raw: Raw) -> Any:
    first = as_first_sent(raw)
    replay_of(first)
    return resolve(first, read(first), ROUTES)


def marked(marker: object) -> Raw:
    """The desk's replay with another marker."""
    raw = replayed(GOOD)
    return replace(raw, headers={**raw.headers, "x-replay": marker})


POISON = {
    "malformed JSON": (with_body('{"specversion":'), "body"),
    "an empty body": (with_body(b""), "body"),
    "a list for a message": (with_body("[]"), "body"),
    "null for a message": (with_body("null"), "body"),
    "a field of the wrong type": (with_data(sequence="one"), "/sequence"),
    "a number where only whole ones count": (with_data(sequence=1.5), "/sequence"),
    "a missing field": (with_data(limit=...), "/limit"),
    "a currency that does not exist": (with_data(limit={"amount_minor": 1, "currency": "XXQ"}), "/limit/currency"),
    "an unknown type": (replace(with_document(type="credit.nothing.v1"), routing_key="credit.nothing.v1"), "credit.nothing.v1"),
    "a type without a version": (replace(with_document(type="credit.limit-changed"), routing_key="credit.limit-changed"), "no route"),
    "a version that is no number": (
        replace(with_document(type="credit.limit-changed.vX"), routing_key="credit.limit-changed.vX"), "no route",
    ),
    "version zero": (replace(with_document(type="credit.limit-changed.v0"), routing_key="credit.limit-changed.v0"), "no route"),
    "another type than its routing key": (with_document(type="credit.limit-changed.v1"), "routing key"),
    "a wrong content type": (replace(limit_changed("C-1"), content_type="text/plain"), "content-type"),
    "no content type": (replace(limit_changed("C-1"), content_type=None), "content-type"),
    "JSON without ce- headers": (replace(limit_changed("C-1"), content_type="application/json"), "ce-"),
    "gzip": (replace(with_body(gzip.compress(b"{}")), content_encoding="gzip"), "content-encoding"),
    "a gzip bomb": (replace(with_body(gzip.compress(bytes(5_000_000))), content_encoding="gzip"), "content-encoding"),
    "a body of 20 MiB": (with_body(b" " * (20 * 1024 * 1024)), "body"),
    "nesting of 100,000": (with_body('{"specversion":"1.0","data":' + NESTED + "}"), "body"),
    "nesting of 1,000 inside the payload": (with_text('"reason":"review"', '"reason":' + "[" * 1000 + "]" * 1000), "body"),
    "a NUL in an id": (with_text('"source":"/erp"', '"source":"/erp\\u0000"'), "source"),
    "a NUL in a text": (with_data(buyer_id="C\x00"), "/buyer_id"),
    "a lone surrogate": (with_text('"reason":"review"', '"reason":"\\ud800"'), "body"),
    "invalid UTF-8": (with_body(b'{"specversion":"1.0","id":"\xff\xfe"}'), "body"),
    "UTF-16": (with_body('{"specversion":"1.0"}'.encode("utf-16")), "body"),
    "an integer of 5,000 digits": (with_text('"sequence":1', '"sequence":' + "9" * 5000), "body"),
    "an integer beyond every column": (with_data(sequence=2**63), "/sequence"),
    "NaN": (with_text('"sequence":1', '"sequence":NaN'), "body"),
    "Infinity": (with_text('"sequence":1', '"sequence":Infinity'), "body"),
    "1e999": (with_text('"sequence":1', '"sequence":1e999'), "body"),
    "a repeated key": (with_text('"sequence":1', '"sequence":1,"sequence":2'), "twice"),
    "a repeated attribute": (with_text('"source":"/erp"', '"source":"/erp","source":"/orchestrator"'), "twice"),
    "3 MB of empty objects": (with_body('{"data":[' + "{}," * 1_000_000 + "{}]}"), "body"),
    "no id": (with_document(id=...), "id"),
    "an empty id": (with_document(id=""), "id"),
    "an id that is a number": (with_document(id=7), "id"),
    "an id of 300 characters": (with_document(id="x" * 300), "id"),
    "an id with a line break": (with_document(id="a\nb"), "id"),
    "another specversion": (with_document(specversion="0.3"), "specversion"),
    "base64 data": (with_document(data=..., data_base64="e30="), "data_base64"),
    "no data": (with_document(data=...), "data"),
    "data that is text": (with_document(data="x"), "data"),
    "a time without an offset": (with_document(time="2026-11-21T10:00:00"), "time"),
    "a negative revision": (with_document(revision=-1), "revision"),
    "a revision beyond every column": (with_document(revision=2**31), "revision"),
    "an upper-case attribute": (with_document(Source="/x"), "Source"),
    "100 KiB of headers": (replace(limit_changed("C-1"), headers={"x": "y" * 100_000}), "headers"),
    "a command without an operation": (replace(GOOD, body=json.dumps({**DOCUMENT, "operationid": None}).encode()), "operationid"),
    "a command without a saga": (replace(GOOD, body=json.dumps({**DOCUMENT, "correlationid": None}).encode()), "correlationid"),
    "a command from a system": (replace(GOOD, sender="erp"), "accepted from"),
    "a command from a service": (replace(GOOD, sender="credit"), "accepted from"),
    "a command from nobody": (replace(GOOD, sender=None), "accepted from"),
    "a marker of the desk without its count": (marked("dl_1"), "x-replay"),
    "a marker whose count is no ASCII digit": (marked("dl_1 ²"), "x-replay"),
    "a marker with an endless count": (marked("dl_1 " + "9" * 5000), "x-replay"),
    "a marker that is a number": (marked(7), "x-replay"),
}  # fmt: skip
HARMLESS = {
    "an unknown extra field": with_data(colour="red"),
    "an unknown extension": with_document(colour="red"),
    "no message-id property": replace(limit_changed("C-1"), message_id=None),
    "nested header tables": replace(limit_changed("C-1"), headers={"a": {"b": [{"c": 1}]}}),
    "a spoofed x-death": replace(limit_changed("C-1"), headers={"x-death": [{"count": 99, "queue": "credit.commands"}]}),
    "CC and BCC": replace(limit_changed("C-1"), headers={"CC": ["credit.commands"], "BCC": ["x"]}),
    "a marker of somebody else": replace(limit_changed("C-1"), headers={"x-replay": "nonsense"}),
    "the desk's marker outside the replay exchange": replace(
        limit_changed("C-1"), sender="deadletters", headers={"x-replay": "dl 1"}
    ),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_with_the_place_named(name: str) -> None:
    raw, place = POISON[name]

    with pytest.raises(Permanent) as refusal:
        decode(raw)

    assert place in str(refusal.value)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("name", POISON)
def test_poison_becomes_a_failure_of_its_message_and_never_an_exception_of_the_loop(name: str) -> None:
    raw, _ = POISON[name]
    admission = BatchTransaction(Workplace("credit", "0", CONSUMER, settings(), external=True)).admission

    arrival = admission.admit(raw, datetime.now(UTC))

    assert isinstance(arrival.failure, Permanent)
    assert arrival.decoded is None


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_read(name: str) -> None:
    decoded = decode(HARMLESS[name])

    assert isinstance(decoded.message, LimitChanged)
    assert decoded.replay is None


def test_a_refusal_does_not_repeat_the_value_which_may_be_personal() -> None:
    with pytest.raises(Permanent) as refusal:
        decode(with_data(limit={"amount_minor": "Jane Doe", "currency": "EUR"}))

    assert "Jane Doe" not in str(refusal.value)


def test_an_unknown_version_of_a_known_name_waits_and_an_unknown_name_does_not() -> None:
    newer = replace(with_document(type="credit.limit-changed.v9"), routing_key="credit.limit-changed.v9")
    with pytest.raises(UnknownVersion, match="knows v1, v2 of"):
        decode(newer)
    with pytest.raises(Permanent) as refusal:
        decode(POISON["an unknown type"][0])
    assert not isinstance(refusal.value, UnknownVersion)


def test_version_1_is_lifted_for_a_route_that_takes_version_2_only() -> None:
    older = replace(with_document(type="credit.limit-changed.v1"), routing_key="credit.limit-changed.v1")

    message = decode(older).message

    assert isinstance(message, LimitChanged)
    assert message.reason == "not stated (version 1)"


def test_a_replay_counts_only_from_the_desk_and_only_through_its_exchange() -> None:
    assert decode(replayed(GOOD, "dl_7", 3)).replay == Replay("dl_7", 3)
    for raw in (replace(replayed(GOOD), sender="orchestrator"), replace(replayed(GOOD), exchange="commands"), GOOD):
        assert replay_of(as_first_sent(raw)) is None


def test_a_replay_is_checked_as_the_message_that_it_repeats_was() -> None:
    repeated = as_first_sent(replayed(limit_changed("C-1")))

    assert (repeated.sender, repeated.exchange, repeated.routing_key) == ("erp", "events", "credit.limit-changed.v2")
    with pytest.raises(Permanent, match="accepted from"):
        decode(replayed(replace(GOOD, sender="erp")))
    with pytest.raises(Permanent, match="routing key"):
        decode(replayed(replace(GOOD, routing_key="credit.release-credit.v1")))


def test_nobody_but_the_desk_can_speak_for_another_sender() -> None:
    spoofed = replace(replayed(GOOD), sender="erp")

    assert as_first_sent(spoofed) == spoofed
    with pytest.raises(Permanent):
        decode(spoofed)


def test_a_message_kept_as_a_row_reads_as_before() -> None:
    raw = as_first_sent(replayed(GOOD))
    raw = replace(raw, headers={"bytes": b"\xff", "table": {"a": [1, None, 2.5]}})

    kept = Raw.from_json(raw.to_json())

    assert kept.body == raw.body
    assert decode(kept).envelope == decode(raw).envelope
    assert replay_of(kept) == replay_of(raw) == Replay("dl_1", 1)


def test_headers_are_printable_whatever_they_hold_and_however_deep() -> None:
    deep: dict[str, Any] = {}
    place = deep
    for _ in range(500):
        place["a"] = {}
        place = place["a"]

    printed = printable_headers({"deep": deep, "bytes": b"\xff\x00", "odd": {1, 2}, 7: "number"})  # type: ignore[dict-item]

    assert len(json.dumps(printed)) < 1000
    assert "nested deeper" in json.dumps(printed)


def test_one_failing_thing_has_one_identity() -> None:
    envelope = read(GOOD)

    assert identity_of("q", GOOD, envelope, "do") == ("q", "s1:step", "do")
    assert identity_of("q", GOOD, envelope, "undo") == ("q", "s1:step", "undo")
    assert identity_of("q", GOOD, envelope, "event") == ("q", "/orchestrator", envelope.id)
    assert identity_of("q", GOOD, None, None) == ("q", body_identity(GOOD.body))
    assert dead_letter_id(("a", "b")) == dead_letter_id(["a", "b"]) != dead_letter_id(("ab",))

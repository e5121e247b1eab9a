"""Our envelope against the CloudEvents SDK and the CloudEvents project's own conformance data."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from contracts.envelope import STRUCTURED, Envelope, EnvelopeError, parse
from contracts.inventory.v1 import StockRecovered
from infra.chassis.outbox import Timing, encode
from infra.chassis.service import Outbound
from tests.support.shared_data import SHARED

NOW = datetime(2026, 11, 21, 10, 5, 0, 123456, tzinfo=UTC)
CONFORMANCE = SHARED / "events" / "cloudevents"
FULL = Envelope(
    id="1", source="/credit", type="credit.credit-reserved.v1", time=NOW, data={"text": "Zürich", "list": [1, None, "2.50"]},
    subject="ord_1", dataschema="urn:tutti:schema:x", correlationid="s1", causationid="0", operationid="s1:reserve", revision=2,
    actor="partner:acme", partnerid="acme", dueby=NOW, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="k=v",
    receivedat=NOW, startedat=NOW, finishedat=NOW, dependencyms=7,
)  # fmt: skip


def conformance(name: str) -> list[Any]:
    file = CONFORMANCE / name
    if not file.is_file():
        reason = f"the conformance data of CloudEvents are not here ({name}); they are not part of this repository"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    cases = json.loads(file.read_text())["tests"]
    return [pytest.param(case["event"], id=case["id"]) for case in cases]


def test_what_we_emit_is_what_the_sdk_reads() -> None:
    event = from_rabbitmq(RabbitMQMessage(headers={}, content_type=STRUCTURED, body=FULL.to_bytes()), JSONFormat())

    attributes = event.get_attributes()
    assert event.get_data() == FULL.data
    assert (event.get_id(), event.get_source(), event.get_type(), event.get_time()) == (FULL.id, FULL.source, FULL.type, NOW)
    assert (attributes["operationid"], attributes["revision"], attributes["dependencyms"]) == ("s1:reserve", 2, 7)
    assert event.get_datacontenttype() == "application/json"


def test_what_we_emit_we_read() -> None:
    assert parse(FULL.to_bytes(), STRUCTURED, {}) == FULL


@pytest.mark.parametrize("mode", [to_binary, to_structured], ids=["binary", "structured"])
def test_what_the_sdk_emits_we_read(mode: Any) -> None:
    event = CloudEvent(
        attributes={
            "id": "1", "source": "/erp", "type": "credit.limit-changed.v2", "time": NOW, "specversion": "1.0", "subject": "C-1",
            "datacontenttype": "application/json", "correlationid": "s1", "revision": 3, "partnerid": "Zürich-1",
        },
        data={"a": "ü", "b": [1, 2]},
    )  # fmt: skip

    message = mode(event, JSONFormat())
    envelope = parse(message.body, message.content_type, message.headers)

    assert (envelope.id, envelope.source, envelope.type, envelope.time) == ("1", "/erp", "credit.limit-changed.v2", NOW)
    assert (envelope.subject, envelope.correlationid, envelope.revision, envelope.partnerid) == ("C-1", "s1", 3, "Zürich-1")
    assert envelope.data == {"a": "ü", "b": [1, 2]}


def test_an_outbox_row_is_an_event_that_the_sdk_reads_and_inherits_from_its_cause() -> None:
    answer = StockRecovered.model_validate({"sku": "A", "available": "1.5", "sequence": 1})
    row = encode("inventory", Outbound(answer, operation_id="s1:reserve"), FULL, now=NOW, timing=Timing(NOW, NOW, 12))

    event = from_rabbitmq(RabbitMQMessage(headers={}, content_type=row.content_type, body=row.body), JSONFormat())

    attributes = event.get_attributes()
    assert (event.get_id(), event.get_source(), event.get_subject()) == (row.message_id, "/inventory", "A")
    assert (attributes["correlationid"], attributes["causationid"], attributes["partnerid"]) == ("s1", "1", "acme")
    assert attributes["traceparent"].split("-")[1] == "a" * 32
    assert attributes["traceparent"].split("-")[2] != "b" * 16
    assert (attributes["dependencyms"], "revision" in attributes) == (12, False)
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["available"] == "1.5"


@pytest.mark.parametrize("event", conformance("format-json-valid-events.json"))
def test_valid_events_of_the_conformance_data_are_read_where_their_data_are_an_object(event: dict[str, Any]) -> None:
    # Our payloads are JSON objects; their other payloads are replaced, since this is about the attributes.
    document = {name: value for name, value in event.items() if name not in ("data", "data_base64", "datacontenttype")}
    document["data"] = {"a": 1}
    document = {name: value for name, value in document.items() if value is not None or name != "time"}

    envelope = parse(json.dumps(document).encode(), STRUCTURED, {})

    assert (envelope.id, envelope.source, envelope.type) == (event["id"], event["source"], event["type"])
    if event.get("time"):
        assert envelope.time == datetime.fromisoformat(event["time"])


@pytest.mark.parametrize("event", conformance("format-json-invalid-events.json"))
def test_invalid_events_of_the_conformance_data_are_refused(event: dict[str, Any]) -> None:
    document = event if "data" in event or "data_base64" in event else {**event, "data": {}}

    with pytest.raises(EnvelopeError):
        parse(json.dumps(document).encode(), STRUCTURED, {})


def test_attributes_that_are_null_are_absent() -> None:
    document = json.loads(FULL.to_bytes()) | {"subject": None, "datacontenttype": None, "time": None, "operationid": None}

    envelope = parse(json.dumps(document).encode(), STRUCTURED, {})

    assert (envelope.subject, envelope.operationid) == (None, None)

import json
from typing import Any

from dlq_tools.domain import Refused
from dlq_tools.replaying import Replayable, replay_row

from contracts.deadletters.record import read_original
from infra.chassis.outbox import OutboxRow

ORIGINAL = {"user_id": "erp", "exchange": "events", "routing_key": "credit.limit-changed.v2", "type": "credit.limit-changed.v2",
            "content_type": "application/json", "content_encoding": "gzip"}  # fmt: skip


def row(original: dict[str, Any] | None = None) -> OutboxRow | Refused:
    kept = read_original(json.dumps(original or ORIGINAL))
    return replay_row(Replayable("dl_1", "credit.events", "saga-1", "s1:reserve", kept, b"\x00bytes", 2))


def sent(**original: Any) -> OutboxRow:
    made = row({**ORIGINAL, **original})
    assert isinstance(made, OutboxRow)
    return made


def test_it_goes_to_the_one_queue_it_came_from_with_its_bytes() -> None:
    assert (sent().exchange, sent().routing_key, sent().body) == ("replay", "credit.events", b"\x00bytes")
    assert sent().headers["x-replay"] == "dl_1 2"


def test_each_replay_has_an_amqp_id_of_its_own() -> None:
    assert sent().message_id != sent().message_id


def test_the_first_sending_travels_along() -> None:
    headers = sent().headers
    assert headers["x-original-sender"] == "erp"
    assert headers["x-original-exchange"] == "events"
    assert headers["x-original-routing-key"] == "credit.limit-changed.v2"
    assert headers["x-original-content-encoding"] == "gzip"


def test_headers_that_would_act_again_or_pretend_stay_behind() -> None:
    spoofed = {"CC": ["other"], "bcc": ["other"], "x-death": [], "x-first-death-queue": "q", "x-delivery-count": 3, "X-Replay": "dl_9 9",
               "x-original-sender": "orchestrator", "x-failure": "{}", "ce-id": "1", "traceparent": "00"}  # fmt: skip
    headers = sent(headers=spoofed, user_id=None).headers
    assert headers["ce-id"] == "1"
    assert headers["traceparent"] == "00"
    assert headers["x-replay"] == "dl_1 2"
    assert {name.lower() for name in headers} == {
        "ce-id", "traceparent", "x-replay", "x-original-exchange", "x-original-routing-key", "x-original-content-encoding",
    }  # fmt: skip


def test_what_is_not_known_whole_is_not_sent() -> None:
    assert isinstance(row({**ORIGINAL, "headers": {}, "headers_cut": "20000 bytes did not fit"}), Refused)

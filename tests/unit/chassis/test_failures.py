"""Retries within a budget, dead letters that fit, errors of the database and who is to blame for them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from contracts.deadletters.record import ERROR_LENGTH_MAX, ORIGINAL_BYTES_MAX, TRACE_BYTES_MAX, FailureReport
from contracts.deadletters.replay import Replay
from contracts.envelope import Envelope
from infra.chassis import crash_points
from infra.chassis.database import Trouble, classify
from infra.chassis.dead_letters import clean, dead_letter, describe_failure
from infra.chassis.decoding import Raw, read
from infra.chassis.errors import Permanent, Transient
from infra.chassis.retries import delay_seconds
from infra.chassis.runtime import DEAD_LETTER_HEADER_BYTES_MAX
from infra.chassis.settings import ServiceSettings
from tests.support.ledger_messages import reserve
from tests.support.ledger_service import settings
from tests.support.recorded_letters import COMMAND, HEADERS_CUT, NOT_READABLE

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
PATIENT = settings(retry_first_seconds=0.5, retry_delay_seconds_max=5.0)


def delay(attempts: int, *, waited: float = 0.0, retry_after: float | None = None, of: ServiceSettings = PATIENT) -> float | None:
    return delay_seconds(
        of, attempts=attempts, first=NOW - timedelta(seconds=waited), now=NOW, retry_after=retry_after,
        attempts_max=of.retry_attempts_max,
    )  # fmt: skip


def test_a_failure_waits_longer_each_time_with_jitter_and_never_longer_than_the_limit() -> None:
    many = settings(retry_first_seconds=0.5, retry_delay_seconds_max=5.0, retry_attempts_max=20)
    for attempts, most in ((1, 0.5), (2, 1.0), (3, 2.0), (10, 5.0)):
        delays = [delay(attempts, of=many) for _ in range(200)]
        assert all(one is not None and 0 <= one <= most for one in delays)
        assert len(set(delays)) > 100


def test_the_budget_ends_with_the_attempts_or_with_the_time() -> None:
    assert delay(2) is not None
    assert delay(3) is None
    assert delay(1, waited=9.9) is not None
    assert delay(1, waited=10.0) is None


def test_what_a_dependency_asks_for_is_honoured_within_the_budget() -> None:
    asked, too_much = delay(1, retry_after=7.0), delay(1, retry_after=3600.0)

    assert asked == 7.0
    assert too_much == PATIENT.retry_budget_seconds


def letter(
    error: Exception, raw: Raw, *, replay: Replay | None = None, readable: bool = True
) -> tuple[dict[str, object], dict[str, object], int]:
    """`x-original`, `x-failure` and the size of both."""
    try:
        raise error
    except Exception as raised:
        failure = describe_failure(raised, "permanent", attempts=1, first=NOW, last=NOW)
    row = dead_letter(
        queue="q", service="credit", version="0", raw=raw, envelope=read(reserve("s1:step")) if readable else None,
        identity=("q", "s1:step", "do"), failure=failure, replay=replay,
    )  # fmt: skip
    assert row.body == raw.body
    size = sum(len(name.encode()) + len(str(value).encode()) for name, value in row.headers.items())
    return json.loads(row.headers["x-original"]), json.loads(row.headers["x-failure"]), size


def test_a_dead_letter_carries_the_untouched_bytes_and_nothing_of_the_original_outside_one_header() -> None:
    raw = reserve("s1:step", headers={"CC": ["credit.commands"], "x": "y"})
    original, failure, _ = letter(ValueError("no"), raw)

    assert original["headers"] == {"CC": ["credit.commands"], "x": "y"}
    assert original["user_id"] == "orchestrator"
    assert (failure["error_class"], failure["operation_id"], failure["correlation_id"]) == ("ValueError", "s1:step", "s1")
    assert "test_failures.py" in str(failure["trace"])


def test_headers_that_do_not_fit_are_cut_and_marked() -> None:
    original, _, size = letter(ValueError("no"), reserve("s1:step", headers={f"h{n}": "ü" * 200 for n in range(500)}))

    assert original["headers"] == {}
    assert "did not fit" in str(original["headers_cut"])
    assert size < ORIGINAL_BYTES_MAX + TRACE_BYTES_MAX


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "ü" * 100_000, "😀" * 50_000, "\x00\x1b\x7f" * 30_000, "\n" * 100_000, '"\\' * 50_000]
)
def test_a_dead_letter_fits_whatever_the_error_says(text: str) -> None:
    raw = reserve("s1:step", headers={"h": "x" * (ORIGINAL_BYTES_MAX - 500)})
    _, failure, size = letter(ValueError(text), raw)

    assert len(str(failure["error"])) <= ERROR_LENGTH_MAX
    assert len(str(failure["trace"]).encode()) <= TRACE_BYTES_MAX
    assert size < DEAD_LETTER_HEADER_BYTES_MAX - 1024


def test_the_end_of_a_trace_says_most_and_is_kept() -> None:
    _, failure, _ = letter(ValueError("x" * 20_000 + " the end"), reserve("s1:step"))

    assert str(failure["trace"]).rstrip().endswith("the end")


def test_a_replay_keeps_the_dead_letter_that_it_came_from() -> None:
    _, failure, _ = letter(ValueError("no"), reserve("s1:step"), replay=Replay("dl_mine", 4))

    assert (failure["id"], failure["replay"]) == ("dl_mine", 4)


def test_bytes_without_an_envelope_are_a_dead_letter_too() -> None:
    _, failure, _ = letter(Permanent("body: is not JSON"), reserve("s1:step"), readable=False)

    assert (failure["operation_id"], failure["correlation_id"], failure["source"]) == (None, "", None)


FIRST = NOW - timedelta(seconds=1.5)
SENT = Raw(
    body=b"bytes", content_type="application/cloudevents+json", content_encoding=None, headers={}, message_id="0191-m",
    type="credit.reserve-credit.v1", sender="orchestrator", exchange="commands", routing_key="credit.reserve-credit.v1", deliveries=2,
)  # fmt: skip
READ = Envelope(
    id="0191-m", source="/orchestrator", type="credit.reserve-credit.v1", time=FIRST, data={}, subject="ord_1", correlationid="s1",
    operationid="s1:reserve", revision=3, partnerid="acme",
)  # fmt: skip
TRACE = 'Traceback\n  File "services/credit/handlers.py", line 1, in decide\n'
WHY = FailureReport("transient", "Transient", 'the bureau says "später"', 3, FIRST, NOW, TRACE)
NOTHING = Raw(
    body=b"\x00{", content_type="text/plain", content_encoding="gzip", message_id=None, type=None, sender=None, exchange="",
    routing_key="", headers={"CC": ["a"], "ü": b"\xff\xc3\xbc", "n": {"t": datetime(2026, 1, 2, tzinfo=UTC), "f": 1.5, "none": None}},
)  # fmt: skip


def test_letters_are_byte_for_byte_those_of_the_first_release() -> None:
    command = dead_letter(
        queue="credit.commands", service="credit", version="1.2.3", raw=SENT, envelope=READ,
        identity=("credit.commands", "s1:reserve", "do"), replay=None, failure=WHY,
    )  # fmt: skip
    unreadable = dead_letter(
        queue="credit.events", service="credit", version="1.2.3", raw=NOTHING, envelope=None,
        identity=("credit.events", "body:" + "0" * 32), replay=Replay("dl_mine", 4),
        failure=FailureReport("permanent", "Permanent", "body: is not JSON", 1, NOW, NOW),
    )  # fmt: skip
    cut = dead_letter(
        queue="credit.events", service="credit", version="1.2.3",
        raw=replace(SENT, headers={"h": "x" * 17_000}, sender="erp", exchange="events"), envelope=READ,
        identity=("credit.events", "/erp", "1"), replay=None, failure=replace(WHY, kind="crash-loop"),
    )  # fmt: skip

    for row, headers in ((command, COMMAND), (unreadable, NOT_READABLE), (cut, HEADERS_CUT)):
        assert list(row.headers.items()) == list(headers.items())
        assert (row.exchange, row.type, row.content_type) == ("dead-letters", "dead-letter", "application/octet-stream")
    assert [row.routing_key for row in (command, unreadable, cut)] == ["credit.commands", "credit.events", "credit.events"]
    assert [row.correlation_id for row in (command, unreadable, cut)] == ["s1", "dl_mine", "s1"]


def test_texts_are_cleaned_of_what_no_store_or_terminal_takes() -> None:
    assert clean("a\x00b\x1b[2Jc\ud800\n\tü") == "a\\x00b\\x1b[2Jc\\ud800\n\tü"


class _Original(Exception):
    def __init__(self, sqlstate: str | None, text: str = "") -> None:
        self.sqlstate = sqlstate
        super().__init__(text)


@pytest.mark.parametrize(
    ("state", "trouble"),
    [
        ("40001", Trouble.MOMENTARY), ("40P01", Trouble.MOMENTARY), ("55P03", Trouble.MOMENTARY),
        ("23505", Trouble.DATA), ("22003", Trouble.DATA), ("22021", Trouble.DATA), ("21000", Trouble.DATA),
        ("57P01", Trouble.OUTAGE), ("53100", Trouble.OUTAGE), ("08006", Trouble.OUTAGE), ("42P01", Trouble.OUTAGE), (None, Trouble.OUTAGE),
    ],
)  # fmt: skip
def test_who_is_to_blame_for_an_error_of_the_database(state: str | None, trouble: Trouble) -> None:
    assert classify(DBAPIError("SELECT 1", {}, _Original(state))) is trouble


def test_a_stale_plan_is_momentary_and_a_lost_connection_an_outage_and_a_bug_neither() -> None:
    assert classify(DBAPIError("", {}, _Original("0A000", "cached statement plan is invalid"))) is Trouble.MOMENTARY
    assert classify(ConnectionResetError()) is Trouble.OUTAGE
    assert classify(PoolTimeout()) is Trouble.OUTAGE
    assert classify(asyncpg.InternalClientError("got result for unknown protocol state 3")) is Trouble.OUTAGE
    assert classify(KeyError("x")) is None
    assert classify(Transient("x")) is None


def test_an_unarmed_crash_point_does_nothing_and_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for point in crash_points.POINTS:
        crash_points.crash_point("credit", point)
    monkeypatch.setenv("TUTTI_CRASH_POINT", "credit:somewhere:1")
    with pytest.raises(ValueError, match="no point 'somewhere'"):
        crash_points._armed()

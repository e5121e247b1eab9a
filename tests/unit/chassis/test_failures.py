"""Retries within a budget, dead letters that fit, errors of the database and who is to blame for them."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from infra.chassis import crash_points
from infra.chassis.database import Trouble, classify
from infra.chassis.dead_letters import (
    ERROR_LENGTH_MAX,
    ORIGINAL_BYTES_MAX,
    TRACE_BYTES_MAX,
    clean,
    dead_letter,
    describe_failure,
)
from infra.chassis.decoding import Raw, Replay, read
from infra.chassis.errors import Permanent, Transient
from infra.chassis.retries import delay_seconds
from infra.chassis.runtime import DEAD_LETTER_HEADER_BYTES_MAX
from infra.chassis.settings import ServiceSettings
from tests.support.ledger_service import reserve, settings

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

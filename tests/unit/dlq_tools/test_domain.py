from datetime import UTC, datetime, timedelta

import pytest
from dlq_tools.domain import DeadLetter, Refused, State

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


def opened() -> DeadLetter:
    return DeadLetter("dl_1").fail(attempts=3, replay=0, at=NOW)[0]


def replaying() -> DeadLetter:
    after = opened().replay(now=NOW + MINUTE, patience=MINUTE)
    assert isinstance(after, DeadLetter)
    return after


def test_the_first_failure_opens_it() -> None:
    letter, what = DeadLetter("dl_1").fail(attempts=3, replay=0, at=NOW)
    assert (letter.state, letter.attempts, letter.failed_at, what) == (State.OPEN, 3, NOW, "opened")


def test_a_replay_counts_and_waits_for_its_result() -> None:
    assert (replaying().state, replaying().replays) == (State.REPLAYING, 1)


def test_a_replay_that_fails_opens_it_again_with_its_attempts_added() -> None:
    letter, what = replaying().fail(attempts=1, replay=1, at=LATER)
    assert (letter.state, letter.attempts, letter.replays, what) == (State.OPEN, 4, 1, "replay-failed")


def test_a_resend_that_fails_does_not_end_a_replay_that_is_under_way() -> None:
    letter, _ = replaying().fail(attempts=1, replay=0, at=LATER)
    assert letter.state is State.REPLAYING


@pytest.mark.parametrize("verdict", ["ran", "answered-again", "superseded", "tombstoned"])
def test_it_is_resolved_by_proof(verdict: str) -> None:
    assert replaying().prove(verdict=verdict, at=LATER)[0].state is State.RESOLVED


@pytest.mark.parametrize("verdict", ["absorbed", "dropped"])
def test_what_is_no_proof_leaves_it_replaying(verdict: str) -> None:
    assert replaying().prove(verdict=verdict, at=LATER)[0] == replaying()


def test_a_resend_that_succeeds_resolves_an_open_one() -> None:
    assert opened().prove(verdict="ran", at=LATER)[0].state is State.RESOLVED


def test_a_proof_that_arrives_before_its_failure_resolves_it_all_the_same() -> None:
    announced, _ = DeadLetter("dl_1").prove(verdict="ran", at=LATER)
    letter, what = announced.fail(attempts=1, replay=0, at=NOW)
    assert (letter.state, what) == (State.RESOLVED, "failed-before-proof")


def test_an_old_proof_does_not_resolve_a_newer_failure() -> None:
    newer, _ = DeadLetter("dl_1").fail(attempts=1, replay=0, at=LATER)
    assert newer.prove(verdict="ran", at=NOW)[0].state is State.OPEN


def test_a_failure_after_the_proof_opens_it_again() -> None:
    resolved, _ = opened().prove(verdict="ran", at=NOW + MINUTE)
    assert resolved.fail(attempts=1, replay=0, at=LATER)[0].state is State.OPEN


def test_a_discarded_one_opens_again_when_it_fails_again() -> None:
    discarded = opened().discard(now=NOW, patience=MINUTE)
    assert isinstance(discarded, DeadLetter)
    letter, what = discarded.fail(attempts=1, replay=0, at=LATER)
    assert (letter.state, what) == (State.OPEN, "reopened")


def test_a_replay_under_way_is_not_sent_again_before_its_time() -> None:
    letter = replaying()
    assert isinstance(letter.replay(now=NOW + MINUTE + timedelta(seconds=59), patience=MINUTE), Refused)
    again = letter.replay(now=NOW + 2 * MINUTE, patience=MINUTE)
    assert isinstance(again, DeadLetter)
    assert again.replays == 2


def test_the_late_failure_of_an_earlier_replay_does_not_end_the_newer_one() -> None:
    again = replaying().replay(now=LATER, patience=MINUTE)
    assert isinstance(again, DeadLetter)
    assert again.fail(attempts=1, replay=1, at=LATER)[0].state is State.REPLAYING
    assert again.fail(attempts=1, replay=2, at=LATER)[0].state is State.OPEN


@pytest.mark.parametrize("state", [State.RESOLVED, State.DISCARDED, State.PARKED, State.ANNOUNCED])
def test_only_an_open_one_is_replayed(state: State) -> None:
    assert isinstance(DeadLetter("dl_1", state).replay(now=NOW, patience=MINUTE), Refused)


@pytest.mark.parametrize("state", [State.RESOLVED, State.DISCARDED, State.ANNOUNCED])
def test_what_is_at_its_end_is_not_discarded(state: State) -> None:
    assert isinstance(DeadLetter("dl_1", state).discard(now=NOW, patience=MINUTE), Refused)

"""When rows may be taken, by the moments at which things happened. Nothing here waits."""

import pytest

from infra.chassis.backlog import AFTER_START_SECONDS, PAUSED_SECONDS, QUIET_SECONDS, Backlog

START = 1000.0
LATER = START + AFTER_START_SECONDS


def measured(ready: int) -> Backlog:
    backlog = Backlog(START)
    backlog.measured(ready, START)
    # Messages keep coming, so that quiet alone decides nothing.
    backlog.delivered(LATER)
    return backlog


def test_rows_wait_until_somebody_has_asked_how_much_waits() -> None:
    assert not Backlog(START).is_read(LATER, 0)
    assert measured(0).is_read(LATER, 0)


def test_rows_wait_a_moment_after_the_start_for_what_is_on_its_way() -> None:
    assert not measured(0).is_read(LATER - 0.01, 0)


def test_rows_wait_until_as_many_have_been_read_as_waited() -> None:
    backlog = measured(3)

    backlog.read(2)
    assert not backlog.is_read(LATER, 0)

    backlog.read(1)
    assert backlog.is_read(LATER, 0)


def test_what_was_delivered_and_not_handled_when_it_was_measured_counts_once() -> None:
    backlog = measured(0)

    assert not backlog.is_read(LATER, 2)
    backlog.read(2)
    assert backlog.is_read(LATER, 5), "what has come since is no backlog"


def test_a_quiet_queue_is_read_however_many_were_counted() -> None:
    backlog = measured(1_000)

    assert not backlog.is_read(LATER + QUIET_SECONDS - 0.01, 0)
    assert backlog.is_read(LATER + QUIET_SECONDS, 0)


def test_a_queue_with_deliveries_at_hand_is_not_quiet() -> None:
    assert not measured(1_000).is_read(LATER + QUIET_SECONDS, 1)


@pytest.mark.parametrize("seconds", [PAUSED_SECONDS + 0.1, 3600.0])
def test_after_a_pause_of_the_process_rows_wait_until_it_is_measured_anew(seconds: float) -> None:
    backlog = measured(0)
    assert backlog.is_read(LATER, 0)

    backlog.turned_at = LATER
    assert backlog.notice_pause(LATER + seconds)
    assert not backlog.is_read(LATER + seconds, 0)
    assert not backlog.is_read(LATER + seconds + 1, 0)

    backlog.measured(0, LATER + seconds + 1)
    assert backlog.is_read(LATER + seconds + 1 + AFTER_START_SECONDS, 0)


def test_a_pause_is_noticed_once() -> None:
    backlog = measured(0)

    assert backlog.notice_pause(START + PAUSED_SECONDS + 0.1)
    assert not backlog.notice_pause(START + PAUSED_SECONDS + 0.2)


def test_resting_during_an_outage_is_no_pause_but_begins_the_wait_anew() -> None:
    backlog = measured(0)

    backlog.resting(LATER + 5)

    assert not backlog.notice_pause(LATER + 5 + PAUSED_SECONDS)
    assert not backlog.is_read(LATER, 0), "a turn that began before the outage"
    assert not backlog.is_read(LATER + 5 + AFTER_START_SECONDS - 0.01, 0)
    assert backlog.is_read(LATER + 5 + AFTER_START_SECONDS, 0)


def test_while_answers_cannot_arrive_rows_wait() -> None:
    backlog = measured(0)

    backlog.lost()

    assert not backlog.is_read(LATER, 0)
    assert not backlog.connected

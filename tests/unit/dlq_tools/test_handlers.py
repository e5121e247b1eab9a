import random
from datetime import UTC, datetime, timedelta

from dlq_tools.domain import DeadLetter, HistoryEntry, ReplayEnd, State
from dlq_tools.handlers import letter_of, note_proof

from contracts.deadletters.v1 import ReplayHandled, Verdict
from contracts.envelope import Envelope
from infra.chassis.service import Context, Decision

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPLAYING = DeadLetter("dl_1", State.REPLAYING, attempts=3, replays=2, failed_at=NOW, replayed_at=NOW)


def note(verdict: Verdict = "ran", replay: int = 2, letter: DeadLetter = REPLAYING, minutes: int = 1) -> Decision[DeadLetter]:
    event = ReplayHandled(dead_letter_id="dl_1", queue="credit.commands", replay=replay, verdict=verdict)
    assert letter_of(event) == "dl_1"
    at = NOW + timedelta(minutes=minutes)
    envelope = Envelope(id="1", source="/credit", type=event.wire_name, time=at, data={})
    return note_proof(event, letter, Context(at, envelope, lambda: "id", random.random))


def test_a_proof_resolves_it_and_ends_its_replays() -> None:
    decision = note()
    entry, end = decision.facts
    assert decision.state.state is State.RESOLVED
    assert isinstance(entry, HistoryEntry)
    assert (entry.what, entry.actor, entry.detail["verdict"]) == ("resolved", "service:credit", "ran")
    assert end == ReplayEnd("dl_1", 2, "resolved")


def test_an_absorbed_replay_still_waits() -> None:
    decision = note("absorbed")
    assert decision.state is REPLAYING
    assert [type(fact) for fact in decision.facts] == [HistoryEntry]


def test_a_resend_that_succeeded_ends_the_replay_under_way() -> None:
    assert note(replay=0).facts[1] == ReplayEnd("dl_1", 2, "resolved")


def test_a_resend_that_succeeded_before_the_failure_ends_nothing() -> None:
    decision = note(replay=0, minutes=-1)
    assert decision.state.state is State.REPLAYING
    assert len(decision.facts) == 1

"""What the desk does when a consumer says that it dealt with a replay, or with a re-send of what lies here."""

from contracts.deadletters.v1 import ReplayHandled
from dlq_tools.domain import PROOFS, DeadLetter, HistoryEntry, ReplayEnd
from infra.chassis.service import Context, Decision


def letter_of(event: ReplayHandled) -> str:
    return event.dead_letter_id


def note_proof(event: ReplayHandled, letter: DeadLetter, context: Context) -> Decision[DeadLetter]:
    """Resolves on proof. Replay 0 is a re-send by its sender, and ends whatever replay is under way as well."""
    at = context.envelope.time
    after, what = letter.prove(verdict=event.verdict, at=at)
    entry = HistoryEntry(
        dead_letter_id=letter.id,
        at=at,
        what=what,
        actor=f"service:{event.queue.partition('.')[0]}",
        detail={
            "verdict": event.verdict,
            "replay": event.replay,
            "revision": event.revision,
            "queue": event.queue,
        },
    )
    stale = event.replay == 0 and what == "proved-before-failure"
    if event.verdict not in PROOFS or stale:
        return Decision(after, facts=(entry,))
    return Decision(after, facts=(entry, ReplayEnd(letter.id, event.replay or after.replays, "resolved")))

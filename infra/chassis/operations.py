"""Exactly-once effect per operation: what a command may do, given what became of its operation so far.

An operation is one step of one saga (`saga:step`); its do and its undo are two directions of the same row.

    (no row) ──do──> claimed ──decided──> done ──undo──> undone
                       │  └──calls──> pending ──results──> done | refused
                       │                 └──undo noted, answered once the result has been taken back
                       └──undo first──> tombstone      (the late do is history and has no effect)

Why this is right. The row is locked in a statement of its own after all rows of the batch have been inserted, so two replicas
that hold the do and the undo of one step wait for each other, and the second sees the first's outcome. A command whose operation
has an outcome is answered again and never swallowed: a lost answer would otherwise stop its saga for ever. The outcome, the
answer's outbox row and the effect are one transaction, so a crash anywhere leaves either all of them or none. A revision counts
only while there is no outcome; do and undo have a revision each, so that an undo is never superseded by its do's edit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from infra.chassis.errors import Permanent
from infra.chassis.service import Direction


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was given: its wire name and the bytes of its payload, version and all."""

    type: str
    data: bytes


@dataclass(slots=True)
class Operation:
    """The row while a batch works on it; `changed` says that it has to be written back."""

    id: str
    correlation_id: str
    state: str = "claimed"
    do_type: str | None = None
    do_revision: int = 0
    undo_revision: int = 0
    do_answer: StoredAnswer | None = None
    undo_answer: StoredAnswer | None = None
    do_message_id: str | None = None
    undo_message_id: str | None = None
    pending_do: bytes | None = None
    pending_undo: bytes | None = None
    dead_do: bool = False
    dead_undo: bool = False
    changed: bool = False

    def answer(self, direction: Direction) -> StoredAnswer | None:
        return self.undo_answer if direction == "undo" else self.do_answer

    def await_calls(self, direction: Direction, stored: bytes) -> None:
        """The command in this direction waits for its calls, and is kept as it came."""
        self.changed = True
        if direction == "undo":
            self.pending_undo = stored
        else:
            self.pending_do, self.state = stored, "pending"

    def drop_pending(self, direction: Direction) -> None:
        """The command in this direction waits no more; without an outcome, the next one may run."""
        self.changed = True
        if direction == "undo":
            self.pending_undo = None
        else:
            self.pending_do, self.state = None, "claimed"

    def bury(self, direction: Direction, *, dead: bool) -> bool:
        """Notes whether a command in this direction is a dead letter, and returns whether one was before."""
        if direction == "undo":
            was, self.dead_undo = self.dead_undo, dead
        else:
            was, self.dead_do = self.dead_do, dead
        return was


class Verdict(StrEnum):
    """What is done with a command. The values are the words of `deadletters.replay-handled.v1`."""

    RUN = "ran"
    ANSWER_AGAIN = "answered-again"
    ABSORB = "absorbed"
    NOTE_UNDO = "noted"
    SUPERSEDED = "superseded"
    TOMBSTONED = "tombstoned"


def judge(operation: Operation, direction: Direction, do_type: str, revision: int) -> Verdict:
    """Decides about one command from the locked row. `do_type` is the unversioned name of the do in both directions.

    Raises Permanent for a do of another type under a known operation: two steps would share one outcome.
    """
    if operation.do_type is not None and operation.do_type != do_type:
        raise Permanent(
            f"operation {operation.id} belongs to {operation.do_type}, not to {do_type}; give the step an id of its own"
        )
    return _judge_undo(operation, revision) if direction == "undo" else _judge_do(operation, revision)


def _judge_do(operation: Operation, revision: int) -> Verdict:
    if operation.do_answer is not None:
        return Verdict.ANSWER_AGAIN
    if operation.state in ("tombstone", "undone"):
        return Verdict.TOMBSTONED
    if operation.pending_do is not None:
        return Verdict.ABSORB
    if operation.pending_undo is not None:
        # Its undo is being made outside and cannot be recalled; a do begun now would outlive it.
        return Verdict.TOMBSTONED
    if revision < operation.do_revision:
        return Verdict.SUPERSEDED
    return Verdict.RUN


def _judge_undo(operation: Operation, revision: int) -> Verdict:
    if operation.undo_answer is not None:
        return Verdict.ANSWER_AGAIN
    if operation.pending_undo is not None:
        return Verdict.ABSORB
    if operation.pending_do is not None:
        return Verdict.NOTE_UNDO
    if revision < operation.undo_revision:
        return Verdict.SUPERSEDED
    return Verdict.RUN


def start(operation: Operation, direction: Direction, do_type: str, revision: int, message_id: str) -> None:
    """Records who is at work, before the decision: a decision that fails keeps the row and its revision."""
    operation.do_type = do_type
    operation.changed = True
    if direction == "undo":
        operation.undo_revision, operation.undo_message_id = revision, message_id
    else:
        operation.do_revision, operation.do_message_id = revision, message_id


def finish(operation: Operation, direction: Direction, answer: StoredAnswer, outcome: str) -> None:
    """Records the outcome. `outcome` is the answer's name in the registry: `done`, `refused` or one of the command's own."""
    operation.changed = True
    if direction == "undo":
        operation.undo_answer, operation.pending_undo = answer, None
        if outcome == "done":
            operation.state = "undone" if operation.do_answer is not None else "tombstone"
        return
    operation.do_answer, operation.pending_do = answer, None
    operation.state = "done" if outcome == "done" else "refused"


def outcome_of(answers: Mapping[str, type], answer_type: type) -> str:
    """The name under which the registry lists this answer. Raises Permanent for an answer that the command cannot give."""
    for name, model in answers.items():
        if model is answer_type:
            return name
    raise Permanent(f"{answer_type.__name__} is no answer to this command; the registry lists {sorted(answers)}")

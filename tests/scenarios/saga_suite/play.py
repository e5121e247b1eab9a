"""A process played against owners that keep the promises of the chassis, with every invariant checked at every input."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.definition import load_all
from orchestrator.engine import Advance, Answer, Cancel, Input, Limits, Outgoing, Started, TimerDue, advance, waits_for
from orchestrator.instance import AT_REST, FINISHED, Instance, State
from orchestrator.patience import Retry
from orchestrator.steps.step import REFUSED, Step
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite import kinds
from tests.scenarios.saga_suite.samples import ORDER_ID, SAMPLES

# A workflow gets the whole suite by standing in one of these folders, a kind of step by its row.
WORKFLOWS: tuple[Workflow, ...] = load_all() + load_all(Path(__file__).parent / "workflows") + kinds.workflows()
LIMITS = Limits(undo=Retry(attempts=3), alert_every=timedelta(minutes=15))
SAGA = "018f0000-0000-7000-8000-000000000001"
INPUTS_MAX = 400


@dataclass
class Owner:
    """What the chassis of a step's owner remembers of the operation: its do and its undo, each answered once."""

    do: str | None = None
    undo: str | None = None
    tombstone: bool = False

    @property
    def holds(self) -> bool:
        return self.do is not None and self.do != REFUSED and self.undo is None


@dataclass
class Play:
    """One process. `pending` are the commands that no owner has read yet."""

    workflow: Workflow
    instance: Instance = field(default_factory=lambda: Instance(SAGA))
    now: datetime = datetime(2026, 11, 21, 10, tzinfo=UTC)
    pending: list[Outgoing] = field(default_factory=list)
    sent: list[Outgoing] = field(default_factory=list)
    events: list[Outgoing] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    owners: dict[str, Owner] = field(default_factory=dict)
    inputs: int = 0
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_id(self) -> str:
        return f"m{next(self._ids)}"

    def feed(self, event: Input) -> Advance:
        """Gives one input to the engine, as the loop would: the instance comes from its stored form, and goes back to it."""
        self.inputs += 1
        assert self.inputs < INPUTS_MAX, f"no end in sight: {self.kinds[-20:]}"
        before = self.instance
        stored = Instance.from_bytes(before.to_bytes())
        assert stored == before
        made = advance(self.workflow, stored, event, now=self.now, new_id=self.new_id, random=lambda: 0.5, limits=LIMITS)
        if not made.accepted:
            assert made.instance is stored
            assert not made.messages
            assert [line.kind for line in made.history] == ["ignored"]
        self._check(before, event, made)
        self.instance = made.instance
        self.kinds += [line.kind for line in made.history]
        for message in made.messages:
            (self.events if message.direction == "event" else self.pending).append(message)
            self.sent.append(message)
        if self._only_time_helps():
            self.inputs -= 1
            self.tick()
        return made

    def _only_time_helps(self) -> bool:
        """Whether no owner has anything to read, and what the saga waits for is no answer: its time comes by itself."""
        waits = [wait for wait in waits_for(self.workflow, self.instance) if wait.direction == "do"]
        return bool(waits) and not self.pending and not any(wait.answers for wait in waits)

    def _check(self, before: Instance, event: Input, made: Advance) -> None:
        after = made.instance
        assert (after.next_timer_at is None) == (after.state in AT_REST)
        # After a pause, answers are taken when other moments have passed already; only a timer must move on.
        if after.next_timer_at is not None and made.accepted and isinstance(event, TimerDue):
            assert after.next_timer_at > self.now
        if before.state in FINISHED and before.workflow:
            assert not made.accepted
        if before.state in (State.COMPENSATING, State.STUCK):
            assert after.state is not State.RUNNING
            assert all(message.direction != "do" for message in made.messages)
        for message in made.messages:
            if message.direction == "undo":
                followers = self.step_of(message).dependents & {entry.step for entry in after.plan}
                assert all(after.steps[name].state == "undone" for name in followers), "newest first"
        for step, record in after.steps.items():
            # Only a step that was given up without an answer can be answered late.
            assert not record.late or before.steps[step].late or before.steps[step].answered_at is None
        ids = [message.message_id for message in (*self.sent, *made.messages)]
        assert len(ids) == len(set(ids))
        pivot = self.workflow.pivot
        if pivot is not None and before.steps.get(pivot.id) and before.steps[pivot.id].state == "done":
            assert all(message.direction != "undo" for message in made.messages)

    def start(self) -> Advance:
        payload = SAMPLES[self.workflow.start_on]
        return self.feed(Started(payload, self.new_id(), subject=ORDER_ID, partner="acme", actor="partner:acme"))

    def tick(self) -> Advance:
        """Lets the time come that the process waits for, and tells it."""
        assert self.instance.next_timer_at is not None
        self.now = self.instance.next_timer_at
        return self.feed(TimerDue())

    def cancel(self) -> Advance:
        return self.feed(Cancel("the customer changed their mind", "operator:mia"))

    def read(self, message: Outgoing, outcome: str = "done") -> Answer | None:
        """The owner reads a command: what it answers, or None for a do that comes after its tombstone."""
        assert message.operation_id is not None
        step = self.step_of(message)
        owner = self.owners.setdefault(step.id, Owner())
        if message.direction == "undo":
            assert step.undo is not None
            owner.tombstone = owner.do is None
            owner.undo = owner.undo or outcome
            return self._answer(message, wire_name_for(step.undo.answers, owner.undo))
        if owner.tombstone:
            return None
        owner.do = owner.do or outcome
        return self._answer(message, wire_name_for(step.answers, owner.do))

    def _answer(self, message: Outgoing, wire_name: str) -> Answer:
        assert message.operation_id is not None
        return Answer(message.operation_id, wire_name, SAMPLES[wire_name], self.new_id(), 3, 1)

    def step_of(self, message: Outgoing) -> Step:
        assert message.operation_id is not None
        return self.workflow.by_id[message.operation_id.removeprefix(f"{SAGA}:")]

    def next_do(self, step: str) -> Outgoing | None:
        return next((m for m in self.pending if m.direction == "do" and self.step_of(m).id == step), None)

    def run(self, *, do: dict[str, str | None] | None = None, undo: dict[str, str | None] | None = None) -> "Play":
        """Plays to the end, or until only a person can help. An outcome of None is an owner who never reads the command."""
        if self.instance.state is State.ABSENT:
            self.start()
        while not self.instance.finished and not self.only_a_person_helps():
            if self.pending:
                message = self.pending.pop(0)
                script = do if message.direction == "do" else undo
                outcome = (script or {}).get(self.step_of(message).id, "done")
                answer = self.read(message, outcome) if outcome is not None else None
                if answer is not None:
                    self.feed(answer)
            else:
                self.tick()
        return self

    def only_a_person_helps(self) -> bool:
        stuck = self.instance.stuck
        waiting = any(entry.due_at is not None for entry in self.instance.plan)
        return stuck is not None and not self.pending and (stuck.frozen or not waiting)

    def drain(self) -> "Play":
        """The owners read what is still in their queues, as they will, sooner or later."""
        while self.pending:
            answer = self.read(self.pending.pop(0))
            if answer is not None:
                self.feed(answer)
        return self

    def check_end(self, state: State) -> None:
        """The process ended in this way, said so once, and holds nothing unless it is completed."""
        assert self.instance.state is state, (self.instance.state, self.kinds)
        assert [event.wire_name for event in self.events if event.wire_name in self._ends()] == [
            self.workflow.ends[state.value].wire_name
        ]
        assert self.kinds.count("finished") == 1
        holding = {step for step, owner in self.owners.items() if owner.holds and self.workflow.by_id[step].undo}
        if state is State.COMPLETED:
            assert all(message.direction != "undo" for message in self.sent)
        else:
            assert not holding

    def _ends(self) -> set[str]:
        return {template.wire_name for template in self.workflow.ends.values()}

    def undone(self) -> list[str]:
        """The steps whose undo was sent, in order, each once."""
        steps = [self.step_of(message).id for message in self.sent if message.direction == "undo"]
        return list(dict.fromkeys(steps))


def wire_name_for(answers: Mapping[str, str], outcome: str) -> str:
    """The first answer with this outcome; owners that cannot refuse answer that it is done."""
    found = [wire_name for wire_name, name in answers.items() if name == outcome]
    return found[0] if found else next(wire_name for wire_name, name in answers.items() if name == "done")


def can(answers: object, outcome: str) -> bool:
    return isinstance(answers, dict) and outcome in answers.values()

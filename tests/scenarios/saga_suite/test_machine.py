"""Random inputs in random order on every workflow: whatever happens, the invariants hold and there is a way to an end."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.engine import Answer, DeadLettered, Outgoing, Started, TimerDue, freeze
from orchestrator.instance import AT_REST, FINISHED, State, StepState, UndoState
from orchestrator.steps.step import REFUSED
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite.play import WORKFLOWS, Play
from tests.scenarios.saga_suite.samples import SAMPLES

IN_FLIGHT = (StepState.SENT, StepState.BACKOFF)


class Machine(RuleBasedStateMachine):
    """Owners read, lose, delay, repeat and refuse; clocks run; people cancel; strangers interfere."""

    workflow: Workflow

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(self.workflow)
        self.answers: list[Answer] = []

    @initialize()
    def start(self) -> None:
        self.play.start()

    @precondition(lambda self: self.play.pending)
    @rule(position=st.integers(0, 20), refuse=st.booleans(), lose=st.booleans())
    def owner_reads(self, position: int, refuse: bool, lose: bool) -> None:
        message = self.play.pending.pop(position % len(self.play.pending))
        answer = self.play.read(message, REFUSED if refuse and _refusable(self.play, message) else "done")
        if answer is not None and not lose:
            self.answers.append(answer)

    @precondition(lambda self: self.play.pending)
    @rule(position=st.integers(0, 20))
    def command_is_lost(self, position: int) -> None:
        self.play.pending.pop(position % len(self.play.pending))

    @precondition(lambda self: self.answers)
    @rule(position=st.integers(0, 20), keep=st.booleans())
    def answer_arrives(self, position: int, keep: bool) -> None:
        position %= len(self.answers)
        self.play.feed(self.answers[position] if keep else self.answers.pop(position))

    @precondition(lambda self: self.play.instance.next_timer_at)
    @rule()
    def time_passes(self) -> None:
        made = self.play.tick()
        assert made.accepted

    @rule()
    def timer_comes_early(self) -> None:
        if self.play.instance.next_timer_at is None or self.play.instance.next_timer_at > self.play.now:
            assert not self.play.feed(TimerDue()).accepted

    @rule()
    def somebody_cancels(self) -> None:
        self.play.cancel()

    @rule(
        wire_name=st.sampled_from(sorted(SAMPLES)),
        step=st.sampled_from(["price", "ship", "send", "first", "nobody"]),
    )
    def a_stranger_answers(self, wire_name: str, step: str) -> None:
        made = self.play.feed(Answer(f"other-saga:{step}", wire_name, SAMPLES[wire_name], self.play.new_id()))
        assert not made.accepted

    @precondition(lambda self: self.play.sent)
    @rule(position=st.integers(0, 50))
    def a_command_dies(self, position: int) -> None:
        message = self.play.sent[position % len(self.play.sent)]
        if message.operation_id is not None:
            self.play.feed(DeadLettered(message.operation_id, message.wire_name, "dl-1", "boom", self.play.new_id()))

    @rule()
    def start_is_repeated(self) -> None:
        assert not self.play.feed(Started(SAMPLES[self.workflow.start_on], self.play.new_id())).accepted

    @invariant()
    def waits_for_something_or_rests(self) -> None:
        instance = self.play.instance
        if instance.state is State.RUNNING:
            assert any(record.state in IN_FLIGHT for record in instance.steps.values())
        if instance.state is State.COMPENSATING:
            assert any(entry.state in (UndoState.SENT, UndoState.BACKOFF) for entry in instance.plan)
        if instance.state is State.STUCK:
            assert instance.stuck is not None
            assert any(entry.state is UndoState.FAILED for entry in instance.plan)

    @invariant()
    def announces_its_end_once(self) -> None:
        ends = [event for event in self.play.events if event.wire_name in self.play._ends()]
        assert len(ends) == (1 if self.play.instance.finished else 0)

    @invariant()
    def holds_nothing_that_it_gave_up(self) -> None:
        instance = self.play.instance
        if instance.state in FINISHED and instance.state is not State.COMPLETED:
            self.play.drain()
            for step, owner in self.play.owners.items():
                assert not owner.holds or self.workflow.by_id[step].undo is None, step
        if instance.state is State.COMPLETED:
            assert not instance.plan

    def teardown(self) -> None:
        """However it went so far: honest owners bring it to its end, or it is stuck on an undo that was refused."""
        self.play.inputs = 0
        if self.play.instance.state in AT_REST:
            return
        self.answers.clear()
        self.play.run()
        if self.play.instance.state is State.STUCK:
            failed = [entry for entry in self.play.instance.plan if entry.state is UndoState.FAILED]
            assert failed
            self.play.instance = freeze(self.play.instance, "a person looks at it", now=self.play.now).instance
            assert self.play.tick().accepted
            assert not self.play.cancel().accepted


def _refusable(play: Play, message: Outgoing) -> bool:
    step = play.step_of(message)
    answers = step.answers if message.direction == "do" else (step.undo.answers if step.undo else {})
    return REFUSED in answers.values()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: f"{workflow.name}-v{workflow.version}")
def test_whatever_happens_the_invariants_hold(workflow: Workflow) -> None:
    machine = type(f"Machine_{workflow.name}", (Machine,), {"workflow": workflow})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )

"""What every workflow owes, for each of their steps. A new workflow gets all of it by being listed."""

from dataclasses import replace

import pytest

from contracts.registry import REGISTRY
from orchestrator.engine import Answer, DeadLettered
from orchestrator.instance import State
from orchestrator.steps.step import REFUSED, Step
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite.play import LIMITS, WORKFLOWS, Play, can
from tests.scenarios.saga_suite.samples import SAMPLES

EVERY = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: f"{workflow.name}-v{workflow.version}")


def each(*conditions: object) -> pytest.MarkDecorator:
    """Every step of every workflow for which all conditions hold."""
    cases = [
        pytest.param(workflow, step, id=f"{workflow.name}-v{workflow.version}-{step.id}")
        for workflow in WORKFLOWS
        for step in workflow.steps
        if step.answers and all(condition(step) for condition in conditions)  # type: ignore[operator]
    ]
    return pytest.mark.parametrize(("workflow", "step"), cases)


def refusable(step: Step) -> bool:
    return can(step.answers, REFUSED)


def before_pivot(step: Step) -> bool:
    return not step.beyond_pivot


def undoable(step: Step) -> bool:
    return step.undo is not None and not step.beyond_pivot


def unconditional(step: Step) -> bool:
    return step.when is None


def newest_first(workflow: Workflow, undone: list[str]) -> bool:
    return all(
        undone.index(later) < undone.index(earlier)
        for earlier in undone
        for later in undone
        if later in workflow.by_id[earlier].dependents
    )


@EVERY
def test_a_sample_exists_of_each_message_that_it_hears(workflow: Workflow) -> None:
    heard = {workflow.start_on}
    for step in workflow.steps:
        heard |= set(step.answers) | (set(step.undo.answers) if step.undo else set())
    assert heard <= set(SAMPLES), "add samples to tests/scenarios/saga_suite/samples.py"
    assert heard <= set(REGISTRY)


@EVERY
def test_it_works(workflow: Workflow) -> None:
    play = Play(workflow).run()

    play.check_end(State.COMPLETED)
    assert [play.step_of(m).id for m in play.sent if m.direction == "do"] == list(
        dict.fromkeys(play.step_of(m).id for m in play.sent if m.direction == "do")
    )


@each(refusable, before_pivot)
def test_a_refusal_undoes_what_was_done_newest_first(workflow: Workflow, step: Step) -> None:
    play = Play(workflow).run(do={step.id: REFUSED}).drain()

    play.check_end(State.REFUSED)
    assert step.id not in play.undone()
    assert newest_first(workflow, play.undone())
    assert play.instance.reasons


@each(before_pivot)
def test_a_step_that_never_answers_is_repeated_then_undone_as_well(workflow: Workflow, step: Step) -> None:
    play = Play(workflow).run(do={step.id: None})

    play.check_end(State.FAILED)
    attempts = [m for m in play.sent if m.direction == "do" and play.step_of(m).id == step.id]
    assert 1 <= len(attempts) <= (step.retry.attempts if step.retry else 1)
    assert len({m.operation_id for m in attempts}) == 1
    assert len({m.message.model_dump_json() for m in attempts}) == 1
    assert (step.id in play.undone()) == (step.undo is not None)
    assert newest_first(workflow, play.undone())
    assert [reason.code for reason in play.instance.reasons] == ["step-timed-out"]


@each(lambda step: step.beyond_pivot)
def test_a_step_beyond_the_pivot_is_repeated_until_it_is_done(workflow: Workflow, step: Step) -> None:
    play = Play(workflow)
    play.start()
    for _ in range(60):
        if play.pending and play.step_of(play.pending[0]).id != step.id:
            answer = play.read(play.pending.pop(0))
            assert answer is not None
            play.feed(answer)
        else:
            play.pending.clear()
            play.tick()
    assert play.instance.state is State.RUNNING

    play.run()

    play.check_end(State.COMPLETED)


@each(undoable, lambda step: step.undo is not None and can(step.undo.answers, REFUSED))
def test_a_refused_undo_makes_it_stuck_at_once_and_its_late_answer_unsticks_it(workflow: Workflow, step: Step) -> None:
    play = Play(workflow).run(do={step.id: None}, undo={step.id: REFUSED})

    assert play.instance.state is State.STUCK
    assert play.instance.stuck is not None
    assert step.undo is not None
    assert play.instance.stuck.owner == step.undo.owner
    assert play.instance.steps[step.id].state == "undo-failed"

    done = next(name for name, outcome in step.undo.answers.items() if outcome == "done")
    play.feed(Answer(f"{play.instance.id}:{step.id}", done, SAMPLES[done], play.new_id()))
    play.run()

    play.owners[step.id].undo = "done"
    play.check_end(State.FAILED)


@each(undoable)
def test_an_undo_without_answer_is_repeated_then_stuck_with_an_owner_and_an_alarm(workflow: Workflow, step: Step) -> None:
    play = Play(workflow).run(do={step.id: None}, undo={step.id: None})

    assert play.instance.state is State.STUCK
    undos = [m for m in play.sent if m.direction == "undo" and play.step_of(m).id == step.id]
    assert len(undos) == LIMITS.undo.attempts
    assert len({m.operation_id for m in undos}) == 1
    for _ in range(3):
        play.tick()
    assert play.kinds.count("alert") == 3
    assert play.instance.state is State.STUCK
    assert not any(event.wire_name in {t.wire_name for t in workflow.ends.values()} for event in play.events)

    last = undos[-1]
    answer = play.read(last)
    assert answer is not None
    play.feed(answer)
    play.run()

    play.check_end(State.FAILED)


@EVERY
def test_every_answer_may_come_twice(workflow: Workflow) -> None:
    play = Play(workflow)
    play.start()
    while not play.instance.finished:
        answer = play.read(play.pending.pop(0))
        assert answer is not None
        play.feed(answer)
        again = play.feed(replace(answer, message_id=play.new_id()))
        assert not again.accepted

    play.check_end(State.COMPLETED)


@EVERY
def test_answers_may_come_in_every_order(workflow: Workflow) -> None:
    def orders(taken: tuple[int, ...]) -> int:
        play = Play(workflow)
        play.start()
        for position in taken:
            answer = play.read(play.pending.pop(position))
            assert answer is not None
            play.feed(answer)
        if play.instance.finished:
            play.check_end(State.COMPLETED)
            return 1
        return sum(orders((*taken, position)) for position in range(len(play.pending)))

    assert orders(()) >= 1


@each(before_pivot)
def test_a_late_success_is_shown_and_taken_back(workflow: Workflow, step: Step) -> None:
    play = Play(workflow)
    play.run(do={step.id: None}, undo=dict.fromkeys((item.id for item in workflow.steps), None))
    done = next(name for name, outcome in step.answers.items() if outcome == "done")

    late = play.feed(Answer(f"{play.instance.id}:{step.id}", done, SAMPLES[done], play.new_id()))

    if play.instance.finished:
        assert not late.accepted
        return
    assert late.accepted
    assert play.instance.steps[step.id].late
    assert play.instance.state in (State.COMPENSATING, State.STUCK)
    for entry in play.instance.plan:
        if entry.state == "failed":
            message = next(m for m in reversed(play.sent) if m.direction == "undo" and play.step_of(m).id == entry.step)
            answer = play.read(message)
            assert answer is not None
            play.feed(answer)
    play.run()
    play.check_end(State.FAILED)


@EVERY
def test_it_can_be_cancelled_at_every_moment_before_its_pivot(workflow: Workflow) -> None:
    inputs = Play(workflow).run().inputs
    ends = []
    for moment in range(inputs + 1):
        play = Play(workflow)
        if moment > 0:
            play.start()
        for _ in range(moment - 1):
            answer = play.read(play.pending.pop(0))
            assert answer is not None
            play.feed(answer)
        if moment == 0:
            continue
        before = play.instance
        accepted = play.cancel().accepted
        play.run().drain()

        pivot = workflow.pivot
        past = before.finished or (pivot is not None and before.steps[pivot.id].state in ("done", "skipped"))
        assert accepted is not past
        # While the pivot is in flight its answer decides, and here it succeeds.
        deciding = pivot is not None and before.steps[pivot.id].state == "sent"
        play.check_end(State.COMPLETED if past or deciding else State.CANCELLED)
        if deciding:
            assert play.instance.cancellation is not None
            assert play.instance.cancellation.too_late
        ends.append(play.instance.state)
    assert State.CANCELLED in ends
    assert State.COMPLETED in ends


@each(lambda step: step.pivot)
@pytest.mark.parametrize("outcome", [REFUSED, None], ids=["refused", "timed-out"])
def test_a_cancellation_while_the_pivot_is_in_flight_unwinds_unless_it_is_done(
    workflow: Workflow, step: Step, outcome: str | None
) -> None:
    play = Play(workflow)
    play.start()
    while play.next_do(step.id) is None:
        answer = play.read(play.pending.pop(0))
        assert answer is not None
        play.feed(answer)
    assert play.cancel().accepted
    assert play.instance.state is State.RUNNING

    play.run(do={step.id: outcome})

    play.check_end(State.CANCELLED)
    assert len([m for m in play.sent if m.direction == "do" and play.step_of(m).id == step.id]) == 1
    assert (step.id in play.undone()) == (outcome is None)


@each(before_pivot, unconditional)
def test_a_dead_letter_is_shown_and_the_step_goes_on_by_its_own_rule(workflow: Workflow, step: Step) -> None:
    play = Play(workflow)
    play.start()
    while play.next_do(step.id) is None:
        answer = play.read(play.pending.pop(0))
        assert answer is not None
        play.feed(answer)
    message = play.next_do(step.id)
    assert message is not None
    assert message.operation_id is not None
    timer = play.instance.next_timer_at

    play.feed(DeadLettered(message.operation_id, message.wire_name, "dl-1", "it broke", play.new_id()))

    assert play.instance.steps[step.id].dead_letter == "dl-1"
    assert play.instance.next_timer_at == timer
    play.run().check_end(State.COMPLETED)


@EVERY
def test_the_same_input_on_the_stored_process_gives_the_same_again(workflow: Workflow) -> None:
    first, second = Play(workflow).run(), Play(workflow).run()

    assert first.instance == second.instance
    assert first.kinds == second.kinds
    assert [m.message_id for m in first.sent] == [m.message_id for m in second.sent]

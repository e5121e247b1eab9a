"""Decisions of the engine that the shared suite does not reach: backoff, budgets, expressions that fail, freezing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contracts.registry import REGISTRY
from orchestrator.definition import load_all
from orchestrator.engine import Answer, Cancel, Started, cancel_before_start, cancellable, freeze, waits_for
from orchestrator.instance import Instance, State, StepState
from orchestrator.names import EvaluationError, Names
from orchestrator.patience import Retry
from orchestrator.template import Template
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite.play import SAGA, WORKFLOWS, Play
from tests.scenarios.saga_suite.samples import SAMPLES

FULFIL = load_all()[0]
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
BRANCHING = next(workflow for workflow in WORKFLOWS if workflow.name == "branching")


class Failing:
    """An expression that cannot be computed."""

    text = "price.nothing"
    type_name = "DYN"

    def evaluate(self, names: Names) -> None:
        raise EvaluationError("`price.nothing` cannot be computed")


def with_failing(workflow: Workflow, step_id: str, part: str) -> Workflow:
    step = workflow.by_id[step_id]
    broken = Template(step.template.model, (("order_id", Failing()),))
    if part == "with":
        step = replace(step, template=broken)
    elif part == "when":
        step = replace(step, when=Failing())
    else:
        assert step.undo is not None
        step = replace(step, undo=replace(step.undo, template=broken))
    return replace(workflow, steps=tuple(step if one.id == step_id else one for one in workflow.steps))


def answer(play: Play, step: str, wire_name: str, **data: object) -> None:
    play.feed(Answer(f"{SAGA}:{step}", wire_name, {**SAMPLES[wire_name], **data}, play.new_id()))  # type: ignore[dict-item]


def test_steps_without_dependence_start_together() -> None:
    play = Play(FULFIL)

    made = play.start()

    assert [message.wire_name for message in made.messages] == [
        "pricing.price-order.v1",
        "inventory.reserve-stock.v1",
        "compliance.screen-parties.v1",
    ]
    assert {message.operation_id for message in made.messages} == {
        f"{SAGA}:{s}" for s in ("price", "reserve-stock", "screen-buyer")
    }
    assert made.next_timer_at == play.now + timedelta(seconds=30)


def test_a_command_is_useless_after_the_patience_of_its_step() -> None:
    play = Play(FULFIL)
    play.start()

    # Five attempts of 30 s would take longer than the budget of three minutes and the last attempt's own time.
    assert play.pending[0].due_by == play.now + timedelta(minutes=3, seconds=30) or play.pending[0].due_by == (
        play.now + FULFIL.by_id["price"].patience
    )


def test_a_repetition_waits_longer_each_time_and_not_beyond_its_budget() -> None:
    retry = Retry(attempts=4, first=timedelta(seconds=1), factor=3, most=timedelta(seconds=5))

    assert [retry.delay(number, 1.0).total_seconds() for number in (1, 2, 3, 500)] == [1, 3, 5, 5]
    assert retry.delay(3, 0.5).total_seconds() == 2.5
    assert retry.delay(1, 0.0) > timedelta()
    assert retry.patience(timedelta(seconds=10)) == timedelta(seconds=4 * 10 + 1 + 3 + 5)
    assert replace(retry, budget=timedelta(seconds=20)).patience(timedelta(seconds=10)) == timedelta(seconds=30)


def test_a_budget_ends_the_repetitions_before_the_attempts_do() -> None:
    play = Play(FULFIL)
    play.run(do={"reserve-stock": None})

    attempts = [m for m in play.sent if m.wire_name == "inventory.reserve-stock.v1"]
    # 30 s a time within three minutes; the fifth still begins within them.
    assert len(attempts) == 5
    short = replace(FULFIL.by_id["reserve-stock"], retry=Retry(attempts=5, budget=timedelta(seconds=40)))
    hurried = replace(FULFIL, steps=tuple(short if step.id == short.id else step for step in FULFIL.steps))
    play = Play(hurried).run(do={"reserve-stock": None})
    assert len([m for m in play.sent if m.wire_name == "inventory.reserve-stock.v1"]) == 2
    play.check_end(State.FAILED)


def test_an_answer_to_an_earlier_attempt_counts_while_the_next_one_waits() -> None:
    play = Play(FULFIL)
    play.start()
    play.tick()
    assert play.instance.steps["price"].state is StepState.BACKOFF

    play.feed(Answer(f"{SAGA}:price", "pricing.order-priced.v1", SAMPLES["pricing.order-priced.v1"], "late-1"))

    assert play.instance.steps["price"].state is StepState.DONE
    assert play.instance.steps["price"].attempts == 1


def test_after_a_pause_answers_are_taken_before_the_timers_that_fell_due_meanwhile() -> None:
    play = Play(FULFIL)
    play.start()
    play.now += timedelta(minutes=10)

    for step, wire_name in (
        ("screen-buyer", "compliance.parties-cleared.v1"),
        ("reserve-stock", "inventory.stock-reserved.v1"),
        ("price", "pricing.order-priced.v1"),
    ):
        answer(play, step, wire_name)

    done = {name for name, record in play.instance.steps.items() if record.state is StepState.DONE}
    assert done == {"screen-buyer", "reserve-stock", "price"}
    assert play.instance.state is State.RUNNING


def test_the_reasons_of_a_refusal_reach_the_end() -> None:
    play = Play(FULFIL).run(do={"screen-buyer": "refused"}).drain()

    end = play.events[-1].message.model_dump(mode="json")
    assert end["reasons"] == [{"code": "denied-party", "detail": "the sample says denied-party"}]


def test_a_refusal_without_reasons_is_named_after_its_message() -> None:
    play = Play(FULFIL)
    play.start()
    answer(play, "reserve-stock", "inventory.stock-short.v1", reasons=[])

    assert play.instance.reasons[0].code == "stock-short"


def test_a_reason_that_no_database_takes_is_told_without_its_nul() -> None:
    play = Play(FULFIL)
    play.start()
    answer(play, "reserve-stock", "inventory.stock-short.v1", reasons=[{"code": "short", "detail": "a\x00b"}])
    play.run()

    assert [reason["detail"] for reason in play.events[-1].message.model_dump()["reasons"]] == ["a\ufffdb"]


def test_a_resemblance_counts_as_refused_in_version_one() -> None:
    play = Play(FULFIL)
    play.start()
    answer(play, "screen-buyer", "compliance.review-needed.v1")

    assert play.instance.state is State.COMPENSATING
    assert play.instance.ending is State.REFUSED


def test_a_named_outcome_is_a_branch_and_a_false_condition_skips() -> None:
    play = Play(BRANCHING)
    play.start()
    answer(play, "screen", "compliance.review-needed.v1")

    assert play.instance.steps["screen"].outcome == "review"
    assert play.instance.steps["hold-stock"].state is StepState.SKIPPED
    play.run().check_end(State.COMPLETED)
    assert play.events[-1].message.model_dump()["allocations"] == ()


def test_the_price_is_told_with_a_refusal_where_it_is_known_and_left_out_where_it_is_not() -> None:
    known = Play(FULFIL).run(do={"reserve-credit": "refused"})
    unknown = Play(FULFIL).run(do={"price": "refused"})

    assert known.events[-1].message.model_dump()["total"] == {"amount_minor": 12345, "currency": "EUR"}
    assert unknown.events[-1].message.model_dump()["total"] is None


@pytest.mark.parametrize("part", ["with", "when"])
def test_an_expression_that_fails_before_the_pivot_unwinds_to_failed(part: str) -> None:
    play = Play(with_failing(FULFIL, "reserve-credit", part)).run()

    play.check_end(State.FAILED)
    assert [reason.code for reason in play.instance.reasons] == ["step-failed"]
    assert play.instance.steps["reserve-credit"].state is StepState.FAILED
    assert "reserve-credit" not in play.undone()


def test_an_expression_that_fails_beyond_the_pivot_freezes_with_an_owner() -> None:
    play = Play(with_failing(BRANCHING, "look-again", "with")).run()

    assert play.instance.state is State.STUCK
    assert play.instance.stuck is not None
    assert play.instance.stuck.frozen
    assert play.instance.stuck.owner
    assert not play.undone()


def test_an_undo_that_is_refused_twice_is_stuck_once() -> None:
    play = Play(FULFIL).run(do={"ship": None}, undo={"ship": "refused"})
    again = "fulfillment.shipment-not-cancellable.v1"

    made = play.feed(Answer(f"{SAGA}:ship", again, SAMPLES[again], "again"))

    assert not made.accepted
    assert play.kinds.count("stuck") == 1


def test_an_undo_whose_mapping_fails_is_stuck_with_its_own_owner() -> None:
    play = Play(with_failing(FULFIL, "reserve-stock", "undo")).run(do={"reserve-credit": "refused"})

    assert play.instance.state is State.STUCK
    assert play.instance.stuck is not None
    assert play.instance.stuck.owner == "warehouse"


def test_when_one_of_two_failed_undos_is_answered_the_owner_of_the_other_hears_of_it() -> None:
    play = Play(FULFIL).run(do={"ship": "refused"}, undo={"reserve-stock": None, "reserve-credit": None})
    assert play.instance.stuck is not None
    assert play.instance.stuck.owner == "warehouse"
    play.now += timedelta(minutes=1)

    answer(play, "reserve-stock", "inventory.stock-released.v1")

    assert play.instance.state is State.STUCK
    assert play.instance.stuck is not None
    assert play.instance.stuck.owner == "finance"
    assert "reserve-credit" in play.instance.stuck.reason
    assert play.instance.next_timer_at == play.now + timedelta(minutes=15)
    answer(play, "reserve-credit", "credit.credit-released.v1")
    play.owners["reserve-stock"].undo = play.owners["reserve-credit"].undo = "done"
    play.check_end(State.REFUSED)


def test_the_owner_who_was_told_stays_when_the_undo_of_another_is_answered() -> None:
    play = Play(FULFIL).run(do={"ship": "refused"}, undo={"reserve-stock": None, "reserve-credit": None})
    told = play.instance.stuck
    play.now += timedelta(minutes=1)

    answer(play, "reserve-credit", "credit.credit-released.v1")

    assert play.instance.state is State.STUCK
    assert play.instance.stuck == told


def test_an_end_that_cannot_be_told_freezes_and_keeps_what_it_knows() -> None:
    broken = Template(FULFIL.ends["completed"].model, (("order_id", Failing()),))
    play = Play(replace(FULFIL, ends={**FULFIL.ends, "completed": broken})).run()

    assert play.instance.state is State.STUCK
    assert play.instance.ending is State.COMPLETED
    assert play.instance.steps["ship"].answer is not None
    before = play.instance
    assert play.tick().accepted
    assert play.instance.steps == before.steps


def test_a_cancellation_before_the_start_leaves_a_cancelled_process_that_the_start_announces() -> None:
    cancelled = cancel_before_start(Instance(SAGA), Cancel("changed their mind", "partner:acme"), now=NOW)
    assert cancelled.instance.state is State.CANCELLED
    assert not cancelled.messages
    play = Play(FULFIL, instance=cancelled.instance)

    made = play.start()

    assert [message.wire_name for message in made.messages] == ["orders.order-cancelled.v1"]
    assert play.instance.state is State.CANCELLED
    assert not play.start().accepted


def test_a_cancellation_during_the_backoff_of_the_pivot_takes_everything_back() -> None:
    play = Play(FULFIL)
    play.start()
    while play.instance.steps["ship"].state is not StepState.BACKOFF:
        if play.pending and play.step_of(play.pending[0]).id != "ship":
            given = play.read(play.pending.pop(0))
            assert given is not None
            play.feed(given)
        else:
            play.tick()
    play.pending.clear()

    assert play.cancel().accepted
    play.run().check_end(State.CANCELLED)
    assert "ship" in play.undone()


def test_a_process_can_be_cancelled_exactly_until_its_pivot_is_done() -> None:
    play = Play(FULFIL)
    play.start()
    assert cancellable(FULFIL, play.instance)

    play.run()

    assert not cancellable(FULFIL, play.instance)


def test_a_start_whose_condition_is_false_begins_nothing() -> None:
    play = Play(BRANCHING)
    payload = {**SAMPLES["orders.order-accepted.v1"], "lines": []}

    made = play.feed(Started(payload, "m"))

    assert not made.accepted
    assert play.instance.state is State.ABSENT


def test_a_frozen_process_waits_for_a_person_and_reminds_its_owner() -> None:
    play = Play(FULFIL)
    play.start()
    play.instance = freeze(play.instance, "its timer raised", now=play.now).instance

    assert [wait.direction for wait in waits_for(FULFIL, play.instance)] == ["person"]
    given = play.read(play.pending.pop(0))
    assert given is not None
    assert not play.feed(given).accepted
    assert not play.cancel().accepted
    play.tick()
    assert play.kinds[-1] == "alert"


def test_a_process_that_was_frozen_while_it_unwound_sends_no_undo_and_still_reminds_its_owner() -> None:
    play = Play(FULFIL)
    play.start()
    play.cancel()
    assert any(entry.due_at is not None for entry in play.instance.plan)
    play.instance = freeze(play.instance, "its timer raised", now=play.now).instance
    before = play.instance

    for _ in range(3):
        made = play.tick()
        assert made.accepted
        assert not made.messages
        assert made.next_timer_at is not None
        assert made.next_timer_at > play.now

    assert play.instance.plan == before.plan
    assert play.kinds[-3:] == ["alert"] * 3
    assert [wait.direction for wait in waits_for(FULFIL, play.instance)] == ["person"]


def test_a_process_at_rest_is_not_frozen() -> None:
    play = Play(FULFIL).run()

    assert freeze(play.instance, "a stray timer", now=play.now).instance is play.instance


def test_a_process_says_what_it_waits_for() -> None:
    play = Play(FULFIL)
    play.start()

    waits = waits_for(FULFIL, play.instance)

    assert [(wait.step, wait.direction) for wait in waits] == [
        ("price", "do"),
        ("reserve-stock", "do"),
        ("screen-buyer", "do"),
    ]
    assert waits[0].answers == ("pricing.order-priced.v1", "pricing.order-not-priced.v1")
    assert all(wait.by == play.now + timedelta(seconds=30) for wait in waits)


def test_times_of_a_step_are_kept_as_the_service_measured_them() -> None:
    play = Play(FULFIL).run()

    assert {(record.processing_ms, record.dependency_ms) for record in play.instance.steps.values()} == {(3, 1)}


def test_every_message_that_it_writes_is_one_of_the_registry() -> None:
    play = Play(FULFIL).run()

    assert {message.wire_name for message in play.sent} <= set(REGISTRY)

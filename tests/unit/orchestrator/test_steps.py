"""Kinds of steps: each has its module and its row in the suite, and the engine runs those that it has never heard of."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from orchestrator.definition import load_all
from orchestrator.engine import Cancel, waits_for
from orchestrator.instance import State, StepState
from orchestrator.language import KINDS
from orchestrator.steps.kind import kind_of
from orchestrator.steps.step import DONE, REFUSED, Draft, GivenUp, Step, Verdict
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite import kinds
from tests.scenarios.saga_suite.play import Play

FULFIL = load_all()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest(Step):
    """A kind that only this test knows: it rests for a minute, and then says what it was told to say."""

    says: Verdict

    def begin(self, draft: Draft) -> Verdict:
        draft.put(self, replace(draft.record(self), state=StepState.SENT, due_at=draft.now + timedelta(minutes=1)))
        return None

    def due(self, draft: Draft) -> Verdict:
        return self.says


def resting(says: Verdict, **frame: object) -> Workflow:
    """The shipped workflow with a rest in the place of its price, which nothing else is allowed to read any more."""
    rest = Rest(id="price", says=says, dependents=FULFIL.by_id["price"].dependents, **frame)  # type: ignore[arg-type]
    credit = replace(FULFIL.by_id["reserve-credit"], template=FULFIL.by_id["reserve-stock"].template)
    steps = {**FULFIL.by_id, "price": rest, "reserve-credit": credit}
    ends = {**FULFIL.ends, "completed": FULFIL.ends["cancelled"]}
    return replace(FULFIL, steps=tuple(steps[step.id] for step in FULFIL.steps), ends=ends)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_each_kind_of_the_language_has_a_module_and_a_row_in_the_suite(kind: type) -> None:
    assert kind.word in kinds.KINDS, "add a row to tests/scenarios/saga_suite/kinds.py"
    assert kind_of(kind.model_construct()) is not None


def test_a_row_is_of_the_kind_that_it_stands_for() -> None:
    made = {workflow.name: type(workflow.by_id["of-this-kind"]).__module__ for workflow in kinds.workflows()}

    assert made == {f"kind-{kind.word}": f"orchestrator.steps.{kind.word}" for kind in KINDS}


def test_a_kind_that_the_engine_has_never_heard_of_is_done_when_it_says_so() -> None:
    play = Play(resting(DONE))
    play.start()

    assert waits_for(play.workflow, play.instance)[0].by == play.now + timedelta(minutes=1)
    assert play.instance.steps["price"].state is StepState.SENT
    while play.pending:
        answer = play.read(play.pending.pop(0))
        assert answer is not None
        play.feed(answer)
    assert play.instance.steps["price"].state is StepState.DONE
    assert play.instance.steps["price"].outcome == DONE


def test_it_unwinds_the_saga_when_it_is_refused() -> None:
    play = Play(resting(REFUSED)).run()

    play.check_end(State.REFUSED)
    assert [reason.code for reason in play.instance.reasons] == ["step-refused"]


def test_it_unwinds_the_saga_when_it_is_given_up() -> None:
    play = Play(resting(GivenUp(StepState.FAILED, "no-rest", "it was too loud"))).run()

    play.check_end(State.FAILED)
    assert [reason.code for reason in play.instance.reasons] == ["no-rest"]


def test_it_freezes_the_saga_when_it_is_refused_beyond_the_pivot() -> None:
    play = Play(resting(REFUSED, beyond_pivot=True)).run()

    assert play.instance.stuck is not None
    assert play.instance.stuck.frozen


def test_a_cancellation_takes_it_back_while_it_rests() -> None:
    play = Play(resting(DONE, because="rest changes nothing"))
    play.start()

    play.feed(Cancel("no time", "operator:mia"))

    assert play.instance.steps["price"].state is StepState.UNDONE
    play.run().check_end(State.CANCELLED)

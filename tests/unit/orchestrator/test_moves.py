"""The law of moves is total, and the engine obeys it: each cell is played, and a changed cell changes what is played."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from orchestrator.definition import load_all
from orchestrator.engine import Advance, Answer, Cancel, DeadLettered, Input, TimerDue, advance, cancellable, waits_for
from orchestrator.engine.moves import STEP, UNDO, Move, StepInput, UndoInput
from orchestrator.instance import Compensation, Instance, State, StepRecord, StepState, UndoState
from orchestrator.workflow import Workflow
from tests.scenarios.saga_suite.play import SAGA, Play
from tests.scenarios.saga_suite.samples import SAMPLES

FULFIL = load_all()[0]
SHIP = FULFIL.by_id["ship"]
DO, DONE = SHIP.template.wire_name, "fulfillment.shipment-created.v1"
UNDONE, NOT_UNDONE = "fulfillment.shipment-cancelled.v1", "fulfillment.shipment-not-cancellable.v1"
assert SHIP.undo is not None
UNDO_COMMAND = SHIP.undo.template.wire_name
FORBIDDEN = "today nothing moves"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
DONE_BEFORE = Play(FULFIL).run().instance
# Something that happens elsewhere; afterwards every move is taken that is possible.
ELSEWHERE = DeadLettered(f"{SAGA}:price", "pricing.price-order.v1", "dl-1", "boom", "d1")
STEP_INPUTS: dict[StepInput, Input] = {
    StepInput.TURN: ELSEWHERE,
    StepInput.ANSWER: Answer(f"{SAGA}:ship", DONE, SAMPLES[DONE], "a1"),
    StepInput.LATE_ANSWER: Answer(f"{SAGA}:ship", DONE, SAMPLES[DONE], "a1"),
    StepInput.REPEATED_ANSWER: Answer(f"{SAGA}:ship", DONE, SAMPLES[DONE], "a1"),
    StepInput.DUE: TimerDue(),
    StepInput.DEAD_LETTER: DeadLettered(f"{SAGA}:ship", DO, "dl-1", "boom", "d1"),
    StepInput.CANCELLING: Cancel("why not", "operator:mia"),
}
UNDO_INPUTS: dict[UndoInput, Input] = {
    UndoInput.TURN: ELSEWHERE,
    UndoInput.DONE: Answer(f"{SAGA}:ship", UNDONE, SAMPLES[UNDONE], "a1"),
    UndoInput.REFUSED: Answer(f"{SAGA}:ship", NOT_UNDONE, SAMPLES[NOT_UNDONE], "a1"),
    UndoInput.DUE: TimerDue(),
    UndoInput.DEAD_LETTER: DeadLettered(f"{SAGA}:ship", UNDO_COMMAND, "dl-1", "boom", "d1"),
}
# Which line of history tells of a move.
LINES = {
    Move.BEGIN: "sent",
    Move.BEGIN_AGAIN: "sent",
    Move.TAKE: "answered",
    Move.UNWIND: "unwinding",
    Move.AWAIT: "cancel-requested",
    Move.SEND: "undo-sent",
    Move.SEND_LATER: "undo-backing-off",
    Move.UNDONE: "undone",
    Move.FAIL: "undo-failed",
}
ASKED = {StepInput.DUE: "backing-off", StepInput.CANCELLING: "timed-out"}
SHOWN = {StepInput.LATE_ANSWER: "late", StepInput.DEAD_LETTER: "dead-lettered", UndoInput.DEAD_LETTER: "dead-lettered"}
STEP_CELLS = [
    pytest.param(state, one, id=f"{state}-{one.name}")
    for one in STEP_INPUTS
    for state in StepState
    # Cancelling asks the pivot of a running saga, which has no step in the other states.
    if one is not StepInput.CANCELLING or state in ("pending", "sent", "backoff", "done", "skipped")
]
UNDO_CELLS = [pytest.param(state, one, id=f"{state}-{one.name}") for one in UNDO_INPUTS for state in (None, *UndoState)]


def saga(ship: StepRecord, state: State, plan: tuple[Compensation, ...] = ()) -> Instance:
    """Its last step, the pivot, stands at this record; all before it are done, but one that keeps the saga waiting for an hour."""
    steps = {**DONE_BEFORE.steps, "price": StepRecord(StepState.SENT, 1, sent_at=NOW, due_at=LATER), "ship": ship}
    ending = None if state is State.RUNNING else State.FAILED
    return replace(DONE_BEFORE, state=state, steps=steps, plan=plan, ending=ending, finished_at=None, next_timer_at=LATER)


def record(state: StepState, *, answered: bool = False, due: bool = False) -> StepRecord:
    begun = state not in (StepState.PENDING, StepState.SKIPPED)
    at = NOW - timedelta(seconds=30)
    return StepRecord(
        state, int(begun), sent_at=at if begun else None, answered_at=at if answered else None, due_at=NOW if due else LATER
    )


def met_by_step(state: StepState, one: StepInput) -> Advance:
    unwinding = one in (StepInput.LATE_ANSWER, StepInput.REPEATED_ANSWER)
    plan = (Compensation("ship", UNDO_COMMAND, "shipping", state=UndoState.SENT, due_at=LATER),) if unwinding else ()
    ship = record(state, answered=one is StepInput.REPEATED_ANSWER, due=one is StepInput.DUE)
    return feed(saga(ship, State.COMPENSATING if unwinding else State.RUNNING, plan), STEP_INPUTS[one])


def met_by_undo(state: UndoState | None, one: UndoInput) -> Advance:
    other = Compensation("reserve-stock", "inventory.release-stock.v1", "warehouse", state=UndoState.SENT, due_at=LATER)
    entry = Compensation("ship", UNDO_COMMAND, "shipping", attempts=1, due_at=NOW if one is UndoInput.DUE else LATER)
    plan = (other,) if state is None else (other, replace(entry, state=state))
    return feed(saga(record(StepState.UNDOING), State.COMPENSATING, plan), UNDO_INPUTS[one])


def feed(instance: Instance, event: Input, workflow: Workflow = FULFIL) -> Advance:
    ids = count()
    return advance(workflow, instance, event, now=NOW, new_id=lambda: f"m{next(ids)}", random=lambda: 0.5)


def kinds(made: Advance) -> list[str]:
    return [line.kind for line in made.history]


def told(made: Advance) -> object:
    return made.history[0].detail.get("because")


def test_the_law_is_total() -> None:
    assert {one: set(STEP[one]) for one in StepInput} == {one: set(StepState) for one in StepInput}
    assert {one: set(UNDO[one]) for one in UndoInput} == {one: {None, *UndoState} for one in UndoInput}
    reasons = [cell for law in (*STEP.values(), *UNDO.values()) for cell in law.values() if isinstance(cell, str)]
    assert all(reason and "{" not in reason for reason in reasons)


def test_every_input_is_played() -> None:
    assert {*STEP_INPUTS, StepInput.UNWINDING} == set(StepInput)
    assert set(UNDO_INPUTS) == set(UndoInput)


@pytest.mark.parametrize(("state", "one"), STEP_CELLS)
def test_what_a_step_does_is_what_the_law_says(state: StepState, one: StepInput, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = STEP[one][state]
    line = ASKED[one] if cell is Move.ASK else SHOWN[one] if cell is Move.SHOW else LINES.get(cell)  # type: ignore[call-overload]

    made = met_by_step(state, one)

    if isinstance(cell, Move):
        assert made.accepted
        assert line in kinds(made)
        monkeypatch.setitem(STEP[one], state, FORBIDDEN)  # type: ignore[arg-type]  # a dict behind a read-only type
        forbidden = met_by_step(state, one)
        assert line not in kinds(forbidden)
        assert one is StepInput.TURN or told(forbidden) in (FORBIDDEN, "nothing is due")
    elif one is StepInput.TURN:
        assert "sent" not in kinds(made)
    else:
        assert told(made) == cell


@pytest.mark.parametrize(("state", "one"), UNDO_CELLS)
def test_what_an_undo_does_is_what_the_law_says(state: UndoState | None, one: UndoInput, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = UNDO[one][state]
    line = SHOWN[one] if cell is Move.SHOW else LINES.get(cell)  # type: ignore[call-overload]

    made = met_by_undo(state, one)

    if isinstance(cell, Move):
        assert made.accepted
        assert line in kinds(made)
        monkeypatch.setitem(UNDO[one], state, FORBIDDEN)  # type: ignore[arg-type]  # a dict behind a read-only type
        forbidden = met_by_undo(state, one)
        assert line not in kinds(forbidden)
        assert one is UndoInput.TURN or told(forbidden) in (FORBIDDEN, "nothing is due")
    elif one is UndoInput.TURN:
        assert "undo-sent" not in kinds(made)
    else:
        assert told(made) == cell


@pytest.mark.parametrize("state", StepState)
def test_what_unwinding_does_to_a_step_is_what_the_law_says(state: StepState, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwound(*, undo: bool) -> tuple[StepState, bool]:
        ship = replace(SHIP, pivot=False) if undo else replace(SHIP, pivot=False, undo=None)
        workflow = replace(FULFIL, steps=tuple(ship if one.id == "ship" else one for one in FULFIL.steps))
        after = feed(saga(record(state), State.RUNNING), STEP_INPUTS[StepInput.CANCELLING], workflow).instance
        return after.steps["ship"].state, "ship" in {entry.step for entry in after.plan}

    law: dict[Move, tuple[StepState, StepState]] = {
        Move.SKIP: (StepState.SKIPPED, StepState.SKIPPED),
        Move.RECALL: (StepState.UNDOING, StepState.UNDONE),
        Move.TAKE_BACK: (StepState.UNDOING, state),
    }
    cell = STEP[StepInput.UNWINDING][state]
    with_undo, without = law.get(cell, (state, state))  # type: ignore[call-overload]
    planned = cell in (Move.RECALL, Move.TAKE_BACK)

    assert (unwound(undo=True), unwound(undo=False)) == ((with_undo, planned), (without, False))
    monkeypatch.setitem(STEP[StepInput.UNWINDING], state, FORBIDDEN)  # type: ignore[arg-type]  # a dict behind a read-only type
    assert (unwound(undo=True), unwound(undo=False)) == ((state, False), (state, False))


@pytest.mark.parametrize("state", StepState)
def test_what_a_saga_says_of_itself_is_what_the_law_says(state: StepState) -> None:
    running = saga(record(state), State.RUNNING)

    assert cancellable(FULFIL, running) is isinstance(STEP[StepInput.CANCELLING][state], Move)
    waits = {wait.step for wait in waits_for(FULFIL, running)}
    assert ("ship" in waits) is isinstance(STEP[StepInput.ANSWER][state], Move)

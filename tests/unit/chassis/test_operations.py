"""Every state of an operation, in both directions, at every revision: what is done with a command."""

from dataclasses import dataclass
from itertools import product
from typing import get_args

import pytest

from contracts.credit.v1 import CreditDeclined, CreditReleased, CreditReserved
from contracts.deadletters import v1
from infra.chassis.errors import Permanent
from infra.chassis.operations import Operation, StoredAnswer, Verdict, finish, judge, outcome_of, start

DO = "credit.reserve-credit"
ANSWER = StoredAnswer("credit.credit-reserved.v1", b"{}")
SEEN = 3
"""The revision that the operation has seen."""


def operation(**values: object) -> Operation:
    return Operation(id="s1:reserve", correlation_id="s1", do_type=DO, do_revision=SEEN, undo_revision=SEEN, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """What holds for an operation in this state: verdicts on a do and an undo, of a lower revision and of any other."""

    name: str
    operation: Operation
    do: Verdict
    undo: Verdict
    do_lower: Verdict | None = None
    undo_lower: Verdict | None = None


ROWS = (
    Row("claimed, and the decision failed", operation(), Verdict.RUN, Verdict.RUN, Verdict.SUPERSEDED, Verdict.SUPERSEDED),
    Row("pending", operation(state="pending", pending_do=b"{}"), Verdict.ABSORB, Verdict.NOTE_UNDO),
    Row("pending with a noted undo", operation(state="pending", pending_do=b"{}", pending_undo=b"{}"), Verdict.ABSORB, Verdict.ABSORB),
    Row("its undo is being made", operation(pending_undo=b"{}"), Verdict.TOMBSTONED, Verdict.ABSORB),
    Row(
        "done and its undo is being made",
        operation(state="done", do_answer=ANSWER, pending_undo=b"{}"), Verdict.ANSWER_AGAIN, Verdict.ABSORB,
    ),
    Row("done", operation(state="done", do_answer=ANSWER), Verdict.ANSWER_AGAIN, Verdict.RUN, None, Verdict.SUPERSEDED),
    Row("refused", operation(state="refused", do_answer=ANSWER), Verdict.ANSWER_AGAIN, Verdict.RUN, None, Verdict.SUPERSEDED),
    Row("undone", operation(state="undone", do_answer=ANSWER, undo_answer=ANSWER), Verdict.ANSWER_AGAIN, Verdict.ANSWER_AGAIN),
    Row("tombstone", operation(state="tombstone", undo_answer=ANSWER), Verdict.TOMBSTONED, Verdict.ANSWER_AGAIN),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize(("direction", "revision"), list(product(("do", "undo"), (SEEN - 1, SEEN, SEEN + 1))))
def test_what_is_done_with_a_command_follows_from_the_state_of_its_operation(row: Row, direction: str, revision: int) -> None:
    expected = row.do if direction == "do" else row.undo
    lower = row.do_lower if direction == "do" else row.undo_lower
    if revision < SEEN and lower is not None:
        expected = lower

    assert judge(row.operation, direction, DO, revision) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("direction", ["do", "undo"])
def test_a_step_of_another_type_never_shares_an_operation(row: Row, direction: str) -> None:
    with pytest.raises(Permanent, match=r"belongs to credit\.reserve-credit, not to inventory\.reserve-stock"):
        judge(row.operation, direction, "inventory.reserve-stock", SEEN)  # type: ignore[arg-type]


def test_an_operation_that_nobody_has_begun_takes_either_direction() -> None:
    assert judge(Operation("s1:reserve", "s1"), "do", DO, 0) is Verdict.RUN
    assert judge(Operation("s1:reserve", "s1"), "undo", DO, 0) is Verdict.RUN


def test_do_and_undo_count_their_revisions_apart() -> None:
    one = Operation("s1:reserve", "s1")
    start(one, "do", DO, 7, "m1")

    assert (one.do_revision, one.undo_revision) == (7, 0)
    assert judge(one, "undo", DO, 0) is Verdict.RUN


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([("do", "done")], "done"),
        ([("do", "refused")], "refused"),
        ([("do", "review")], "refused"),
        ([("do", "done"), ("undo", "done")], "undone"),
        ([("do", "refused"), ("undo", "done")], "undone"),
        ([("undo", "done")], "tombstone"),
        ([("do", "done"), ("undo", "refused")], "done"),
    ],
)
def test_outcomes_lead_to_their_states(steps: list[tuple[str, str]], state: str) -> None:
    one = Operation("s1:reserve", "s1", pending_do=b"{}", pending_undo=b"{}")
    for direction, outcome in steps:
        finish(one, direction, ANSWER, outcome)  # type: ignore[arg-type]

    assert one.state == state
    assert one.changed
    assert (one.pending_do is None) == ("do" in {direction for direction, _ in steps})


def test_an_answer_that_the_command_cannot_give_is_permanent() -> None:
    answers = {"done": CreditReserved, "refused": CreditDeclined}

    assert outcome_of(answers, CreditDeclined) == "refused"
    with pytest.raises(Permanent, match="CreditReleased is no answer"):
        outcome_of(answers, CreditReleased)


def test_every_verdict_but_the_noted_undo_is_a_word_that_the_desk_knows() -> None:
    assert {verdict.value for verdict in Verdict} - set(get_args(v1.Verdict)) == {"noted"}

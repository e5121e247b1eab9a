"""A batch taken apart is the same inputs, each alone and in the same order."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from infra.chassis.errors import Permanent
from infra.chassis.giving_up import cause_of, refused
from infra.chassis.inputs import Arrival, Inputs, SourceRow
from infra.chassis.service import Context, RowInput, RowSource
from tests.support.ledger_messages import reserve
from tests.support.ledger_service import Wakeups

ARRIVALS = tuple(Arrival(raw=reserve(f"s{number}:step"), received_at=datetime.now(UTC)) for number in range(2))
ROWS = tuple(
    SourceRow(cast("RowSource[Any, Any, Any]", Wakeups()), RowInput(id=f"w{number}", key="K", payload="ok", tries=1))
    for number in range(2)
)
ALL = Inputs(ARRIVALS, ("s8:step", "s9:step"), ROWS, crashed=True)


def test_each_input_stands_alone_once() -> None:
    singles = list(ALL.singly())

    assert [len(one) for one in singles] == [1] * len(ALL)
    assert [arrival for one in singles for arrival in one.arrivals] == list(ARRIVALS)
    assert [operation for one in singles for operation in one.concluding] == list(ALL.concluding)
    assert [row for one in singles for row in one.rows] == list(ROWS)


def test_only_concluding_has_ended_the_process() -> None:
    assert [one.crashed for one in ALL.singly() if one.arrivals] == [False, False]
    assert [one.crashed for one in ALL.singly() if one.concluding] == [True, True]


def test_a_row_that_is_given_up_is_refused_with_the_true_cause_and_marked_done_by_its_own_source() -> None:
    failure = cause_of(ValueError("no number"))
    (row,) = refused(Inputs(rows=ROWS[:1]), failure).rows

    with pytest.raises(Permanent) as raised:
        row.source.decide(row.row, None, cast("Context", None))
    assert raised.value is failure
    assert "ValueError: no number" in str(failure)
    assert row.name == ROWS[0].name
    assert row.source.mark_done == ROWS[0].source.mark_done

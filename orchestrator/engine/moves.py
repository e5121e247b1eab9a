"""The law of legal moves: for each state that a step or an undo can be in, and each thing that can happen to it, what follows.

A cell is the move that the engine makes, or the reason why it makes none, which is what the saga's history says. The engine
looks here and has no second list. What concerns the saga as a whole comes before: one that is at rest, or frozen until a
person has looked at it, hears of nothing but its alert and its dead letters.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, TypeVar

from orchestrator.instance import StepState, UndoState


class StepInput(Enum):
    """What can happen to a step."""

    TURN = auto()
    """All that it waits for is over."""
    ANSWER = auto()
    """Its owner answers, and the saga is running."""
    LATE_ANSWER = auto()
    """Its owner answers for the first time after unwinding has begun."""
    REPEATED_ANSWER = auto()
    """Its owner has answered before, and unwinding has begun."""
    DUE = auto()
    """The moment that it has set itself has come, and the saga is running."""
    DEAD_LETTER = auto()
    """A command of it lies in the dead letters."""
    UNWINDING = auto()
    """The saga is to be taken back."""
    CANCELLING = auto()
    """Somebody asks to stop a running saga, and this is its pivot."""


class UndoInput(Enum):
    """What can happen to the undo of a step."""

    TURN = auto()
    """The steps that came after it are undone."""
    DONE = auto()
    """Its owner answers that it is undone."""
    REFUSED = auto()
    """Its owner answers that it cannot be undone."""
    DUE = auto()
    """The moment of its timeout, or of its next attempt, has come."""
    DEAD_LETTER = auto()
    """A command of it lies in the dead letters."""


class Move(Enum):
    """What the engine does."""

    BEGIN = auto()
    """It begins, or is skipped by its condition."""
    BEGIN_AGAIN = auto()
    """Its pause is over: another attempt of the same operation."""
    TAKE = auto()
    """It takes the answer."""
    ASK = auto()
    """It is asked what its moment means: another attempt, an end, an outcome."""
    SHOW = auto()
    """It is shown in the record, and changes nothing else."""
    SKIP = auto()
    """It will not begin any more."""
    TAKE_BACK = auto()
    """It was done, or may have been: its undo is planned, where it has one."""
    RECALL = auto()
    """As TAKE_BACK, but its answer is not waited for: without an undo it counts as undone."""
    UNWIND = auto()
    """The saga is taken back."""
    AWAIT = auto()
    """Its answer decides whether the saga is taken back."""

    SEND = auto()
    """The undo is sent, once more or for the first time."""
    SEND_LATER = auto()
    """The undo is sent again after a pause, or has failed when its attempts are spent."""
    UNDONE = auto()
    """The undo is done; of a failed one too, however late."""
    FAIL = auto()
    """The undo has failed, and its owner is told."""


S = TypeVar("S")
N = TypeVar("N", bound=Enum)
Cell = Move | str


def _law(inputs: type[N], rows: Mapping[S, tuple[Cell, ...]]) -> Mapping[N, Mapping[S, Cell]]:
    """By input, then by state, as the engine asks. A row that is too short or too long fails when it is read."""
    law: dict[N, dict[S, Cell]] = {one: {} for one in inputs}
    for state, cells in rows.items():
        for one, cell in zip(inputs, cells, strict=True):
            law[one][state] = cell.format(state=state) if isinstance(cell, str) else cell
    return law


_BEGIN, _BEGIN_AGAIN, _TAKE, _ASK, _SHOW = Move.BEGIN, Move.BEGIN_AGAIN, Move.TAKE, Move.ASK, Move.SHOW
_SKIP, _TAKE_BACK, _RECALL, _UNWIND, _AWAIT = Move.SKIP, Move.TAKE_BACK, Move.RECALL, Move.UNWIND, Move.AWAIT
_SEND, _SEND_LATER, _UNDONE, _FAIL = Move.SEND, Move.SEND_LATER, Move.UNDONE, Move.FAIL
_IS = "the step is {state}"
_NOT_DUE = "nothing is due"
_NOTHING = "there is nothing to be taken back"
_PAST = "the process is past its pivot"
_BEGUN = "its undo is {state}"
_NOT_SENT = "its undo is not waited for"
_REFUSED = "its undo was refused before"
_NO_COMMAND = "it is no command of this step"

# fmt: off
STEP: Final = _law(StepInput, {
    #                       TURN    ANSWER  LATE   REPEATED  DUE           DEAD_LETTER  UNWINDING    CANCELLING
    StepState.PENDING:     (_BEGIN, _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _SKIP,       _UNWIND),
    StepState.SENT:        (_IS,    _TAKE,  _SHOW, _IS,      _ASK,         _SHOW,       _RECALL,     _AWAIT),
    StepState.BACKOFF:     (_IS,    _TAKE,  _SHOW, _IS,      _BEGIN_AGAIN, _SHOW,       _RECALL,     _ASK),
    StepState.DONE:        (_IS,    _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _TAKE_BACK,  _PAST),
    StepState.SKIPPED:     (_IS,    _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _PAST),
    # A running saga has no step in the states below: their last cells are met by nobody.
    StepState.REFUSED:     (_IS,    _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _UNWIND),
    StepState.TIMED_OUT:   (_IS,    _IS,    _SHOW, _IS,      _NOT_DUE,     _SHOW,       _TAKE_BACK,  _UNWIND),
    StepState.FAILED:      (_IS,    _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _UNWIND),
    StepState.UNDOING:     (_IS,    _IS,    _SHOW, _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _UNWIND),
    StepState.UNDONE:      (_IS,    _IS,    _IS,   _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _UNWIND),
    StepState.UNDO_FAILED: (_IS,    _IS,    _SHOW, _IS,      _NOT_DUE,     _SHOW,       _NOTHING,    _UNWIND),
})

# By the state of its entry in the plan; None is a step that has no entry.
UNDO: Final[Mapping[UndoInput, Mapping[UndoState | None, Cell]]] = _law(UndoInput, {
    #                    TURN      DONE       REFUSED    DUE          DEAD_LETTER
    None:               (_NOTHING, _NOT_SENT, _NOT_SENT, _NOT_DUE,    _NO_COMMAND),
    UndoState.WAITING:  (_SEND,    _NOT_SENT, _NOT_SENT, _NOT_DUE,    _SHOW),
    UndoState.SENT:     (_BEGUN,   _UNDONE,   _FAIL,     _SEND_LATER, _SHOW),
    UndoState.BACKOFF:  (_BEGUN,   _UNDONE,   _FAIL,     _SEND,       _SHOW),
    UndoState.UNDONE:   (_BEGUN,   _NOT_SENT, _NOT_SENT, _NOT_DUE,    _SHOW),
    UndoState.FAILED:   (_BEGUN,   _UNDONE,   _REFUSED,  _NOT_DUE,    _SHOW),
})
# fmt: on

"""The name of one step of one saga, `saga:step`: its do and its undo carry the same one, however often they are sent.

A saga's id has no colon, so the first colon ends it. `saga:step/item` names one item of a step that runs once for each.
"""

from typing import Final, NamedTuple

SEPARATOR: Final = ":"
ITEM_SEPARATOR: Final = "/"


class OperationId(NamedTuple):
    """The parts of an operation id; `step` is empty where the id has none, since systems may send any text."""

    saga: str
    step: str
    item: str | None = None


def of(saga: str, step: str, item: str | None = None) -> str:
    """`saga:step`, or `saga:step/item`. The same parts give the same id."""
    assert saga_can_be_named(saga), f"{saga!r} has a colon and would be read as another saga's step"
    return f"{saga}{SEPARATOR}{step}" if item is None else f"{saga}{SEPARATOR}{step}{ITEM_SEPARATOR}{item}"


def split(operation_id: str | None) -> OperationId:
    """The parts of any text. Where it names no step (None, no colon), all of it is taken for the saga and `step` is empty."""
    saga, _, rest = (operation_id or "").partition(SEPARATOR)
    step, separator, item = rest.partition(ITEM_SEPARATOR)
    return OperationId(saga, step, item if separator else None)


def saga_can_be_named(saga: str) -> bool:
    """Whether operations of this saga can be told from those of others."""
    return SEPARATOR not in saga

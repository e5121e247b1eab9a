"""Ends a row or a conclusion whose data are at fault in the way in which a message ends: visibly, at once, with the true cause.

The input goes through the usual transaction once more, with decisions that all raise the cause. So the transaction gives it up by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from infra.chassis.errors import Failure, Permanent, Transient
from infra.chassis.inputs import Inputs, SourceRow
from infra.chassis.service import Consumer, Context, Decision, RowInput, RowSource

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


def cause_of(error: Exception) -> Failure:
    """The failure of an input whose transaction, with no other input in it, has raised this."""
    if isinstance(error, Transient):
        return error
    failure = Permanent(f"the message's data cannot be stored: {type(error).__name__}: {str(error)[:500]}")
    failure.__cause__ = error
    return failure


def refused(inputs: Inputs, failure: Failure) -> Inputs:
    """The same inputs, with rows whose decisions raise the failure."""
    sources = [cast("RowSource[Any, Any, Any]", _RefusingSource(one.source, failure)) for one in inputs.rows]
    rows = tuple(SourceRow(source, one.row) for source, one in zip(sources, inputs.rows, strict=True))
    return replace(inputs, rows=rows, crashed=False)


def refusing(consumer: Consumer, failure: Failure) -> Consumer:
    """The consumer with decisions that all raise the failure, and without states, since loading them may be what fails."""

    def refuse(*_: object) -> Decision[Any]:
        raise failure

    routes = tuple(replace(route, decide=refuse, conclude=refuse) for route in consumer.routes)
    return replace(consumer, routes=routes, repository=_NoStates())


class _NoStates:
    """The repository of a consumer that decides nothing."""

    async def load(self, connection: "AsyncConnection", keys: Sequence[Any]) -> Mapping[Any, Any]:
        return {}

    async def save(self, connection: "AsyncConnection", changed: Mapping[Any, Any], facts: Sequence[object]) -> None:
        raise AssertionError("nothing was decided, so there is nothing to save")


class _RefusingSource:
    """A source whose decision raises, so that its rows are given up with that as the reason."""

    def __init__(self, source: RowSource[Any, Any, Any], failure: Failure) -> None:
        self._source = source
        self._failure = failure

    def decide(self, row: RowInput[Any, Any], state: Any, context: Context) -> Decision[Any]:
        raise self._failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

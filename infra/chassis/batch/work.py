"""What one attempt at a transaction has gathered so far, and what its caller does after the commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.chassis.calls import CallRow, NewCall
from infra.chassis.inbox import MessageKey
from infra.chassis.operations import Operation
from infra.chassis.outbox import OutboxRow
from infra.chassis.retries import Retry
from infra.chassis.service import Decision


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What the caller does after the commit: hand `rows` to the relay, make `calls`, count `outcomes` (wire name, outcome), and tell
    the consumer what was saved (`changed`, `facts`)."""

    rows: Sequence[OutboxRow]
    calls: bool
    outcomes: Sequence[tuple[str, str]]
    changed: Mapping[Any, Any]
    facts: Sequence[object]


@dataclass(slots=True)
class Work:
    """A draft of everything that the transaction writes. Thrown away with it, and made anew for its next try.

    A decision's part comes in whole, after the decision has returned and its messages have been encoded, or not at all.
    """

    now: datetime
    started_at: datetime
    received: Mapping[str, bool] = field(default_factory=dict)
    states: dict[Any, Any] = field(default_factory=dict)
    changed: dict[Any, Any] = field(default_factory=dict)
    facts: list[object] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    known_calls: Mapping[str, list[CallRow]] = field(default_factory=dict)
    new_calls: list[NewCall] = field(default_factory=list)
    rows: list[OutboxRow] = field(default_factory=list)
    admitted: set[MessageKey] = field(default_factory=set)
    decided: set[MessageKey] = field(default_factory=set)
    # Messages that have had their effect. A replay of one may fail (an edit that cannot be read), and must not mark it `dead`: from
    # there it would run again.
    handled: set[MessageKey] = field(default_factory=set)
    marks: dict[MessageKey, str] = field(default_factory=dict)
    retries: list[Retry] = field(default_factory=list)
    retried: list[MessageKey] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)

    def operation_of(self, operation_id: str | None) -> Operation | None:
        """The locked row of an operation; None where the input names no operation, or may not claim it."""
        return self.operations.get(operation_id) if operation_id is not None else None

    def merge(self, decision: Decision[Any], rows: Sequence[OutboxRow]) -> None:
        """A decision over the loaded states, with its messages."""
        if isinstance(decision.state, Mapping) and decision.state is not self.states:
            for key, state in decision.state.items():
                self.replace(key, state)
        self.facts += decision.facts
        self.rows += rows

    def replace(self, key: Any, state: Any) -> None:
        """The state of one key; the same object means unchanged."""
        if self.states.get(key) is not state:
            self.states[key] = state
            self.changed[key] = state

    def result(self) -> BatchResult:
        return BatchResult(self.rows, bool(self.new_calls), self.outcomes, self.changed, self.facts)

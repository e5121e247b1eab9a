"""What one transaction of the loop is given: messages, operations whose calls are over, and rows (timers, acts)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.deadletters.replay import Replay
from contracts.envelope import Envelope
from infra.chassis.decoding import Decoded, Raw
from infra.chassis.errors import Failure, Permanent
from infra.chassis.inbox import Claim, MessageKey
from infra.chassis.retries import RetryRow
from infra.chassis.service import Direction, RowInput, RowSource


@dataclass(slots=True)
class Arrival:
    """A message at the door: decoded once, however often its transaction is tried. `retry` is the row that it waited in.

    `direction` and `operation_id` are known also where the payload is not valid, since a command that cannot be read still belongs to
    its operation. `operation_id` is None for events, and for messages of a sender that may not claim an operation.
    """

    raw: Raw
    received_at: datetime
    retry: RetryRow | None = None
    envelope: Envelope | None = None
    direction: Direction = "event"
    operation_id: str | None = None
    decoded: Decoded | None = None
    replay: Replay | None = None
    failure: Failure | None = None
    crashed: bool = False

    @property
    def key(self) -> MessageKey | None:
        return (self.envelope.source, self.envelope.id) if self.envelope else None

    @property
    def claim(self) -> Claim | None:
        """The operation that it claims, with its saga."""
        if self.operation_id is None:
            return None
        assert self.envelope is not None
        assert self.envelope.correlationid is not None
        return (self.operation_id, self.envelope.correlationid)

    @property
    def name(self) -> str:
        """A metric's label: only names that we know, so that no sender can invent labels."""
        return self.decoded.route.wire_name if self.decoded else "unknown"

    def crash(self, reason: str) -> None:
        """It has ended the process too often: a dead letter without another try."""
        self.crashed, self.failure = True, Permanent(reason)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row that its source has claimed."""

    source: RowSource[Any, Any, Any]
    row: RowInput[Any, Any]

    @property
    def name(self) -> str:
        """For logs: which row of which source."""
        return f"{self.source.name} {self.row.id}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What goes into one transaction, in this order. `concluding` are the ids of operations whose calls are over.

    `crashed` says that concluding has ended the process too often: what is pending becomes a dead letter, undecided.
    """

    arrivals: tuple[Arrival, ...] = ()
    concluding: tuple[str, ...] = ()
    rows: tuple[SourceRow, ...] = ()
    crashed: bool = False

    def __len__(self) -> int:
        return len(self.arrivals) + len(self.concluding) + len(self.rows)

    def singly(self) -> Iterator["Inputs"]:
        """Each input alone, in the same order, to find the one whose data are at fault."""
        for arrival in self.arrivals:
            yield Inputs(arrivals=(arrival,))
        for operation_id in self.concluding:
            yield Inputs(concluding=(operation_id,), crashed=self.crashed)
        for row in self.rows:
            yield Inputs(rows=(row,))

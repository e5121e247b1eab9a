"""An order as its partner sees it: where it stands, in which words, and that it only moves forward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from contracts.values import Money, Reason

Status = Literal["running", "waiting", "held", "paused", "compensating", "stuck", "completed", "refused", "cancelled", "failed"]
End = Literal["completed", "refused", "cancelled", "failed"]
STATUSES: Final[frozenset[str]] = frozenset(get_args(Status))
FINISHED: Final[frozenset[str]] = frozenset(get_args(End))
# Forward is from work to unwinding to an end. Within a phase an order may come and go: waiting for a person, running
# again.
_PHASES: Final = {
    "running": 0,
    "waiting": 0,
    "held": 0,
    "paused": 0,
    "compensating": 1,
    "stuck": 1,
    "completed": 2,
    "refused": 2,
    "cancelled": 2,
    "failed": 2,
}
FIRST_STAGE: Final = "accepted"
_STEP_OVER: Final = frozenset({"done", "skipped", "undone"})


@dataclass(frozen=True, slots=True, order=True)
class NaturalKey:
    """What the partner calls the order. Two orders of one name are one order."""

    partner_id: str
    order_number: str
    buyer_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the order's saga, as the orchestrator tells it."""

    id: str
    state: str
    attempts: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a partner needs to follow a shipment."""

    carrier: str
    tracking: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What the orchestrator says of a saga at this moment. Of a field that is None it has said nothing."""

    status: str | None
    stage: str | None
    expected_by: datetime | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """An accepted order. Its end comes from the orchestrator's event only, which brings total, reasons, shipments."""

    order_id: str
    name: NaturalKey
    correlation_id: str
    accepted_at: datetime
    status: str = "running"
    stage: str = FIRST_STAGE
    expected_by: datetime | None = None
    finished_at: datetime | None = None
    total: Money | None = None
    reasons: tuple[Reason, ...] = ()
    shipments: tuple[Parcel, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def partner_id(self) -> str:
        return self.name.partner_id

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def message(self) -> str:
        """Where the order stands, in a sentence for people."""
        return _SENTENCES[self.status](self)

    def advanced(self, progress: Progress) -> "Order":
        """The order with newer steps. Its status moves forward or stays; an end is left to its event."""
        status = progress.status if progress.status in _PHASES else None
        if self.finished:
            return replace(self, steps=progress.steps)
        moves = status is not None and status not in FINISHED and _PHASES[status] >= _PHASES[self.status]
        return replace(
            self,
            status=status if moves and status else self.status,
            stage=progress.stage or _stage(progress.steps) or self.stage,
            expected_by=progress.expected_by or self.expected_by,
            steps=progress.steps,
        )

    def ended(
        self,
        end: End,
        at: datetime,
        *,
        total: Money | None,
        reasons: Sequence[Reason],
        shipments: Sequence[Parcel] = (),
    ) -> "Order":
        """The order at its end; itself when it has one already, since an end is final."""
        if self.finished:
            return self
        return replace(
            self,
            status=end,
            stage=end,
            finished_at=max(at, self.accepted_at),
            total=total or self.total,
            reasons=tuple(reasons),
            shipments=tuple(shipments),
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """What is known of a name under which a system sends an order: who may, and whether the order is there already."""

    broker_users: frozenset[str]
    order_id: str | None


def accepted(order_id: str, correlation_id: str, name: NaturalKey, at: datetime, expected: timedelta) -> Order:
    """A new order, whichever way it came."""
    return Order(order_id=order_id, name=name, correlation_id=correlation_id, accepted_at=at, expected_by=at + expected)


def _stage(steps: Sequence[Step]) -> str | None:
    return next((step.id for step in steps if step.state not in _STEP_OVER), None)


def _moment(moment: datetime | None) -> str:
    return f"; expected by {moment:%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def _because(order: Order) -> str:
    return "".join(f" {reason.detail.rstrip('.')}." for reason in order.reasons)


_SENTENCES: Final[Mapping[str, Callable[[Order], str]]] = {
    "running": lambda order: f"In progress ({order.stage}){_moment(order.expected_by)}.",
    "waiting": lambda order: f"Waiting for a person's decision ({order.stage}){_moment(order.expected_by)}.",
    "held": lambda order: f"Held at {order.stage}; it goes on by itself once the cause is gone.",
    "paused": lambda order: f"Paused at {order.stage} by an operator; nothing is needed from you.",
    "compensating": lambda _: "Will not be completed; what was done is being taken back.",
    "stuck": lambda _: "Needs a person on our side, who has been told; nothing is needed from you.",
    "completed": lambda order: f"Completed; {len(order.shipments)} shipment(s) handed to the carriers.",
    "refused": lambda order: f"Refused.{_because(order)} Everything done before has been taken back.",
    "cancelled": lambda order: f"Cancelled.{_because(order)} Everything done before has been taken back.",
    "failed": lambda order: f"Could not be completed.{_because(order)} Everything done before has been taken back.",
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """The order exists now; `answer` is the body of its 202, stored with it."""

    order_id: str
    correlation_id: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """The same request came before; this is what it was answered."""

    order_id: str
    correlation_id: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The key belongs to a request with another body."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Another request has created the order of this name."""

    order_id: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class InProgress:
    """Somebody else is handling this key, or this order, at this moment."""


Outcome = Accepted | Replayed | KeyReused | Duplicate | InProgress

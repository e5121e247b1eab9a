"""One saga as it is stored: what it began with, where each step stands, what is being taken back, what it waits for.

It is read and written once for each answer, so it is kept small: fields at their defaults are left out, payloads stay plain
dicts, and nothing is stored that the definition says already.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from pydantic import JsonValue
from pydantic_core import from_json, to_json

Payload = Mapping[str, JsonValue]


class State(StrEnum):
    """Where a saga stands; stored by name. `ABSENT` is the blank row of a saga that has not begun."""

    ABSENT = "absent"
    RUNNING = "running"
    COMPENSATING = "compensating"
    STUCK = "stuck"
    COMPLETED = "completed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAILED = "failed"


FINISHED: Final = frozenset({State.COMPLETED, State.REFUSED, State.CANCELLED, State.FAILED})
# States that wait for nothing, and so need no timer.
AT_REST: Final = FINISHED | {State.ABSENT}

# An escaped NUL: its backslash is not itself escaped, so an even number of them (or none) goes before it.
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class StepState(StrEnum):
    """Where a step stands; stored by name."""

    PENDING = "pending"
    SENT = "sent"
    BACKOFF = "backoff"
    DONE = "done"
    REFUSED = "refused"
    TIMED_OUT = "timed-out"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_FAILED = "undo-failed"


# States that let what comes after a step begin.
OVER: Final = frozenset({StepState.DONE, StepState.SKIPPED})


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of one saga. `sent_at` is the first attempt; `due_at` the moment of its timeout or of its next attempt.

    `late` marks an answer that came after the step was given up. Times are milliseconds, as the answering service measured.
    """

    state: StepState = StepState.PENDING
    attempts: int = 0
    outcome: str | None = None
    answer: Payload | None = None
    message_id: str | None = None
    sent_at: datetime | None = None
    due_at: datetime | None = None
    answered_at: datetime | None = None
    late: bool = False
    dead_letter: str | None = None
    processing_ms: int = 0
    dependency_ms: int = 0
    backoff_ms: int = 0


class UndoState(StrEnum):
    """Where one entry of a compensation plan stands; stored by name."""

    WAITING = "waiting"
    SENT = "sent"
    BACKOFF = "backoff"
    UNDONE = "undone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Compensation:
    """One entry of the plan that takes a saga back: which step, by which command, after which others, whose duty."""

    step: str
    command: str
    owner: str
    after: tuple[str, ...] = ()
    state: UndoState = UndoState.WAITING
    attempts: int = 0
    message_id: str | None = None
    sent_at: datetime | None = None
    due_at: datetime | None = None
    answered_at: datetime | None = None
    dead_letter: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """That somebody asked to stop; `too_late` when the saga had passed its pivot by then."""

    reason: str
    actor: str
    at: datetime
    too_late: bool = False


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a person is needed, whose duty it is, and when they are reminded next.

    `frozen`: nothing but a person moves the saga; otherwise the answer that it lacks does as well.
    """

    reason: str
    owner: str
    since: datetime
    alert_at: datetime
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a saga ends as it does, in the shape of `contracts.values.Reason`."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One saga. `ending` is how it will finish, as soon as that is decided; `plan` is its compensation, newest first.

    `workflow` is empty while nothing has started it: it is absent, or was cancelled before its start.
    """

    id: str
    state: State = State.ABSENT
    workflow: str = ""
    version: int = 0
    subject: str | None = None
    partner: str | None = None
    actor: str | None = None
    traceparent: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    next_timer_at: datetime | None = None
    ending: State | None = None
    reasons: tuple[Reason, ...] = ()
    input: Payload = field(default_factory=dict, repr=False)
    steps: Mapping[str, StepRecord] = field(default_factory=dict)
    plan: tuple[Compensation, ...] = ()
    cancellation: Cancellation | None = None
    stuck: Stuck | None = None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    def to_bytes(self) -> bytes:
        """Compact JSON; `from_bytes` is its inverse, but for the character NUL, which comes back as U+FFFD."""
        document = _document(self, _INSTANCE)
        if self.steps:
            document["steps"] = {name: _document(record, _STEP) for name, record in self.steps.items()}
        if self.plan:
            document["plan"] = [_document(entry, _COMPENSATION) for entry in self.plan]
        body = to_json(document)
        # PostgreSQL stores JSON with a NUL in it, and then fails each time that any field of it is read in a statement.
        return _NUL.sub(rb"\1\\ufffd", body) if b"\\u0000" in body else body

    @classmethod
    def from_bytes(cls, body: bytes | str) -> "Instance":
        """Reads what `to_bytes` wrote. Fields of a newer writer are ignored."""
        return cls(**_read(from_json(body), _INSTANCE))


@dataclass(frozen=True, slots=True)
class _Shape:
    """A dataclass's fields: their names, how to get them all at once, their defaults, and how to read those not plain JSON."""

    names: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    defaults: tuple[Any, ...]
    known: frozenset[str]
    readers: Mapping[str, Callable[[Any], Any]]


def _shape(kind: type[Any], **readers: Callable[[Any], Any]) -> _Shape:
    items = fields(kind)
    names = tuple(item.name for item in items)
    moments = {item.name: datetime.fromisoformat for item in items if item.type in (datetime, datetime | None)}
    return _Shape(
        names,
        attrgetter(*names),
        tuple({} if item.default_factory is not MISSING else item.default for item in items),
        frozenset(names),
        {**moments, **readers},
    )


_STEP_STATES = {state.value: state for state in StepState}
_UNDO_STATES = {state.value: state for state in UndoState}
_STATES = {state.value: state for state in State}
_STEP = _shape(StepRecord, state=_STEP_STATES.__getitem__)
_COMPENSATION = _shape(Compensation, state=_UNDO_STATES.__getitem__, after=tuple)
_CANCELLATION = _shape(Cancellation)
_STUCK = _shape(Stuck)
_INSTANCE = _shape(
    Instance,
    state=_STATES.__getitem__,
    ending=_STATES.__getitem__,
    reasons=lambda items: tuple(Reason(item["code"], item["detail"]) for item in items),
    steps=lambda items: {name: StepRecord(**_read(item, _STEP)) for name, item in items.items()},
    plan=lambda items: tuple(Compensation(**_read(item, _COMPENSATION)) for item in items),
    cancellation=lambda item: Cancellation(**_read(item, _CANCELLATION)),
    stuck=lambda item: Stuck(**_read(item, _STUCK)),
)


def _document(value: Any, shape: _Shape) -> dict[str, Any]:
    return {
        name: item
        for name, item, default in zip(shape.names, shape.values(value), shape.defaults, strict=True)
        if item is not default and item != default
    }


def _read(document: dict[str, Any], shape: _Shape) -> dict[str, Any]:
    readers = shape.readers
    return {name: readers[name](item) if name in readers else item for name, item in document.items() if name in shape.known}

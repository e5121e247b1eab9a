"""The vocabulary in which a service says what it reacts to. The service decides; the loop (loop.py) does all the rest.

A service supplies pure decisions and bulk loading and saving. It cannot publish, commit or acknowledge, and so cannot do
these in the wrong order. It has no line about duplicates, retries or dead letters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from contracts.envelope import Envelope
from contracts.message import Command, Event, Json, Message

if TYPE_CHECKING:
    # For the checker only: decisions, which import this module, need no database at run time.
    from sqlalchemy.ext.asyncio import AsyncConnection

K = TypeVar("K")
S = TypeVar("S")
M = TypeVar("M", bound=Message)
P = TypeVar("P")

CallOutcome = Literal["done", "refused", "unknown"]
Direction = Literal["event", "do", "undo"]


@dataclass(frozen=True, slots=True)
class Call:
    """An intent: one request to a system outside, committed before it is sent.

    `key` is its idempotency key, stable over every repetition and replay (build it from the operation id). `request` is JSON
    and is stored. The loop makes the call outside any transaction and brings the result back to the route's `conclude`.
    `conclude` of an undo is not told what its do answered. The do may have failed after its call had succeeded, so the service's
    own state has to say what there is to take back.
    """

    dependency: str
    key: str
    request: Json


@dataclass(frozen=True, slots=True)
class CallResult:
    """What became of a call. `unknown` means it may have happened: ask by its key, or take it back, never forget it."""

    call: Call
    outcome: CallOutcome
    response: Json = field(default_factory=dict)


class Dependency(Protocol):
    """A system outside, as an adapter. Raises Transient when it is slow, busy or away; its other exceptions are permanent."""

    async def query(self, call: Call) -> CallResult | None:
        """What the other side knows of this key; None when it has never heard of it."""

    async def perform(self, call: Call) -> CallResult:
        """Sends the request under its key. `refused` only for a definite no."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision may know besides message and state. `now` is the database's clock, the same for the whole batch.

    `calls` are the calls made so far for this operation, in both directions, oldest first (empty for services without
    dependencies). `random` yields numbers in [0, 1). `new_id` yields UUIDv7 strings. `sender` is the broker user that published
    the message, as verified by the broker; None where the publisher did not state it, and for inputs that are rows.
    """

    now: datetime
    envelope: Envelope
    new_id: Callable[[], str]
    random: Callable[[], float]
    calls: tuple[CallResult, ...] = ()
    sender: str | None = None

    @property
    def operation_id(self) -> str:
        """`saga:step`. Only commands have one; the loop has refused a command without it before any decision."""
        assert self.envelope.operationid is not None
        return self.envelope.operationid


@dataclass(frozen=True, slots=True)
class Outbound:
    """A message to be sent with an envelope of its own: commands of the orchestrator. Plain events need no Outbound.

    A field that is None is inherited from the message that caused it (correlation, partner, actor), taken from the message itself
    (subject) or made fresh (id). The id of the cause becomes the causation id.
    """

    message: Message
    message_id: str | None = None
    operation_id: str | None = None
    revision: int = 0
    due_by: datetime | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    partner_id: str | None = None
    actor: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Decision(Generic[S]):
    """What a decision wants. `state` replaces the state it was given (the same object means unchanged).

    `answer` answers a command. There is exactly one: from this decision or, where it makes `calls`, from the `conclude` that is given
    their results. `events` are side events, and are not repeated when the answer is given again. `facts` are rows for the repository
    to write beside the states.
    """

    state: S
    answer: Event | None = None
    events: tuple[Event | Outbound, ...] = ()
    facts: tuple[object, ...] = ()
    calls: tuple[Call, ...] = ()


class Repository(Protocol[K, S]):
    """Bulk access to the states of one kind, within the loop's transaction. It never commits."""

    async def load(self, connection: "AsyncConnection", keys: Sequence[K]) -> Mapping[K, S]:
        """States for all keys (which may repeat), locked. Inserts missing keys first, then locks in a second statement, sorted."""

    async def save(self, connection: "AsyncConnection", changed: Mapping[K, S], facts: Sequence[object]) -> None:
        """Writes changed states and new facts in a constant number of statements. Only updates states; never upserts them."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a consumer's table, in the loop's uniform shape. Built by `on`, `on_many`, `undo`, `undo_many`."""

    model: type[Message]
    direction: Direction
    keys: Callable[[Any, Envelope], Sequence[Any]]
    decide: Callable[[Any, Mapping[Any, Any], Context, Any], Decision[Any]]
    conclude: Callable[[Any, Mapping[Any, Any], Context, Sequence[CallResult]], Decision[Any]] | None = None
    undoes: type[Command] | None = None

    @property
    def wire_name(self) -> str:
        return self.model.wire_name


Decide = Callable[[M, S, Context], Decision[S]]
DecideMany = Callable[[M, Mapping[K, S], Context], Decision[Mapping[K, S]]]
Conclude = Callable[[M, S, Context, Sequence[CallResult]], Decision[S]]
Undo = Callable[[M, S, Context, Any], Decision[S]]
UndoMany = Callable[[M, Mapping[K, S], Context, Any], Decision[Mapping[K, S]]]


def on(model: type[M], decide: Decide[M, S], *, key: Callable[[M], K], conclude: Conclude[M, S] | None = None) -> Route:
    """A command or an event whose decision needs the state of one key."""
    return Route(
        model=model,
        direction=_direction(model),
        keys=lambda message, _: (key(message),),
        decide=lambda message, states, context, _: _one(key(message), lambda s: decide(message, s, context), states),
        conclude=conclude
        and (
            lambda message, states, context, results: _one(key(message), lambda s: conclude(message, s, context, results), states)
        ),
    )


def on_many(model: type[M], decide: DecideMany[M, K, S], *, keys: Callable[[M], Sequence[K]]) -> Route:
    """A command or an event whose decision needs several states. It gets the mapping of just those, and returns a mapping of those
    that it has changed (or the given one)."""
    return Route(
        model=model,
        direction=_direction(model),
        keys=lambda message, _: keys(message),
        decide=lambda message, states, context, _: decide(message, {key: states[key] for key in keys(message)}, context),
    )


def undo(
    model: type[M],
    decide: Undo[M, S],
    *,
    of: type[Command],
    key: Callable[[M], K],
    conclude: Conclude[M, S] | None = None,
) -> Route:
    """The undo of another command. Its decision is given what the do answered, or None where there is nothing to take back."""
    return Route(
        model=model,
        direction="undo",
        keys=lambda message, _: (key(message),),
        decide=lambda message, states, context, done: _one(key(message), lambda s: decide(message, s, context, done), states),
        conclude=conclude
        and (
            lambda message, states, context, results: _one(key(message), lambda s: conclude(message, s, context, results), states)
        ),
        undoes=of,
    )


def undo_many(model: type[M], decide: UndoMany[M, K, S], *, of: type[Command], keys: Callable[[M], Sequence[K]]) -> Route:
    """As `undo`, for a decision that needs several states."""
    return Route(
        model=model,
        direction="undo",
        keys=lambda message, _: keys(message),
        decide=lambda message, states, context, done: decide(message, {key: states[key] for key in keys(message)}, context, done),
        undoes=of,
    )


def _direction(model: type[Message]) -> Direction:
    return "do" if issubclass(model, Command) else "event"


def _one(key: K, decide: Callable[[S], Decision[S]], states: Mapping[K, S]) -> Decision[Mapping[K, S]]:
    before = states[key]
    decision = decide(before)
    return Decision(
        state=states if decision.state is before else {key: decision.state},
        answer=decision.answer,
        events=decision.events,
        facts=decision.facts,
        calls=decision.calls,
    )


@dataclass(frozen=True, slots=True)
class RowInput(Generic[K, P]):
    """An input that is a row and no message: a due timer, an operator's act. `tries` counts committed starts, this included."""

    id: str
    key: K
    payload: P
    tries: int


class RowSource(Protocol[K, S, P]):
    """Inputs that are rows. They pass through the same transaction as messages, after them."""

    @property
    def name(self) -> str:
        """For metrics and logs."""

    async def claim(self, connection: "AsyncConnection", limit: int) -> Sequence[RowInput[K, P]]:
        """Due rows, with their tries raised in the same statement. It is committed before the rows are used, so a crash is counted.

        Skips rows that another replica has locked. A row claimed and not marked done is due again after a short lease.
        """

    def decide(self, row: RowInput[K, P], state: S, context: Context) -> Decision[S]:
        """Pure, like any decision; checks under the lock that the row still applies. Envelope: see `envelope`."""

    def envelope(self, row: RowInput[K, P], now: datetime) -> Envelope:
        """The envelope from which messages that follow inherit correlation, partner, actor and trace."""

    def give_up(self, row: RowInput[K, P], state: S, error: str, context: Context) -> Decision[S]:
        """The visible end, such as `stuck`: `decide` raised, its effect could not be stored, or the row has killed the process
        `suspect_tries_max` times."""

    async def mark_done(self, connection: "AsyncConnection", rows: Sequence[RowInput[K, P]]) -> None:
        """Marks or deletes the rows, in the transaction of their effect."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """One queue and what is done with its messages. `repository` is built once per process.

    `committed` is told what `save` was given, as soon as that is committed. It is for what the process keeps in memory, such as requests
    that wait for an end. After a crash in between it is not called, and other replicas never hear of the commit; so it may only
    spare a poll. It must not block. An exception of it ends the process.
    """

    queue: str
    repository: Repository[Any, Any]
    routes: tuple[Route, ...]
    sources: tuple[RowSource[Any, Any, Any], ...] = ()
    committed: Callable[[Mapping[Any, Any], Sequence[object]], None] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not add up, found by a service about its own data; `kind` says in which list of `tutti reconcile`."""

    kind: Literal["lost", "doubled", "unanswered", "undelivered", "unexplained"]
    id: str
    detail: str
    command: str

"""A small service on which the chassis is tested: accounts, and shipments that need a system outside.

It speaks real messages (credit's and fulfillment's) and keeps tables of its own. Its effects are rows *without* unique keys:
what the chassis lets through twice is there twice, and a test can count it. A message says by its buyer what is to happen:

    ok       is done            busy      raises Transient, for ever          kill        ends the process in the decision
    no       is refused         busy-N    raises Transient the first N times  load-kill   ends the process in `load`
    bug      raises ValueError  load-bad  makes `load` fail by its data       save-bad    makes `save` fail by its data
"""

import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.credit.v1 import CreditDeclined, CreditReleased, CreditReserved, ReleaseCredit, ReserveCredit
from contracts.credit.v2 import LimitChanged
from contracts.envelope import Envelope
from contracts.fulfillment.v1 import (
    CancelShipment,
    CreateShipment,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentNotCancellable,
    ShipmentRefused,
)
from contracts.inventory.v1 import StockRecovered
from contracts.values import Money, Reason, Shipment
from infra.chassis.errors import Transient
from infra.chassis.runtime import Service
from infra.chassis.service import (
    Call,
    CallOutcome,
    CallResult,
    Consumer,
    Context,
    Decision,
    Dependency,
    RowInput,
    RowSource,
    on,
    on_many,
    undo,
)
from infra.chassis.settings import ServiceSettings

QUEUE = "credit.commands"
EVENTS = "credit.events"
ORDER = "ord_" + "0" * 26

TABLES = """
CREATE TABLE account (key text PRIMARY KEY, held bigint NOT NULL DEFAULT 0, booked boolean NOT NULL DEFAULT false);
CREATE TABLE effect (position bigint GENERATED ALWAYS AS IDENTITY, operation_id text, message_id text NOT NULL,
                     direction text NOT NULL, key text NOT NULL, amount bigint NOT NULL);
CREATE TABLE wakeup (id text PRIMARY KEY, key text NOT NULL, mood text NOT NULL DEFAULT 'ok', due_at timestamptz NOT NULL DEFAULT now(),
                     tries integer NOT NULL DEFAULT 0)
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What is held on one key. `booked` says that one of it is a shipment, so that its undo knows what to take back."""

    held: int = 0
    booked: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """A fact: one applied effect. An event has no operation."""

    operation_id: str | None
    message_id: str
    direction: str
    key: str
    amount: int


class Accounts:
    """Accounts and effects in PostgreSQL."""

    async def load(self, connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, Account]:
        wanted = sorted(set(keys))
        if any(key.startswith("load-bad") for key in wanted):
            await connection.execute(text("SELECT 1 / 0"))
        if any(key.startswith("load-kill") for key in wanted):
            end_this_process()
        values = {"keys": wanted}
        await connection.execute(
            text("INSERT INTO account (key) SELECT k FROM unnest(CAST(:keys AS text[])) AS k ORDER BY k ON CONFLICT DO NOTHING"),
            values,
        )
        rows = await connection.execute(
            text("SELECT key, held, booked FROM account WHERE key = ANY(CAST(:keys AS text[])) ORDER BY key FOR UPDATE"), values
        )
        return {key: Account(held, booked) for key, held, booked in rows}

    async def save(self, connection: AsyncConnection, changed: Mapping[str, Account], facts: Sequence[object]) -> None:
        effects = [fact for fact in facts if isinstance(fact, Effect)]
        if any(effect.key.startswith("save-bad") for effect in effects):
            await connection.execute(text("SELECT CAST('not a number' AS integer)"))
        ordered = sorted(changed)
        await connection.execute(
            text(
                "UPDATE account SET held = c.held, booked = c.booked FROM unnest(CAST(:keys AS text[]), CAST(:held AS bigint[]), "
                "CAST(:booked AS boolean[])) AS c (key, held, booked) WHERE account.key = c.key"
            ),
            {
                "keys": ordered,
                "held": [changed[key].held for key in ordered],
                "booked": [changed[key].booked for key in ordered],
            },
        )
        if effects:
            await connection.execute(
                text(
                    "INSERT INTO effect (operation_id, message_id, direction, key, amount) VALUES "
                    "(:operation_id, :message_id, :direction, :key, :amount)"
                ),
                [
                    {
                        "operation_id": one.operation_id, "message_id": one.message_id, "direction": one.direction,
                        "key": one.key, "amount": one.amount,
                    }
                    for one in effects
                ],
            )  # fmt: skip


class LostAnswer(TimeoutError):
    """The request arrives and is carried out, and nobody hears of it."""


@dataclass(slots=True)
class Carrier:
    """The system outside. It carries each key out once and remembers its answer; `live` is what is booked right now.

    `troubles` are raised by its next uses, one each. `refuse` lists bookings that get a definite no.
    """

    live: set[str] = field(default_factory=set)
    booked: Counter[str] = field(default_factory=Counter)
    cancelled: set[str] = field(default_factory=set)
    refuse: set[str] = field(default_factory=set)
    performed: Counter[str] = field(default_factory=Counter)
    queried: Counter[str] = field(default_factory=Counter)
    known: dict[str, CallResult] = field(default_factory=dict)
    troubles: list[Exception] = field(default_factory=list)

    async def query(self, call: Call) -> CallResult | None:
        self.queried[call.key] += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return self.known.get(call.key)

    async def perform(self, call: Call) -> CallResult:
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None and not isinstance(trouble, LostAnswer):
            raise trouble
        self.performed[call.key] += 1
        if call.key not in self.known:
            self.known[call.key] = CallResult(call, self._carry_out(call), {})
        if trouble is not None:
            raise trouble
        return self.known[call.key]

    def _carry_out(self, call: Call) -> CallOutcome:
        booking = str(call.request["booking"])
        if call.key.endswith("/cancel"):
            self.cancelled.add(booking)
            self.live.discard(booking)
            return "done"
        if booking in self.refuse:
            return "refused"
        self.booked[booking] += 1
        self.live.add(booking)
        return "done"


class Failures:
    """Which messages fail how often: `busy-2` fails twice, whichever replica decides it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def meet(self, mood: str, message_id: str) -> None:
        if mood == "bug":
            raise ValueError(f"a bug met {message_id}")
        if mood in ("kill", "load-kill"):
            end_this_process()
        if mood == "busy":
            raise Transient("the bureau is busy")
        if mood.startswith("busy-"):
            self.seen[message_id] += 1
            if self.seen[message_id] <= int(mood[5:]):
                raise Transient("the bureau is busy for the moment")


def end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def buyer_of(command: ReserveCredit | ReleaseCredit | LimitChanged) -> str:
    """The account: what follows the mood in `busy-1.acme`, so that messages of all moods can meet on one account."""
    mood, _, account = command.buyer_id.partition(".")
    return account or mood


def order_of(command: CreateShipment | CancelShipment) -> str:
    return command.order_id


def mood_of(buyer: str) -> str:
    return buyer.split(".")[0]


class Rules:
    """The decisions. Pure but for the failures that they are told to have."""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures

    def reserve(self, command: ReserveCredit, account: Account, context: Context) -> Decision[Account]:
        mood = mood_of(command.buyer_id)
        self._failures.meet(mood, context.envelope.id)
        shared = {"order_id": command.order_id, "buyer_id": command.buyer_id, "amount": command.amount}
        if mood == "huge":
            reasons = tuple(Reason(code="no", detail="x" * 1000) for _ in range(400))
            return Decision(
                replace(account, held=account.held + 1),
                CreditDeclined(**shared, shortfall=command.amount, reasons=reasons),
                facts=(Effect(context.operation_id, context.envelope.id, "do", buyer_of(command), 1),),
            )
        if mood == "no":
            return Decision(account, CreditDeclined(**shared, shortfall=command.amount))
        minor = command.amount.amount_minor
        return Decision(
            replace(account, held=account.held + minor),
            CreditReserved(**shared),
            events=(StockRecovered(sku="A", available=Decimal(2), sequence=1),) if mood == "chatty" else (),
            facts=(Effect(context.operation_id, context.envelope.id, "do", buyer_of(command), minor),),
        )

    def release(
        self, command: ReleaseCredit, account: Account, context: Context, done: CreditReserved | None
    ) -> Decision[Account]:
        self._failures.meet(mood_of(command.buyer_id), context.envelope.id)
        amount = done.amount if done else Money.zero("EUR")
        answer = CreditReleased(order_id=command.order_id, buyer_id=command.buyer_id, amount=amount)
        minor = amount.amount_minor
        facts = (Effect(context.operation_id, context.envelope.id, "undo", buyer_of(command), -minor),)
        return Decision(replace(account, held=account.held - minor), answer, facts=facts)

    def book(self, command: CreateShipment, account: Account, context: Context) -> Decision[Account]:
        self._failures.meet(mood_of(command.priority), context.envelope.id)
        return Decision(account, calls=(Call("carrier", f"{context.operation_id}/book", {"booking": context.operation_id}),))

    def booked(
        self, command: CreateShipment, account: Account, context: Context, results: Sequence[CallResult]
    ) -> Decision[Account]:
        if command.priority.startswith("settle-"):
            self._failures.meet(command.priority.removeprefix("settle-"), context.envelope.id)
        if results[-1].outcome != "done":
            return Decision(account, ShipmentRefused(order_id=command.order_id, reasons=(Reason(code="no", detail="no"),)))
        return Decision(
            Account(account.held + 1, booked=True),
            ShipmentCreated(order_id=command.order_id, shipments=(Shipment(warehouse="W", carrier="C", tracking="T"),)),
            facts=(Effect(context.operation_id, context.envelope.id, "do", command.order_id, 1),),
        )

    def cancel(
        self, command: CancelShipment, account: Account, context: Context, done: ShipmentCreated | None
    ) -> Decision[Account]:
        if done is None and all(result.outcome == "refused" for result in context.calls):
            return Decision(account, ShipmentCancelled(order_id=command.order_id, shipments=()))
        return Decision(account, calls=(Call("carrier", f"{context.operation_id}/cancel", {"booking": context.operation_id}),))

    def cancelled(
        self, command: CancelShipment, account: Account, context: Context, results: Sequence[CallResult]
    ) -> Decision[Account]:
        held = 1 if account.booked else 0
        if results[-1].outcome != "done":
            reasons = (Reason(code="no", detail="no"),)
            return Decision(account, ShipmentNotCancellable(order_id=command.order_id, reasons=reasons))
        return Decision(
            Account(account.held - held, booked=False),
            ShipmentCancelled(order_id=command.order_id, shipments=()),
            facts=(Effect(context.operation_id, context.envelope.id, "undo", command.order_id, -held),),
        )

    def change(self, event: LimitChanged, accounts: Mapping[str, Account], context: Context) -> Decision[Mapping[str, Account]]:
        self._failures.meet(mood_of(event.buyer_id), context.envelope.id)
        key, minor = buyer_of(event), event.limit.amount_minor
        account = accounts[key]
        return Decision(
            {key: replace(account, held=account.held + minor)},
            facts=(Effect(None, context.envelope.id, "event", key, minor),),
        )


def service(
    *,
    failures: Failures | None = None,
    carrier: Dependency | None = None,
    sources: tuple[RowSource[Any, Any, Any], ...] = (),
    queue: str = QUEUE,
) -> Service:
    """Everything on one queue, so that all of it can meet in one batch."""
    rules = Rules(failures or Failures())
    return Service(
        name="credit",
        consumers=(
            Consumer(
                queue=queue,
                repository=Accounts(),
                routes=(
                    on(ReserveCredit, rules.reserve, key=buyer_of),
                    undo(ReleaseCredit, rules.release, of=ReserveCredit, key=buyer_of),
                    on(CreateShipment, rules.book, key=order_of, conclude=rules.booked),
                    undo(CancelShipment, rules.cancel, of=CreateShipment, key=order_of, conclude=rules.cancelled),
                    on_many(LimitChanged, rules.change, keys=lambda e: (buyer_of(e),)),
                ),
                sources=sources,
            ),
        ),
        dependencies={"carrier": carrier or Carrier()},
    )


async def create_tables(connection: AsyncConnection) -> None:
    for statement in TABLES.split(";"):
        await connection.execute(text(statement))


Wakeup = RowInput[str, str]


class Wakeups:
    """Rows as inputs: the simplest timers there can be."""

    name = "wakeup"

    async def claim(self, connection: AsyncConnection, limit: int) -> Sequence[Wakeup]:
        rows = await connection.execute(
            text(
                "UPDATE wakeup SET tries = tries + 1, due_at = now() + interval '1 second' WHERE id IN (SELECT id FROM wakeup "
                "WHERE due_at <= now() ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING id, key, mood, tries"
            ),
            {"limit": limit},
        )
        return [RowInput(row.id, row.key, row.mood, row.tries) for row in rows]

    def decide(self, row: Wakeup, state: Account, context: Context) -> Decision[Account]:
        Failures().meet(row.payload, row.id)
        return Decision(replace(state, held=state.held + 1), facts=(Effect(None, row.id, "row", row.key, 1),))

    def envelope(self, row: Wakeup, now: datetime) -> Envelope:
        return Envelope(id=row.id, source="/ledger", type="wakeup", time=now, data={}, correlationid=row.key)

    def give_up(self, row: Wakeup, state: Account, error: str, context: Context) -> Decision[Account]:
        return Decision(state, facts=(Effect(None, row.id, "given-up", row.key, 0),))

    async def mark_done(self, connection: AsyncConnection, rows: Sequence[Wakeup]) -> None:
        await connection.execute(text("DELETE FROM wakeup WHERE id = ANY(:ids)"), {"ids": [row.id for row in rows]})


def settings(**values: Any) -> ServiceSettings:
    """Settings that reach nothing, with retries that are due at once."""
    given = {
        "database_url": "postgresql://nobody@localhost/none", "broker_url": "amqp://nobody@localhost/", "operator_token": "t",
        "retry_first_seconds": 0.001, "retry_delay_seconds_max": 0.001,
    }  # fmt: skip
    return ServiceSettings(**{**given, **values})

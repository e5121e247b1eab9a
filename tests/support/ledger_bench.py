"""Real loops on a real database, one turn at a time, with a recording broker: what the chassis' tests work on."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from infra.chassis.caller import Caller
from infra.chassis.database import async_url
from infra.chassis.decoding import Raw
from infra.chassis.hot_connection import Row
from infra.chassis.loop import Delivery, Loop
from infra.chassis.outbox import OutboxRow
from infra.chassis.service import RowSource
from infra.chassis.settings import ServiceSettings
from infra.chassis.workplace import Workplace
from tests.support import ledger_service
from tests.support.ledger_service import Carrier, Failures

TURNS_MAX = 60
# Every turn looks for due rows, and a claim ends at once, so that a test need not wait for the clock.
PROMPT = dict.fromkeys(("retry_lease_seconds", "retry_poll_seconds", "calls_over_poll_seconds"), 1e-6)


@dataclass(slots=True)
class RecordingChannel:
    """Acknowledges nothing, remembers everything. `broken` is what a channel says after its connection has died."""

    acknowledged: list[int] = field(default_factory=list)
    broken: bool = False

    async def acknowledge(self, tag: int) -> None:
        if self.broken:
            raise ConnectionError("the channel that delivered the message is gone")
        self.acknowledged.append(tag)


@dataclass(slots=True)
class RecordingRelay:
    """What was handed over after a commit. Nothing leaves the outbox here, so the tables keep the whole story."""

    rows: list[OutboxRow] = field(default_factory=list)

    def submit(self, rows: Sequence[OutboxRow]) -> None:
        self.rows += rows


class Replica:
    """One process' loop and caller on the shared database."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        failures: Failures | None = None,
        carrier: Carrier | None = None,
        settings: ServiceSettings | None = None,
        sources: tuple[RowSource[Any, Any, Any], ...] = (),
        committed: Callable[..., None] | None = None,
    ) -> None:
        self.engine = engine
        self.channel = RecordingChannel()
        self.relay = RecordingRelay()
        self.service = ledger_service.service(failures=failures, carrier=carrier, sources=sources)
        self.settings = (settings or ledger_service.settings(call_lease_seconds=0.001)).model_copy(update=PROMPT)
        self.on_calls = asyncio.Event()
        self.loop = Loop(
            Workplace("credit", "0", replace(self.service.consumers[0], committed=committed), self.settings, external=True),
            engine,
            self.relay,
            self.on_calls,
        )
        self.caller = Caller("credit", engine, self.settings, self.service.dependencies, [self.loop], self.on_calls)
        self._tag = 0

    def delivery(self, raw: Raw) -> Delivery:
        self._tag += 1
        return Delivery(raw, self.channel, self._tag, datetime.now(UTC))

    async def turn(self, *raws: Raw) -> None:
        """One turn of the loop: these deliveries as one batch, then every row that is due."""
        # `run` decides by the clock when to turn; a test decides itself, so that each step is one transaction.
        await self.loop.turn([self.delivery(raw) for raw in raws])

    def hold_retries(self, held: bool = True) -> None:
        """Leaves due retries where they are, for a test that looks at them between two turns."""
        self.loop.due_rows._next_retries = float("inf") if held else 0.0

    def backlog_measured(self, ready: int) -> None:
        """The watchdog did it a minute ago."""
        self.loop.backlog.measured(ready, time.monotonic() - 60)

    def ready_for_rows(self) -> None:
        """Rows wait until the queue's backlog has been read; here there is none, and nothing has come since."""
        self.backlog_measured(0)
        self.loop.backlog.delivered(time.monotonic() - 60)

    def stand_still(self) -> None:
        """As if the process had been frozen for ten seconds."""
        self.loop.backlog.turned_at -= 10.0

    def forget_calls(self) -> None:
        """As another process, which has heard of no call that is over."""
        self.loop.due_rows.concluding.clear()

    async def call(self) -> int:
        """Makes every call that is due, and returns how many there were."""
        leased = await self.caller._lease(100)
        for one in leased:
            await self.caller._make(one)
        return len(leased)


@dataclass(slots=True)
class Bench:
    """A database with the ledger's tables, and what happened in it."""

    engine: AsyncEngine
    failures: Failures = field(default_factory=Failures)
    carrier: Carrier = field(default_factory=Carrier)

    def replica(self, engine: AsyncEngine | None = None, **values: Any) -> Replica:
        return Replica(engine or self.engine, failures=self.failures, carrier=self.carrier, **values)

    async def rows(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(query), values)]

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def held(self, key: str) -> int:
        found = await self.rows("SELECT held FROM account WHERE key = :key", key=key)
        return int(found[0][0]) if found else 0

    async def effects(self, operation: str | None = None) -> list[str]:
        """Directions of the applied effects, in order."""
        condition = "WHERE operation_id = :operation" if operation else ""
        values = {"operation": operation} if operation else {}
        return [row[0] for row in await self.rows(f"SELECT direction FROM effect {condition} ORDER BY position", **values)]

    async def sent(self, wire_name: str) -> list[dict[str, Any]]:
        """Messages of this type on their way out, oldest first, as documents."""
        found = await self.rows("SELECT body FROM outbox WHERE type = :type ORDER BY position", type=wire_name)
        return [json.loads(body) for (body,) in found]

    async def verdicts(self) -> list[str]:
        return [document["data"]["verdict"] for document in await self.sent("deadletters.replay-handled.v1")]

    async def letters(self) -> list[dict[str, Any]]:
        """Dead letters on their way to the desk: what `x-failure` says."""
        found = await self.rows("SELECT headers FROM outbox WHERE exchange = 'dead-letters' ORDER BY position")
        return [json.loads(json.loads(headers)["x-failure"]) for (headers,) in found]

    async def inbox(self) -> dict[str, str]:
        return dict(await self.rows("SELECT message_id, state FROM inbox"))

    async def operation(self, operation_id: str) -> Any:
        found = await self.rows("SELECT state, do_answer, undo_answer FROM operation WHERE operation_id = :id", id=operation_id)
        return found[0] if found else None

    async def finish(self, replica: Replica) -> None:
        """Turns and calls until nothing is due or pending any more. Raises AssertionError when that never comes."""
        for _ in range(TURNS_MAX):
            called = await replica.call()
            await replica.turn()
            waiting = await self.rows(
                "SELECT (SELECT count(*) FROM retry), (SELECT count(*) FROM call WHERE state = 'due'), "
                "(SELECT count(*) FROM operation WHERE pending_do IS NOT NULL OR pending_undo IS NOT NULL)"
            )
            if not called and not any(waiting[0]):
                return
        raise AssertionError(f"still waiting after {TURNS_MAX} turns: retries, calls, pending = {waiting[0]}")


def connect(url: str, **values: Any) -> AsyncEngine:
    """An engine on the ledger's schema, as administrator, with rows as the loop's transaction reads them."""
    given = {"record_class": Row, "server_settings": {"search_path": "credit"}, **values}
    return create_async_engine(async_url(url), connect_args=given, pool_size=4, max_overflow=0)

"""Two replicas on one database, and Hypothesis as the bad luck between them.

Each step is one turn of a loop with some deliveries: new ones, old ones again, replays; with all retries, calls and settlings that
are due. A turn may be ended at any of its statements, as by a crash, or be held there while the other replica has its own turn on
the same operations and events. After every step the tables are looked at; in the end everything is delivered, and everything taken back.

More examples: TUTTI_HYPOTHESIS_EXAMPLES=1000; shorter failures: TUTTI_HYPOTHESIS_SHRINK=1. A failure prints the steps and a blob that repeats them.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import event
from sqlalchemy.util import await_only

from infra.chassis.decoding import Raw
from tests.support.ledger_bench import Bench, Replica, connect
from tests.support.ledger_messages import cancel_shipment, create_shipment, limit_changed, release, replayed, reserve, unreadable
from tests.support.ledger_service import LostAnswer

EXAMPLES = int(os.environ.get("TUTTI_HYPOTHESIS_EXAMPLES", "60"))
STEPS = 14
# Shrinking takes minutes here; without it a failure is longer to read, and comes at once.
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("TUTTI_HYPOTHESIS_SHRINK") else [Phase.generate]
WAIT_SECONDS = 20.0

ANSWERS = {
    "do": (
        "credit.credit-reserved.v1",
        "credit.credit-declined.v1",
        "fulfillment.shipment-created.v1",
        "fulfillment.shipment-refused.v1",
    ),
    "undo": ("credit.credit-released.v1", "fulfillment.shipment-cancelled.v1"),
}

Step = int | None
"""The number of a statement within one turn, counted from 1."""
STEP = st.none() | st.integers(1, 16)


class Crash(BaseException):
    """The process is gone. Nothing of ours may catch it."""


class Statements:
    """Counts the statements of an engine of its own, and lets things happen before a chosen one."""

    def __init__(self, url: str) -> None:
        self._left: Step = None
        self._held: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.crash = False
        statements = self

        class Counted(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
            """The loop's own statements go to the driver's `fetch`, its BEGIN and COMMIT to `execute`; all others pass SQLAlchemy's
            event."""

            async def fetch(self, *arguments: Any, **values: Any) -> Any:
                await statements.before()
                return await super().fetch(*arguments, **values)

            async def execute(self, *arguments: Any, **values: Any) -> Any:
                await statements.before()
                return await super().execute(*arguments, **values)

        self.engine = connect(url, connection_class=Counted)
        event.listen(self.engine.sync_engine, "before_cursor_execute", lambda *_: await_only(self.before()))

    @contextmanager
    def interrupted(self, step: Step, held: asyncio.Event | None = None) -> Iterator[None]:
        """Before the chosen statement: waits for `held`, then crashes if `crash` says so."""
        self._left, self._held = step, held
        self.reached.clear()
        try:
            yield
        finally:
            self._left = self._held = None

    async def before(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left:
            return
        self._left = None
        self.reached.set()
        if self._held is not None:
            await self._held.wait()
        if self.crash:
            raise Crash


class World:
    """What outlives an example: the database, two engines, an event loop."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.examples = count(1)
        self.seen = dict.fromkeys(("crash", "race", "blocked", "letter"), 0)
        self.runner.run(self._open(url))

    async def _open(self, url: str) -> None:
        self.bench = Bench(connect(url))
        self.statements = (Statements(url), Statements(url))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(WAIT_SECONDS):
                return await work

        return self.runner.run(bounded())

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        for engine in (self.bench.engine, *(one.engine for one in self.statements)):
            await engine.dispose()


class OneOperation(RuleBasedStateMachine):
    messages = Bundle("messages")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.bench = replace(world.bench, failures=type(world.bench.failures)(), carrier=type(world.bench.carrier)())
        self.number = next(world.examples)
        self.plain, self.calling = f"x{self.number}:plain", f"x{self.number}:calling"
        self.order = f"ord_{self.number:026d}"
        self.published: dict[str, Raw] = {}
        self.events: list[str] = []
        self.replays: list[Raw] = []
        self.outcomes: dict[tuple[str, str], bytes] = {}
        self.replicas = [self._replica(0), self._replica(1)]

    def _replica(self, which: int) -> Replica:
        return self.bench.replica(self.world.statements[which].engine)

    # What is published.

    @initialize(target=messages)
    def publish_a_do(self) -> Raw:
        return self._published(reserve(self.plain, buyer=f"ok.{self.order}", order=self.order))

    @rule(target=messages, mood=st.sampled_from(["ok", "ok", "busy-1", "busy-4", "bug", "no"]), revision=st.integers(0, 2))
    def publish_do(self, mood: str, revision: int) -> Raw:
        return self._published(reserve(self.plain, buyer=f"{mood}.{self.order}", order=self.order, revision=revision))

    @rule(target=messages, mood=st.sampled_from(["ok", "ok", "busy-1", "busy-4", "bug"]), revision=st.integers(0, 2))
    def publish_undo(self, mood: str, revision: int) -> Raw:
        return self._published(release(self.plain, buyer=f"{mood}.{self.order}", order=self.order, revision=revision))

    @rule(target=messages, priority=st.sampled_from(["ok", "ok", "busy-1", "settle-busy-1", "bug"]), revision=st.integers(0, 2))
    def publish_calling_do(self, priority: str, revision: int) -> Raw:
        return self._published(create_shipment(self.calling, priority=priority, order=self.order, revision=revision))

    @rule(target=messages, revision=st.integers(0, 2))
    def publish_calling_undo(self, revision: int) -> Raw:
        return self._published(cancel_shipment(self.calling, order=self.order, revision=revision))

    @rule(target=messages, mood=st.sampled_from(["ok", "ok", "busy-1", "bug"]))
    def publish_event(self, mood: str) -> Raw:
        raw = limit_changed(f"{mood}.{self.order}", minor=0, correlationid=f"x{self.number}")
        self.events.append(str(raw.message_id))
        return self._published(raw)

    @rule(target=messages, message=messages, spoilt=st.sampled_from([False, False, True]))
    def publish_replay(self, message: Raw, spoilt: bool) -> Raw:
        raw = replayed(unreadable(message) if spoilt else message, "dl_x", len(self.replays) + 1)
        self.replays.append(raw)
        return raw

    def _published(self, raw: Raw) -> Raw:
        self.published[str(raw.message_id)] = raw
        return raw

    # What happens to it.

    @rule(batch=st.lists(messages, min_size=1, max_size=4), which=st.integers(0, 1), step=STEP)
    def deliver(self, batch: list[Raw], which: int, step: Step) -> None:
        self._turn(which, batch, step)

    @rule(which=st.integers(0, 1), step=STEP)
    def take_due_rows(self, which: int, step: Step) -> None:
        self._turn(which, [], step)

    @rule(which=st.integers(0, 1), step=STEP, trouble=st.sampled_from(["none", "away", "lost-answer"]), refuse=st.booleans())
    def make_calls(self, which: int, step: Step, trouble: str, refuse: bool) -> None:
        troubles: dict[str, list[Exception]] = {"none": [], "away": [TimeoutError()], "lost-answer": [LostAnswer()]}
        self.bench.carrier.troubles = troubles[trouble]
        if refuse and self.calling not in self.bench.carrier.booked:
            self.bench.carrier.refuse.add(self.calling)
        self.world.run(self._crashing(which, step, self.replicas[which].call()))
        self.bench.carrier.troubles = []

    @rule(
        mine=st.lists(messages, min_size=1, max_size=3), theirs=st.lists(messages, min_size=1, max_size=3), which=st.integers(0, 1),
        step=st.integers(2, 9), crash=st.booleans(),
    )  # fmt: skip
    def race(self, mine: list[Raw], theirs: list[Raw], which: int, step: int, crash: bool) -> None:
        self.world.run(self._race(mine, theirs, which, step, crash))

    def _turn(self, which: int, batch: list[Raw], step: Step) -> None:
        self.world.run(self._crashing(which, step, self.replicas[which].turn(*batch)))

    async def _crashing(self, which: int, step: Step, work: Awaitable[Any]) -> None:
        statements = self.world.statements[which]
        statements.crash = True
        with statements.interrupted(step):
            try:
                await work
            except Crash:
                self.world.seen["crash"] += 1
                self.replicas[which] = self._replica(which)

    async def _race(self, mine: list[Raw], theirs: list[Raw], which: int, step: int, crash: bool) -> None:
        """One turn is held at a statement until the other replica's turn is over or waits for a lock of the first."""
        statements, go = self.world.statements[which], asyncio.Event()
        statements.crash = crash
        with statements.interrupted(step, go):
            first = asyncio.create_task(self.replicas[which].turn(*mine))
            reached = asyncio.create_task(statements.reached.wait())
            await asyncio.wait([first, reached], return_when=asyncio.FIRST_COMPLETED)
            second = asyncio.create_task(self.replicas[1 - which].turn(*theirs))
            while not second.done() and not await self._blocked():
                await asyncio.wait([second], timeout=0.005)
            self.world.seen["race"] += reached.done()
            self.world.seen["blocked"] += not second.done()
            reached.cancel()
            go.set()
            results = await asyncio.gather(first, second, return_exceptions=True)
        for one in results:
            if isinstance(one, Crash):
                self.world.seen["crash"] += 1
                self.replicas[which] = self._replica(which)
            elif one is not None:
                raise one

    async def _blocked(self) -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await self.bench.rows(query))

    # What must hold.

    @invariant()
    def each_direction_has_at_most_one_effect_and_an_outcome_never_changes(self) -> None:
        self.world.run(self._check())

    async def _check(self) -> None:
        for operation in (self.plain, self.calling):
            effects = await self.bench.effects(operation)
            assert effects.count("do") <= 1, effects
            assert effects.count("undo") <= 1, effects
            row = await self.bench.operation(operation)
            for direction, answer in zip(("do", "undo"), row[1:] if row else (), strict=False):
                if answer is not None:
                    assert self.outcomes.setdefault((operation, direction), bytes(answer)) == answer
        assert self.bench.carrier.booked[self.calling] <= 1
        for message_id in self.events:
            assert await self._effects_of_event(message_id) <= 1

    async def _effects_of_event(self, message_id: str) -> int:
        return len(await self.bench.rows("SELECT 1 FROM effect WHERE message_id = :id", id=message_id))

    def teardown(self) -> None:
        self.world.run(self._finish())

    async def _finish(self) -> None:
        bench, replica = self.bench, self.replicas[0]
        for raw in (*self.published.values(), *self.replays):
            await replica.turn(raw)
        await bench.finish(replica)
        await self._check()
        await self._check_traces()
        await replica.turn(
            release(self.plain, buyer=f"ok.{self.order}", order=self.order, revision=9),
            cancel_shipment(self.calling, order=self.order, revision=9),
        )
        await bench.finish(replica)
        await self._check()
        await self._check_answers()
        await self._check_nothing_is_held()

    async def _check_traces(self) -> None:
        """Every message has its inbox row; what is dead has its dead letter; every replay has a verdict or a dead letter."""
        inbox = await self.bench.inbox()
        letters = [one for one in await self.bench.letters() if one["correlation_id"] == f"x{self.number}"]
        for message_id in self.published:
            assert inbox[message_id] in ("handled", "dead")
            if inbox[message_id] == "dead":
                assert any(letter["message_id"] == message_id for letter in letters)
            if message_id in self.events:
                assert await self._effects_of_event(message_id) == (1 if inbox[message_id] == "handled" else 0)
        proofs = [
            one["data"]
            for one in await self.bench.sent("deadletters.replay-handled.v1")
            if one["correlationid"] == f"x{self.number}"
        ]
        told = {proof["replay"] for proof in proofs} | {letter["replay"] for letter in letters}
        assert set(range(1, len(self.replays) + 1)) <= told
        self.world.seen["letter"] += len(letters)

    async def _check_answers(self) -> None:
        """What was answered is what is stored, each time; every outcome was answered at least once."""
        for (operation, direction), stored in self.outcomes.items():
            answers = [
                document["data"]
                for wire_name in ANSWERS[direction]
                for document in await self.bench.sent(wire_name)
                if document["operationid"] == operation
            ]
            assert answers
            assert all(answer == json.loads(stored) for answer in answers)

    async def _check_nothing_is_held(self) -> None:
        """Everything has been undone by now, whatever came first."""
        assert "undo" in {direction for operation, direction in self.outcomes if operation == self.plain}
        assert "undo" in {direction for operation, direction in self.outcomes if operation == self.calling}
        assert await self.bench.held(self.order) == 0
        assert self.bench.carrier.live == set()


@pytest.mark.timeout(600)
def test_two_replicas_agree_on_every_operation_whatever_happens_between_them(ledger_url: str) -> None:
    world = World(ledger_url)
    try:
        run_state_machine_as_test(
            lambda: OneOperation(world),  # type: ignore[arg-type]  # documented as a class or a factory, typed as a class
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                print_blob=True,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=PHASES,
            ),
        )
    finally:
        world.close()
    print(world.seen)
    if EXAMPLES >= 60:
        for injected in ("crash", "race", "blocked", "letter"):
            assert world.seen[injected] > 0, f"no {injected} was ever injected: the machine proves nothing"

"""A real process, a real broker, and SIGKILL: between any two writes, in the middle of a decision, again and again."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import asyncpg
import pytest
from sqlalchemy import text
from yarl import URL

from infra.broker import topology
from infra.broker.publisher import Outcome, Outgoing, Publisher
from infra.chassis import inbox, retries
from infra.chassis.crash_points import POINTS
from infra.chassis.decoding import Raw
from infra.chassis.retries import Retry
from infra.chassis.schema import upgrade
from infra.stack.local.process import end_with_parent
from tests.support.ledger.wiring import TABLE
from tests.support.ledger_bench import Bench, connect
from tests.support.ledger_messages import cancel_shipment, create_shipment, release, reserve
from tests.support.ledger_service import QUEUE, create_tables
from tests.support.servers import TestBroker, TestServers
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
WAIT_SECONDS = 60.0
PASSWORDS = {user: f"of-{user}" for user in topology.USERS}
STARTS_MAX = 12

# The stream has to make the process pass the point, and to be in the middle of something when it does.
NTH = {"before-call": 2, "after-call": 2, "before-commit": 2, "after-commit": 2}


@dataclass(slots=True)
class Stage:
    """A vhost and a database in which the ledger process runs, is killed, and runs again."""

    broker: TestBroker
    bench: Bench
    database_url: str
    orchestrator: Publisher
    log: Path
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    letters: list[dict[str, Any]] = field(default_factory=list)
    running: asyncio.subprocess.Process | None = None

    def url_of(self, user: str) -> str:
        return str(URL(self.broker.url).with_user(user).with_password(PASSWORDS[user]))

    async def start(self, crash_point: str = "") -> asyncio.subprocess.Process:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TUTTI_")},
            "TUTTI_CRASH_POINT": crash_point,
            "TUTTI_LEDGER__DATABASE_URL": self.database_url,
            "TUTTI_LEDGER__BROKER_URL": self.url_of("credit"),
            "TUTTI_LEDGER__OPERATOR_TOKEN": "t",
            "TUTTI_LEDGER__SWEEP_AGE_SECONDS": "0.3",
            "TUTTI_LEDGER__SWEEP_INTERVAL_SECONDS": "0.1",
            "TUTTI_LEDGER__PUBLISH_TIMEOUT_SECONDS": "2",
            "TUTTI_LEDGER__CALL_TIMEOUT_SECONDS": "5",
            "TUTTI_LEDGER__CALL_LEASE_SECONDS": "1",
            # A killed process leaves its claims behind; a test does not wait ten seconds for them.
            "TUTTI_LEDGER__RETRY_LEASE_SECONDS": "1",
            "TUTTI_LEDGER__RETRY_FIRST_SECONDS": "0.05",
            # Each new process has forgotten who has been busy already, so the same message may fail once in each.
            "TUTTI_LEDGER__RETRY_ATTEMPTS_MAX": "20",
            "TUTTI_LEDGER__RETRY_BUDGET_SECONDS": "300",
            "TUTTI_LEDGER__BATCH_SIZE_MAX": "20",
        }
        with self.log.open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.support.ledger"),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent(signal.SIGTERM),
            )
        return self.running

    async def death(self) -> int:
        """The exit code of the running process, which is about to be killed. Raises TimeoutError when it lives on."""
        assert self.running is not None
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.running.wait()

    async def stop(self) -> None:
        if self.running is not None and self.running.returncode is None:
            self.running.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WAIT_SECONDS):
                assert await self.running.wait() == 0

    async def send(self, *raws: Raw) -> None:
        receipts = await self.orchestrator.publish([outgoing(raw) for raw in raws])
        assert {receipt.outcome for receipt in receipts} == {Outcome.CONFIRMED}

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        running = self.running
        assert running is not None

        async def look() -> bool:
            assert running.returncode is None, f"the process ended with {running.returncode}; see {self.log}"
            return await condition()

        await wait_until(look, within=WAIT_SECONDS)

    async def outbox_is_empty(self) -> bool:
        return not await self.bench.rows("SELECT 1 FROM outbox")


def outgoing(raw: Raw) -> Outgoing:
    assert raw.message_id is not None
    return Outgoing(
        exchange=raw.exchange, routing_key=raw.routing_key, message_id=raw.message_id, body=raw.body,
        content_type=str(raw.content_type), type=str(raw.type), correlation_id="c", app_id="orchestrator", user_id="orchestrator",
        timestamp=datetime.now(UTC), headers={},
    )  # fmt: skip


@pytest.fixture
async def stage(servers: TestServers, broker: TestBroker, database_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    await asyncio.to_thread(
        topology.apply, servers.management_url, topology.definitions(PASSWORDS, vhost=broker.vhost), administrator=broker.user
    )
    # The ledger answers for two services on one queue, so that calls and plain commands meet in one batch.
    await broker.management("POST", f"bindings/{broker.vhost}/e/commands/q/{quote(QUEUE)}", {"routing_key": "fulfillment.#"})
    everything = {"exchange": "events", "write": ".*", "read": ".*"}
    await broker.management("PUT", f"topic-permissions/{broker.vhost}/credit", everything)
    url = await prepared_database(database_url)
    orchestrator = Publisher(
        str(URL(broker.url).with_user("orchestrator").with_password(PASSWORDS["orchestrator"])), name="orchestrator of a test"
    )
    await orchestrator.connect()
    engine = connect(url)
    stage = Stage(broker, Bench(engine), url, orchestrator, tmp_path / "ledger.log")
    try:
        async with collected(stage):
            yield stage
    finally:
        if stage.running is not None and stage.running.returncode is None:
            stage.running.kill()
            await stage.running.wait()
        await orchestrator.close()
        await engine.dispose()


async def prepared_database(url: str) -> str:
    await upgrade(url, "credit", "tests.support")
    engine = connect(url)
    async with engine.begin() as connection:
        await create_tables(connection)
        await connection.execute(text(TABLE))
    await engine.dispose()
    connection = await asyncpg.connect(url)
    await connection.execute(f'ALTER DATABASE "{URL(url).path[1:]}" SET search_path = credit')
    await connection.close()
    return url


@contextlib.asynccontextmanager
async def collected(stage: Stage) -> AsyncIterator[None]:
    """Counts answers by operation and type, and keeps what the dead letters say, as they come over the broker."""
    connection = await aio_pika.connect(stage.broker.url)
    try:
        channel = await connection.channel()
        answers = await channel.declare_queue("answers", durable=True)
        await answers.bind("events", "#")

        async def take_answer(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            document = json.loads(message.body)
            stage.answers[document.get("operationid", ""), document["type"]] += 1

        async def take_letter(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            stage.letters.append(json.loads(str(message.headers["x-failure"])))

        await answers.consume(take_answer, no_ack=True)
        await (await channel.get_queue(f"{QUEUE}.dead")).consume(take_letter, no_ack=True)
        yield
    finally:
        await connection.close()


def stream(name: str) -> Sequence[Raw]:
    """Commands of every kind: plain ones, some with their undo, some that fail first, some with calls."""
    raws: list[Raw] = []
    for number in range(12):
        raws += [
            reserve(f"{name}-{number}:plain", buyer=f"ok.{name}{number % 3}"),
            reserve(f"{name}-{number}:again", buyer=f"busy-1.{name}{number % 3}"),
            reserve(f"{name}-{number}:undone", buyer=f"ok.{name}{number % 3}"),
            release(f"{name}-{number}:undone", buyer=f"ok.{name}{number % 3}"),
        ]
        if number % 3 == 0:
            raws += [create_shipment(f"{name}-{number}:shipped"), create_shipment(f"{name}-{number}:cancelled")]
            raws += [cancel_shipment(f"{name}-{number}:cancelled")]
    return raws


def expected(raws: Sequence[Raw]) -> Iterator[tuple[str, str]]:
    answer_of = {
        "credit.reserve-credit.v1": "credit.credit-reserved.v1",
        "credit.release-credit.v1": "credit.credit-released.v1",
        "fulfillment.create-shipment.v1": "fulfillment.shipment-created.v1",
        "fulfillment.cancel-shipment.v1": "fulfillment.shipment-cancelled.v1",
    }
    for raw in raws:
        yield json.loads(raw.body)["operationid"], answer_of[raw.routing_key]


@pytest.mark.timeout(300)
async def test_killed_at_every_point_in_turn_each_operation_has_one_effect_and_each_command_its_answer(stage: Stage) -> None:
    sent: list[Raw] = []
    for point in POINTS:
        raws = stream(point)
        sent += raws
        await stage.send(*raws)
        await stage.start(f"credit:{point}:{NTH.get(point, 1)}")
        assert await stage.death() == -signal.SIGKILL, f"{point} was never passed: this proves nothing"

    await stage.start()
    wanted = set(expected(sent))

    async def everything_is_answered() -> bool:
        return wanted <= set(stage.answers) and await stage.outbox_is_empty()

    try:
        await stage.until(everything_is_answered)
    except TimeoutError:
        missing = sorted(wanted - set(stage.answers))
        left = await stage.bench.rows("SELECT type, parked, attempts, last_error FROM outbox")
        pytest.fail(f"not answered: {missing}; outbox: {left}; letters: {stage.letters}; log: {stage.log}")
    await stage.stop()

    effects = Counter(await stage.bench.rows("SELECT operation_id, direction FROM effect"))
    undone = {row for row in effects if row[1] == "undo"}
    assert set(effects.values()) == {1}
    assert {operation for operation, _ in effects} == {operation for operation, _ in wanted}
    assert {operation for operation, _ in undone} == {op for op, _ in wanted if op.endswith((":undone", ":cancelled"))}
    assert stage.letters == []
    assert {state for (state,) in await stage.bench.rows("SELECT DISTINCT state FROM inbox")} == {"handled"}
    assert await stage.bench.rows("SELECT 1 FROM retry") == []
    assert await stage.bench.rows("SELECT 1 FROM operation WHERE pending_do IS NOT NULL OR pending_undo IS NOT NULL") == []
    answered = {wire_name for _, wire_name in stage.answers}
    assert len(answered) == 4
    held = sum(minor for (minor,) in await stage.bench.rows("SELECT held FROM account"))
    assert held == sum(minor for (minor,) in await stage.bench.rows("SELECT amount FROM effect"))


@pytest.mark.timeout(300)
async def test_a_message_that_kills_the_process_becomes_a_dead_letter_and_its_neighbours_are_handled(stage: Stage) -> None:
    killer = reserve("killer:step", buyer="kill.K")
    neighbours = [reserve(f"neighbour-{number}:step", buyer="ok.K") for number in range(20)]
    await stage.send(*neighbours[:10], killer, *neighbours[10:])

    deaths = await die_until(stage, lambda: _true(bool(stage.letters)))
    await stage.until(lambda: _answered(stage, 20))
    await stage.stop()

    assert deaths >= 4, "two deliveries together with its neighbours, three tries alone"
    (letter,) = stage.letters
    assert (letter["kind"], letter["message_id"]) == ("crash-loop", killer.message_id)
    assert Counter(await stage.bench.effects()) == {"do": 20}


@pytest.mark.timeout(300)
async def test_a_retry_that_kills_the_process_becomes_a_dead_letter_and_its_neighbours_are_handled(stage: Stage) -> None:
    killer = reserve("killer:step", buyer="kill.K")
    rows = [reserve(f"neighbour-{number}:step", buyer="ok.K") for number in range(10)] + [killer]
    await waiting_as_retries(stage, rows)

    deaths = await die_until(stage, lambda: _true(bool(stage.letters)))
    await stage.until(lambda: _answered(stage, 10))
    await stage.stop()

    assert deaths == 4, "once together with its neighbours, three recorded tries alone"
    (letter,) = stage.letters
    assert (letter["kind"], letter["message_id"]) == ("crash-loop", killer.message_id)
    assert Counter(await stage.bench.effects()) == {"do": 10}
    assert await stage.bench.rows("SELECT 1 FROM retry") == []


async def die_until(stage: Stage, condition: Callable[[], Awaitable[bool]]) -> int:
    """Starts the process again whenever it has been killed, until the condition holds. Returns how often it was killed."""
    for deaths in range(STARTS_MAX):
        process = await stage.start()

        async def over(process: asyncio.subprocess.Process = process) -> bool:
            return process.returncode is not None or await condition()

        await wait_until(over, within=WAIT_SECONDS)
        if process.returncode is None:
            return deaths
        assert process.returncode == -signal.SIGKILL
    raise AssertionError(f"still dying after {STARTS_MAX} starts; see {stage.log}")


async def waiting_as_retries(stage: Stage, raws: Sequence[Raw]) -> None:
    """What a batch leaves behind in which all of these failed once."""
    now = datetime.now(UTC)
    async with stage.bench.engine.begin() as connection:
        keys = [("/orchestrator", str(raw.message_id)) for raw in raws]
        await inbox.receive(connection, QUEUE, dict.fromkeys(keys))
        await inbox.mark(connection, QUEUE, dict.fromkeys(keys, "retrying"))
        await retries.schedule(
            connection,
            QUEUE,
            [
                Retry(
                    key=key, type=raw.routing_key, operation_id=None, correlation_id=None, raw=raw, attempts=1, first_failed_at=now,
                    delay_seconds=0.0, error_class="Transient", error="busy",
                )
                for key, raw in zip(keys, raws, strict=True)
            ],
        )  # fmt: skip


async def _true(value: bool) -> bool:
    return value


async def _answered(stage: Stage, operations: int) -> bool:
    return len(stage.answers) >= operations and await stage.outbox_is_empty()

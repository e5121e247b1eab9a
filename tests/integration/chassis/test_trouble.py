"""Deadlocks, cut connections and a database that is away: nothing is lost, nobody is blamed, no attempt is spent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY
from yarl import URL

from infra.chassis.batch import BatchTransaction
from infra.chassis.decoding import Raw
from infra.chassis.inputs import Inputs
from tests.support.ledger_bench import Bench, Replica
from tests.support.ledger_messages import create_shipment, limit_changed, release, reserve
from tests.support.ledger_service import Wakeups, settings
from tests.support.servers import TestServers
from tests.support.waiting import wait_until

WAIT_SECONDS = 30.0
QUEUE_LABELS = {"service": "credit", "queue": "credit.commands"}


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(replica.loop.run())
    try:
        yield task
    finally:
        replica.loop.stop()
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def offer(replica: Replica, *raws: Raw) -> None:
    for raw in raws:
        replica.loop.offer(replica.delivery(raw))


async def acknowledged(replica: Replica, tag: int) -> None:
    await wait_until(lambda: tag in replica.channel.acknowledged)


async def waits_for_a_lock(bench: Bench, *, sessions: int = 1) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return len(await bench.rows(query)) >= sessions


def momentary() -> float:
    """How often a transaction has been tried again for momentary trouble."""
    return float(REGISTRY.get_sample_value("tutti_transaction_trouble_total", {**QUEUE_LABELS, "reason": "momentary"}) or 0.0)


@pytest.fixture
async def rival(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's session, which may hold locks that the loop needs."""
    connection = await asyncpg.connect(ledger_url, server_settings={"search_path": "credit"})
    yield connection
    await connection.close()


async def test_a_deadlock_is_tried_again_at_once_and_nobody_becomes_a_dead_letter(
    bench: Bench, rival: asyncpg.Connection
) -> None:
    replica, before = bench.replica(), momentary()
    await replica.turn(reserve("s0:step", buyer="ok.A"), reserve("s0b:step", buyer="ok.B"))
    # The loop is to be the victim: it looks for deadlocks after a second, the rival much later.
    await rival.execute("SET deadlock_timeout = '60s'")

    async with running(replica):
        transaction = rival.transaction()
        await transaction.start()
        await rival.execute("SELECT * FROM account WHERE key = 'B' FOR UPDATE")
        offer(replica, reserve("s1:step", buyer="ok.A"), reserve("s2:step", buyer="ok.B"))
        await wait_until(lambda: waits_for_a_lock(bench))
        await rival.execute("SELECT * FROM account WHERE key = 'A' FOR UPDATE")
        await transaction.rollback()
        await acknowledged(replica, 4)

    assert await bench.effects() == ["do"] * 4
    assert await bench.letters() == []
    assert await bench.rows("SELECT 1 FROM retry") == []
    assert momentary() > before, "there was no deadlock: the test proves nothing"


async def test_two_replicas_with_crossing_keys_wait_for_each_other_instead_of_deadlocking(bench: Bench) -> None:
    first, second = bench.replica(), bench.replica()
    forth = [reserve(f"f{n}:step", buyer=f"ok.{n}") for n in range(30)]
    back = [reserve(f"b{n}:step", buyer=f"ok.{n}") for n in reversed(range(30))]

    await asyncio.gather(*(replica.turn(*batch) for replica, batch in ((first, forth), (second, back))))

    assert len(await bench.effects()) == 60
    assert await bench.letters() == []


async def test_a_connection_that_is_cut_in_the_middle_of_a_batch_costs_nothing(bench: Bench, rival: asyncpg.Connection) -> None:
    replica = bench.replica()
    await replica.turn(reserve("s0:step", buyer="ok.A"))

    async with running(replica), rival.transaction():
        await rival.execute("SELECT * FROM account WHERE key = 'A' FOR UPDATE")
        offer(replica, reserve("s1:step", buyer="ok.A"), limit_changed("C-1"))
        await wait_until(lambda: waits_for_a_lock(bench))
        cut = await rival.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        assert cut == 1
        await rival.execute("ROLLBACK; BEGIN")
        await acknowledged(replica, 3)

    assert await bench.effects() == ["do", "do", "event"]
    assert await bench.letters() == []
    assert await bench.rows("SELECT 1 FROM retry") == []


async def test_while_the_database_is_away_messages_wait_without_spending_attempts(
    bench: Bench, servers: TestServers, ledger_url: str
) -> None:
    replica, name = bench.replica(), URL(ledger_url).path.lstrip("/")
    admin = await asyncpg.connect(servers.database_admin_url)
    try:
        async with running(replica) as task:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            offer(replica, reserve("s1:step"), reserve("s2:step", buyer="bug"), limit_changed("C-1"))
            before = replica.loop.backlog.turned_at
            await wait_until(lambda: _later(replica, before))
            assert replica.channel.acknowledged == []
            assert not task.done()
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await acknowledged(replica, 3)
    finally:
        await admin.close()

    assert await bench.effects() == ["do", "event"]
    (letter,) = await bench.letters()
    assert (letter["error_class"], letter["attempts"]) == ("ValueError", 1)


async def _later(replica: Replica, before: float) -> bool:
    return replica.loop.backlog.turned_at > before + 0.25


async def test_a_loop_that_is_stopped_during_an_outage_ends_and_acknowledges_nothing(
    bench: Bench, servers: TestServers, ledger_url: str
) -> None:
    replica, name = bench.replica(), URL(ledger_url).path.lstrip("/")
    admin = await asyncpg.connect(servers.database_admin_url)
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        async with running(replica) as task:
            offer(replica, reserve("s1:step"))
            before = replica.loop.backlog.turned_at
            await wait_until(lambda: _later(replica, before))
        assert task.done()
        assert replica.channel.acknowledged == []
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


async def test_an_acknowledgement_on_a_dead_channel_is_ignored_and_the_second_delivery_is_a_duplicate(bench: Bench) -> None:
    replica, message = bench.replica(), reserve("s1:step")
    replica.channel.broken = True
    await replica.turn(message)
    replica.channel.broken = False

    await replica.turn(message)

    assert await bench.effects() == ["do"]
    assert replica.channel.acknowledged == [2]


async def test_a_lost_commit_reply_is_recognised_when_the_same_batch_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.replica()
    commit, failures = replica.loop.committing.transaction, [ConnectionResetError("the reply to COMMIT was lost")]

    async def committed_and_cut(*arguments: Any, **values: Any) -> object:
        result = await commit(*arguments, **values)
        if failures:
            raise failures.pop()
        return result

    monkeypatch.setattr(replica.loop.committing, "transaction", committed_and_cut)
    await replica.turn(reserve("s1:step"), reserve("s2:step", buyer="bug"))

    assert await bench.effects() == ["do"]
    assert len(await bench.letters()) == 1
    assert replica.channel.acknowledged == [2]


async def test_a_suspect_is_taken_alone_and_dead_after_three_recorded_tries_while_its_neighbours_are_handled(
    bench: Bench,
) -> None:
    replica = bench.replica()
    suspect, neighbour = reserve("s1:step", deliveries=2), reserve("s2:step", deliveries=2)
    identity = f"/orchestrator\n{suspect.message_id}"
    await bench.execute("INSERT INTO suspect (consumer, identity, tries) VALUES ('credit.commands', :i, 3)", i=identity)

    await replica.turn(reserve("s0:step"), suspect, neighbour)

    (letter,) = await bench.letters()
    assert (letter["kind"], letter["message_id"]) == ("crash-loop", suspect.message_id)
    assert letter["identity"] == ["credit.commands", "s1:step", "do"]
    assert await bench.effects() == ["do", "do"]
    assert await bench.inbox() | {str(suspect.message_id): "dead"} == await bench.inbox()


async def test_a_suspect_that_was_handled_already_is_a_duplicate_however_often_it_comes(bench: Bench) -> None:
    replica, message = bench.replica(), reserve("s1:step", deliveries=5)

    for _ in range(6):
        await replica.turn(message)

    assert await bench.effects() == ["do"]
    assert await bench.letters() == []


async def test_concluding_that_kept_ending_the_process_is_a_dead_letter_and_not_tried_again(bench: Bench) -> None:
    replica = bench.replica()
    await replica.turn(create_shipment("s1:step", priority="settle-kill"))
    await replica.call()
    replica.forget_calls()  # the process that made the call is gone
    await bench.execute("INSERT INTO suspect (consumer, identity, tries) VALUES ('credit.commands', E'settle\\ns1:step', 3)")

    await replica.turn()

    (letter,) = await bench.letters()
    assert letter["kind"] == "crash-loop"
    assert (await bench.operation("s1:step"))[0] == "claimed"
    assert await bench.rows("SELECT 1 FROM suspect") == []


async def test_rows_that_were_begun_before_without_a_word_are_taken_alone_and_forgotten_when_handled(bench: Bench) -> None:
    replica = bench.replica(sources=(Wakeups(),), settings=settings(row_poll_seconds=0.001))
    replica.ready_for_rows()
    await bench.execute("INSERT INTO wakeup (id, key, tries) VALUES ('w1', 'K', 7), ('w2', 'K', 7), ('w3', 'K', 0)")

    await replica.turn()

    assert sorted(await bench.effects()) == ["row", "row", "row"]
    assert await bench.rows("SELECT 1 FROM suspect") == []


@pytest.mark.parametrize("begun", [False, True], ids=["a new operation", "an operation whose do has failed before"])
async def test_an_undo_in_one_replica_waits_for_its_do_in_another_and_takes_it_back(
    bench: Bench, rival: asyncpg.Connection, begun: bool
) -> None:
    first, second = bench.replica(), bench.replica()
    await first.turn(reserve("s1:step" if begun else "s0:step", buyer="bug.K"))

    # The do is held between the lock of its operation and the writing of its outcome, when only the lock protects it.
    transaction = rival.transaction()
    await transaction.start()
    await rival.execute("SELECT * FROM account WHERE key = 'K' FOR UPDATE")
    doing = asyncio.create_task(first.turn(reserve("s1:step", buyer="ok.K")))
    await wait_until(lambda: waits_for_a_lock(bench))
    undoing = asyncio.create_task(second.turn(release("s1:step", buyer="ok.K")))
    await wait_until(lambda: waits_for_a_lock(bench, sessions=2))
    await transaction.rollback()
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(doing, undoing)

    assert await bench.effects() == ["do", "undo"]
    assert await bench.held("K") == 0
    assert (await bench.operation("s1:step"))[0] == "undone"


async def test_the_same_message_in_two_replicas_at_once_has_one_effect(bench: Bench) -> None:
    first, second, message = bench.replica(), bench.replica(), limit_changed("C-1")

    async with bench.engine.connect() as connection, connection.begin():
        batch = BatchTransaction(first.loop.workplace)
        await batch.handle(connection, Inputs(arrivals=(batch.admission.admit(message, datetime.now(UTC)),)))
        again = asyncio.create_task(second.turn(message))
        await wait_until(lambda: waits_for_a_lock(bench))
        await connection.commit()
        async with asyncio.timeout(WAIT_SECONDS):
            await again

    assert await bench.effects() == ["event"]


async def test_a_message_whose_first_replica_rolled_back_is_handled_by_the_second(bench: Bench) -> None:
    first, second, message = bench.replica(), bench.replica(), limit_changed("C-1")

    async with bench.engine.connect() as connection, connection.begin():
        batch = BatchTransaction(first.loop.workplace)
        await batch.handle(connection, Inputs(arrivals=(batch.admission.admit(message, datetime.now(UTC)),)))
        again = asyncio.create_task(second.turn(message))
        await wait_until(lambda: waits_for_a_lock(bench))
        await connection.rollback()
        async with asyncio.timeout(WAIT_SECONDS):
            await again

    assert await bench.effects() == ["event"]
    assert await bench.held("C-1") == 100

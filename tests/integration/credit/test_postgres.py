import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.chassis.errors import Permanent
from infra.chassis.outbox import new_id
from services.credit.adapters.postgres import PostgresCreditLines, reconcile
from services.credit.domain import CreditLine, HoldCaptured, HoldPlaced, HoldReleased, LimitStated, LineKey
from tests.support.schemas import migrated
from tests.support.suites.repository import InsertingPromises

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = LineKey("C-1", "EUR")
LINES = PostgresCreditLines()
WAIT_SECONDS = 10.0


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "credit", "services.credit") as engine:
        yield engine


def placed(operation: str, minor: int, *, order: str = "ord_1", key: LineKey = KEY) -> HoldPlaced:
    return HoldPlaced(operation, order, key, minor, NOW)


async def save(engine: AsyncEngine, changed: dict[LineKey, CreditLine], facts: Sequence[object] = ()) -> None:
    async with engine.begin() as connection:
        await LINES.load(connection, list(changed))
        await LINES.save(connection, changed, facts)


async def stored(engine: AsyncEngine, key: LineKey = KEY) -> CreditLine:
    async with engine.begin() as connection:
        return (await LINES.load(connection, [key]))[key]


async def statements_of(engine: AsyncEngine, keys: int) -> list[str]:
    """What a batch of this size sends to the database."""
    sent: list[str] = []
    lines = {LineKey(f"C-{n}", "EUR"): CreditLine("EUR", 1_000, 1, 10, 0) for n in range(keys)}
    facts = [placed(f"s{n}:reserve", 10, key=key) for n, key in enumerate(lines)]
    async with engine.begin() as connection:
        await LINES.load(connection, list(lines))

        def record(conn: object, cursor: object, statement: str, *rest: object) -> None:
            sent.append(statement)

        event.listen(connection.sync_connection, "before_cursor_execute", record)
        await LINES.save(connection, lines, facts)
        await connection.rollback()
    return sent


async def test_an_unknown_line_is_loaded_without_a_limit_and_repeated_keys_once(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        loaded = await LINES.load(connection, [KEY, LineKey("C-1", "USD"), KEY])

    assert loaded == {KEY: CreditLine("EUR"), LineKey("C-1", "USD"): CreditLine("USD")}


async def test_what_is_saved_is_loaded_again_and_neighbours_stay_untouched(engine: AsyncEngine) -> None:
    other = LineKey("C-2", "EUR")
    await save(engine, {KEY: CreditLine("EUR", 10_000, 7, 300, 200), other: CreditLine("EUR", 5, 1, 0, 0)})

    await save(engine, {KEY: CreditLine("EUR", 20_000, 8, 300, 200)})

    assert await stored(engine) == CreditLine("EUR", 20_000, 8, 300, 200)
    assert await stored(engine, other) == CreditLine("EUR", 5, 1, 0, 0)


async def test_placing_and_releasing_in_one_batch_leaves_an_ended_hold(engine: AsyncEngine) -> None:
    await save(
        engine,
        {KEY: CreditLine("EUR", 10_000, 1, 0, 0)},
        [HoldReleased("s1:reserve", NOW), placed("s1:reserve", 300)],
    )

    async with engine.begin() as connection:
        rows = (await connection.execute(text("SELECT operation_id, state, ended_at FROM credit_hold"))).all()
        assert [tuple(row) for row in rows] == [("s1:reserve", "released", NOW)]
        assert await reconcile(connection) == []


async def test_completion_moves_held_to_used_once_however_often_it_is_told(engine: AsyncEngine) -> None:
    await save(
        engine,
        {KEY: CreditLine("EUR", 10_000, 1, 1_000, 0)},
        [placed("s1:reserve", 300, order="ord_1"), placed("s2:reserve", 700, order="ord_2")],
    )

    for _ in range(2):
        async with engine.begin() as connection:
            await LINES.load(connection, [KEY])
            await LINES.save(connection, {}, [HoldCaptured("ord_1", KEY, NOW), HoldCaptured("ord_1", KEY, NOW)])

    assert await stored(engine) == CreditLine("EUR", 10_000, 1, held_minor=700, used_minor=300)
    async with engine.begin() as connection:
        assert await reconcile(connection) == []


async def test_completion_together_with_a_new_limit_keeps_both(engine: AsyncEngine) -> None:
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 300, 0)}, [placed("s1:reserve", 300)])

    await save(engine, {KEY: CreditLine("EUR", 50, 2, 300, 0)}, [HoldCaptured("ord_1", KEY, NOW)])

    assert await stored(engine) == CreditLine("EUR", 50, 2, held_minor=0, used_minor=300)


async def test_completion_touches_only_the_line_it_names(engine: AsyncEngine) -> None:
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 300, 0)}, [placed("s1:reserve", 300)])

    async with engine.begin() as connection:
        await LINES.save(connection, {}, [HoldCaptured("ord_1", LineKey("C-1", "USD"), NOW)])

    assert await stored(engine) == CreditLine("EUR", 10_000, 1, 300, 0)


async def test_a_captured_hold_cannot_be_released_and_the_batch_is_left_undone(engine: AsyncEngine) -> None:
    both = [placed("s1:reserve", 300), placed("s2:reserve", 700)]
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 1_000, 0)}, both)
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 1_000, 0)}, [HoldCaptured("ord_1", KEY, NOW)])

    with pytest.raises(Permanent, match="s1:reserve"):
        await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 0, 1_000)}, [HoldReleased("s1:reserve", NOW)])

    assert await stored(engine) == CreditLine("EUR", 10_000, 1, 0, 1_000)


async def test_a_second_hold_for_one_operation_is_forbidden_by_name(engine: AsyncEngine) -> None:
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 300, 0)}, [placed("s1:reserve", 300)])

    with pytest.raises(IntegrityError, match="credit_hold_one_per_operation"):
        await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 600, 0)}, [placed("s1:reserve", 300)])


async def test_each_limit_stays_on_record_with_its_reason(engine: AsyncEngine) -> None:
    await save(
        engine,
        {KEY: CreditLine("EUR", 500, 2, 0, 0)},
        [LimitStated(KEY, 900, 1, "opened", NOW), LimitStated(KEY, 500, 2, "late payer", NOW)],
    )

    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT sequence, limit_minor, reason FROM credit_limit_change ORDER BY 1"))
        assert [tuple(row) for row in rows] == [(1, 900, "opened"), (2, 500, "late payer")]


async def test_who_waited_for_a_line_sees_what_the_other_held(engine: AsyncEngine) -> None:
    await save(engine, {KEY: CreditLine("EUR", 1_000, 1, 0, 0)})

    async with engine.connect() as first, engine.connect() as second:
        await first.begin()
        await LINES.load(first, [KEY])
        waiting = asyncio.create_task(LINES.load(second, [KEY]))
        await _blocked(first)
        assert not waiting.done()
        await LINES.save(first, {KEY: CreditLine("EUR", 1_000, 1, 800, 0)}, [placed("s1:reserve", 800)])
        await first.commit()

        loaded = await asyncio.wait_for(waiting, WAIT_SECONDS)

        assert loaded[KEY].held_minor == 800
        await second.rollback()


async def test_overlapping_batches_in_opposite_order_do_not_deadlock(engine: AsyncEngine) -> None:
    keys = [LineKey(f"C-{n}", "EUR") for n in range(50)]

    async def hold(wanted: list[LineKey]) -> None:
        async with engine.begin() as connection:
            loaded = await LINES.load(connection, wanted)
            after = {key: CreditLine(line.currency, 10_000, 1, line.held_minor + 1, 0) for key, line in loaded.items()}
            await LINES.save(connection, after, [])

    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(hold(keys if n % 2 else keys[::-1]) for n in range(10)))

    assert (await stored(engine, keys[7])).held_minor == 10


async def test_a_batch_of_a_hundred_needs_no_more_statements_than_one_of_one(engine: AsyncEngine) -> None:
    assert len(await statements_of(engine, 100)) == len(await statements_of(engine, 1)) == 2


async def test_reconcile_names_a_line_whose_sums_are_not_those_of_its_holds(engine: AsyncEngine) -> None:
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 300, 0)}, [placed("s1:reserve", 299)])

    async with engine.begin() as connection:
        (finding,) = await reconcile(connection)

    assert (finding.kind, finding.id) == ("unexplained", "C-1/EUR")
    assert "300" in finding.detail
    assert "299" in finding.detail


async def test_reconcile_names_an_operation_with_two_holds(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE credit_hold DROP CONSTRAINT credit_hold_one_per_operation"))
    await save(engine, {KEY: CreditLine("EUR", 10_000, 1, 600, 0)}, [placed("s1:reserve", 300)] * 2)

    async with engine.begin() as connection:
        (finding,) = await reconcile(connection)

    assert (finding.kind, finding.id) == ("doubled", "s1:reserve")


async def _blocked(connection: AsyncConnection) -> None:
    """Waits until somebody waits for a lock that this connection holds."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await connection.execute(waiting)).scalar_one():
            await asyncio.sleep(0.01)


class TestLines(InsertingPromises):
    repository = LINES

    def keys(self, count: int, mark: str) -> list[LineKey]:
        return [LineKey(f"C-{mark}-{number:02}", "EUR") for number in range(count)]

    def changed(self, states: Mapping[LineKey, CreditLine]) -> dict[LineKey, CreditLine]:
        return {key: replace(line, limit_minor=1_000, limit_sequence=1) for key, line in states.items()}

    def facts(self, keys: Sequence[LineKey]) -> list[HoldPlaced]:
        return [placed(f"{key.buyer_id}:{new_id()}", 10, key=key) for key in keys]

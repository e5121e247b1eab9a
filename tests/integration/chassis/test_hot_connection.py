"""A transaction on the driver: what is sent when, and what remains of it when something breaks."""

import asyncpg
import pytest
from sqlalchemy import text

from infra.chassis.database import DATABASE_ERRORS, Trouble, classify
from infra.chassis.hot_connection import hot_transaction, together, write
from tests.support.ledger_bench import Bench

OPEN = write("INSERT INTO account (key, held) VALUES (:key, :held) -- a part may end with a comment")
WAKE = write("INSERT INTO wakeup (id, key) SELECT id, :key FROM unnest(CAST(:ids AS text[])) AS given (id)")
COUNT = text("SELECT (SELECT count(*) FROM account) AS accounts, (SELECT count(*) FROM wakeup) AS wakeups, now() AS now")
END = text("SELECT pg_terminate_backend(:pid)")
WHO = text("SELECT pg_backend_pid()")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that the driver is given."""
    statements: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def counted(connection: asyncpg.Connection, query: str, *values: object, **options: object) -> object:
        statements.append(query)
        return await fetch(connection, query, *values, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", counted)
    return statements


async def test_writes_are_sent_in_one_statement_at_the_end(bench: Bench, sent: list[str]) -> None:
    async with hot_transaction(bench.engine) as connection:
        await connection.execute(OPEN, {"key": "A", "held": 1})
        await connection.execute(WAKE, {"key": "A", "ids": ["w1", "w2"]})
        assert sent == []

    assert len(sent) == 1
    assert await bench.held("A") == 1
    assert await bench.rows("SELECT id, key FROM wakeup ORDER BY id") == [("w1", "A"), ("w2", "A")]


async def test_what_is_read_sees_the_writes_before_it(bench: Bench) -> None:
    async with hot_transaction(bench.engine) as connection:
        await connection.execute(OPEN, {"key": "A", "held": 1})
        row = (await connection.execute(COUNT)).one()
        assert (row.accounts, row.wakeups) == (1, 0)


async def test_the_same_write_twice_happens_twice(bench: Bench) -> None:
    async with hot_transaction(bench.engine) as connection:
        await connection.execute(OPEN, [{"key": "A", "held": 1}, {"key": "B", "held": 2}])

    assert await bench.rows("SELECT key, held FROM account ORDER BY key") == [("A", 1), ("B", 2)]


async def test_a_write_that_the_database_refuses_takes_everything_back(bench: Bench) -> None:
    async def open_twice() -> None:
        async with hot_transaction(bench.engine) as connection:
            await connection.execute(WAKE, {"key": "A", "ids": ["w1"]})
            await connection.execute(OPEN, [{"key": "A", "held": 1}, {"key": "A", "held": 2}])

    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await open_twice()

    assert classify(refused.value) is Trouble.DATA
    assert await bench.rows("SELECT 1 FROM wakeup UNION ALL SELECT 2 FROM account") == []


async def test_an_exception_in_the_block_rolls_back_and_the_connection_is_used_again(bench: Bench) -> None:
    async def stumble() -> None:
        async with hot_transaction(bench.engine) as connection:
            await connection.execute(OPEN, {"key": "A", "held": 1})
            await connection.execute(COUNT)
            raise LookupError

    for _ in range(10):  # more often than there are connections
        with pytest.raises(LookupError):
            await stumble()
    assert await bench.rows("SELECT 1 FROM account") == []


async def test_a_connection_that_ends_in_the_middle_is_an_outage_and_the_next_transaction_has_another(bench: Bench) -> None:
    async def lose() -> None:
        async with hot_transaction(bench.engine) as connection:
            await _end(bench, (await connection.execute(WHO)).scalar_one())
            await connection.execute(OPEN, {"key": "A", "held": 1})

    with pytest.raises(Exception) as cut:  # noqa: PT011 - what matters is how it is classified
        await lose()
    assert classify(cut.value) is Trouble.OUTAGE

    async with hot_transaction(bench.engine) as connection:
        await connection.execute(OPEN, {"key": "A", "held": 2})
    assert await bench.held("A") == 2


async def test_a_connection_that_died_in_the_pool_is_replaced(bench: Bench) -> None:
    async with hot_transaction(bench.engine) as connection:
        pid = (await connection.execute(WHO)).scalar_one()
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
    driver.terminate()

    async with hot_transaction(bench.engine) as connection:
        assert (await connection.execute(WHO)).scalar_one() != pid


async def test_a_transaction_of_sqlalchemy_sends_writes_together_too(bench: Bench, sent: list[str]) -> None:
    async with bench.engine.begin() as connection:
        async with together(connection) as writes:
            await writes.execute(OPEN, {"key": "A", "held": 1})
            await writes.execute(WAKE, {"key": "A", "ids": ["w1"]})
        assert (await connection.execute(COUNT)).one().wakeups == 1

    assert await bench.held("A") == 1


async def _end(bench: Bench, pid: int) -> None:
    async with bench.engine.begin() as connection:
        await connection.execute(END, {"pid": pid})


@pytest.mark.parametrize("hot", [True, False], ids=["by the driver", "by SQLAlchemy"])
async def test_a_value_that_the_driver_does_not_even_send_is_its_messages_fault(bench: Bench, hot: bool) -> None:
    with pytest.raises(DATABASE_ERRORS) as refused:
        async with hot_transaction(bench.engine) if hot else bench.engine.begin() as connection:
            await connection.execute(text("SELECT CAST(:number AS integer)"), {"number": 2**40})

    assert classify(refused.value) is Trouble.DATA

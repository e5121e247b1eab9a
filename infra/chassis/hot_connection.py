"""The loop's transactions, executed by the driver itself.

SQLAlchemy owns the pool, the statements' text and everything outside the loop. Inside it, a batch is a handful of short statements, and
SQLAlchemy's part of each (a greenlet, a compiled form, a result object) is as long as the driver's. Measured on one such transaction:
1.8 ms of processor time became 1.2 for a batch of one, 2.0 became 1.6 for twelve.

Each statement is also a round trip, in which two processes are woken. Writes that nobody waits for (`write`) are kept and sent
together in one statement, as its data-modifying WITH parts, before the next statement that is read, or at the end.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, cast

import asyncpg
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.chassis.database import DATABASE_ERRORS

_PARAMETER = re.compile(r"(?<![:\\\w]):([a-z_][a-z0-9_]*)")
STATEMENTS_CACHED_MAX = 1024
CHECKOUTS_MAX = 3
ROLLBACK_SECONDS_MAX = 5.0
_UNREAD = "result is not read"


def write(sql: str) -> TextClause:
    """An INSERT, UPDATE or DELETE whose result nobody reads: it may be sent together with its neighbours.

    The parts of one statement do not see each other's effect and must not change one row twice. So a batch's writes to
    different tables are marked with this, and not those that build upon each other. It must not begin with WITH.
    On a plain connection it is executed at once, as any other statement.
    """
    return text(sql).execution_options(**{_UNREAD: True})


def _nothing() -> None:
    return


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row whose columns are attributes too, as SQLAlchemy's are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the statement has no column {name!r}") from None


class Rows(list[Any]):
    """The rows of a statement: each can be unpacked, and read by column name."""

    def all(self) -> list[Any]:
        return self

    def first(self) -> Any:
        return self[0] if self else None

    def one(self) -> Any:
        (row,) = self
        return row

    def scalars(self) -> "Rows":
        return Rows(row[0] for row in self)

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        return self.one()[0] if self else None


class HotConnection:
    """An AsyncConnection in all that repositories use of it, for the length of one transaction."""

    __slots__ = ("_connection", "_driver", "_kept")

    def __init__(self, connection: AsyncConnection, driver: Any) -> None:
        self._connection = connection
        self._driver = driver
        self._kept: dict[str, Mapping[str, Any]] = {}

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()) -> Rows:
        """Raises the driver's errors (SQLSTATE in `sqlstate`); `database.classify` knows them.

        A `write` is kept: its errors come with the statement with which it is sent. A sequence of parameters executes the
        statement for each.
        """
        rows = Rows()
        for one in (parameters,) if isinstance(parameters, Mapping) else parameters or ({},):
            rows = await self._execute(statement, one)
        return rows

    async def _execute(self, statement: TextClause, given: Mapping[str, Any]) -> Rows:
        if _UNREAD in statement.get_execution_options():
            if statement.text in self._kept:
                await self.flush()
            self._kept[statement.text] = given
            return Rows()
        await self.flush()
        sql, names = _positional(statement.text)
        return Rows(await self._driver.fetch(sql, *[given[name] for name in names], record_class=Row))

    async def flush(self) -> None:
        """Sends the writes that were kept. Raises as `execute` does."""
        if not self._kept:
            return
        kept, self._kept = self._kept, {}
        sql, names = _joined(tuple(kept))
        values = [parameters[name] for own, parameters in zip(names, kept.values(), strict=True) for name in own]
        await self._driver.fetch(sql, *values)

    def __getattr__(self, name: str) -> Any:
        """The other attributes of the AsyncConnection, such as `info`."""
        return getattr(self._connection, name)


@asynccontextmanager
async def hot_transaction(engine: AsyncEngine, before_commit: Callable[[], None] = _nothing) -> AsyncGenerator[AsyncConnection]:
    """A transaction on a connection of the engine's pool. Commits at the end of the block; an exception rolls back.

    `before_commit` is called when all statements have been sent. Raises what the driver raises, also for the COMMIT: then the outcome
    is unknown, and the inbox knows the batch when it comes again.
    """
    async with engine.connect() as connection:
        driver = await _driver_of(connection)
        try:
            await driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            hot = HotConnection(connection, driver)
            yield cast("AsyncConnection", hot)
            await hot.flush()
            before_commit()
            await driver.execute("COMMIT")
        except BaseException:
            await _roll_back(connection, driver)
            raise


@asynccontextmanager
async def single_statements(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Without BEGIN and COMMIT, each a round trip of its own: every statement in the block is a transaction by itself."""
    async with engine.connect() as connection:
        driver = await _driver_of(connection)
        try:
            hot = HotConnection(connection, driver)
            yield cast("AsyncConnection", hot)
            await hot.flush()
        except BaseException:
            await _roll_back(connection, driver)
            raise


@asynccontextmanager
async def together(connection: AsyncConnection) -> AsyncGenerator[AsyncConnection]:
    """For a transaction that SQLAlchemy runs: writes in the block are sent as one statement at its end."""
    hot = HotConnection(connection, _Through(connection))
    yield cast("AsyncConnection", hot)
    await hot.flush()


class _Through:
    """The driver as SQLAlchemy lets it be used: what it raises is wrapped."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> None:
        await self._connection.exec_driver_sql(sql, values)


async def _driver_of(connection: AsyncConnection) -> Any:
    """The driver's connection; one that died in the pool is replaced. SQLAlchemy does not see the driver's errors, so it cannot."""
    for _ in range(CHECKOUTS_MAX):
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        if not driver.is_closed():
            return driver
        await connection.invalidate()
    raise ConnectionError("the pool gives out nothing but dead connections")


async def _roll_back(connection: AsyncConnection, driver: Any) -> None:
    try:
        if driver.is_in_transaction():
            async with asyncio.timeout(ROLLBACK_SECONDS_MAX):
                await driver.execute("ROLLBACK")
    except DATABASE_ERRORS:
        driver.terminate()
    if driver.is_closed():
        await connection.invalidate()


@lru_cache(STATEMENTS_CACHED_MAX)
def _joined(statements: tuple[str, ...]) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """One statement that does what all of them do, and the parameters' names for each."""
    placed: list[str] = []
    names: list[tuple[str, ...]] = []
    for statement in statements:
        sql, own = _positional(statement, sum(map(len, names)))
        placed.append(sql)
        names.append(own)
    # The brackets stand on lines of their own: a part may end with a comment.
    parts = [f"part_{number} AS (\n{sql}\n)" for number, sql in enumerate(placed[:-1])]
    return (f"WITH {', '.join(parts)}\n" if parts else "") + placed[-1], tuple(names)


@lru_cache(STATEMENTS_CACHED_MAX)
def _positional(sql: str, taken: int = 0) -> tuple[str, tuple[str, ...]]:
    """The statement with the server's own placeholders, `:name` becoming `$n`, and the names in their order.

    Numbers up to `taken` belong to statements before it.
    """
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${taken + names.index(match[1]) + 1}"

    return _PARAMETER.sub(place, sql).replace("\\:", ":"), tuple(names)

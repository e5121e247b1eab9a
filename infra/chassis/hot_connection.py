"""Statements of the loop's transaction, executed by the driver itself.

SQLAlchemy owns the pool, the transaction and everything outside the loop. Inside it, a batch is about nine short statements, and
SQLAlchemy's part of each (a greenlet, a compiled form, a result object) is as long as the driver's. Measured on one such transaction:
1.8 ms of processor time became 1.2 for a batch of one, 2.0 became 1.6 for twelve. Statements stay SQLAlchemy `text()`, so that
nothing else changes; what is no plain statement with one set of parameters is given to SQLAlchemy as before.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import asyncpg
from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

_PARAMETER = re.compile(r"(?<![:\\\w]):([a-z_][a-z0-9_]*)")
STATEMENTS_CACHED_MAX = 1024


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

    def scalars(self) -> Iterator[Any]:
        return (row[0] for row in self)

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        return self.one()[0] if self else None


class HotConnection:
    """An AsyncConnection in all that repositories use of it, for the length of one transaction."""

    __slots__ = ("_connection", "_driver")

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._driver: Any = None

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Raises the driver's errors (SQLSTATE in `sqlstate`) or SQLAlchemy's; `database.classify` knows both."""
        parameters = {} if parameters is None else parameters
        if self._driver is None or not isinstance(statement, TextClause) or not isinstance(parameters, Mapping):
            # The first statement goes through SQLAlchemy, which begins the transaction with it.
            result = await self._connection.execute(statement, parameters)
            sync = self._connection.sync_connection
            assert sync is not None
            self._driver = sync.connection.driver_connection
            return result
        sql, names = _positional(statement.text)
        return Rows(await self._driver.fetch(sql, *[parameters[name] for name in names], record_class=Row))

    def __getattr__(self, name: str) -> Any:
        """Whatever else an AsyncConnection has, such as `info`."""
        return getattr(self._connection, name)


@lru_cache(STATEMENTS_CACHED_MAX)
def _positional(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with the server's own placeholders, `:name` becoming `$n`, and the names in their order."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PARAMETER.sub(place, sql).replace("\\:", ":"), tuple(names)

"""One database with the ledger's tables, emptied for each test: copying a database would take most of a test's time."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from yarl import URL

from infra.chassis.schema import upgrade
from tests.support.ledger_bench import Bench, connect
from tests.support.ledger_service import create_tables
from tests.support.servers import TestServers

TABLES = "inbox, operation, outbox, emission, retry, call, suspect, account, effect, wakeup"


@pytest.fixture(scope="session")
def ledger_database(servers: TestServers) -> Iterator[str]:
    name = f"ledger_{secrets.token_hex(6)}"
    url = str(URL(servers.database_admin_url).with_path(f"/{name}"))
    asyncio.run(_create(servers.database_admin_url, name, url))
    yield url
    asyncio.run(_execute(servers.database_admin_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def ledger_url(ledger_database: str) -> str:
    """The administrator's URL of an empty ledger."""
    await _execute(ledger_database, f"SET search_path = credit; TRUNCATE {TABLES}")
    return ledger_database


@pytest.fixture
async def bench(ledger_url: str) -> AsyncIterator[Bench]:
    engine = connect(ledger_url)
    yield Bench(engine)
    await engine.dispose()


async def _create(admin_url: str, name: str, url: str) -> None:
    await _execute(admin_url, f'CREATE DATABASE "{name}"')
    await upgrade(url, "credit", "tests.support")
    engine = connect(url)
    async with engine.begin() as connection:
        await create_tables(connection)
    await engine.dispose()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

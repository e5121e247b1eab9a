"""One ingress per test, on a database of its own that is migrated once and emptied for each test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import asyncpg
import pytest
from yarl import URL

from infra.chassis.schema import upgrade
from tests.integration.ingress.partners import PASSWORD, FakeOrchestrator, Ingress, ingress, served

if TYPE_CHECKING:
    # Imported at run time, it would be known before pytest can rewrite its assertions.
    from tests.support.servers import TestServers

EMPTY = """
    TRUNCATE ingress.partner, ingress.partner_key, ingress.partner_order, ingress.idempotency_key,
        ingress.outbox, ingress.emission
"""


@pytest.fixture(scope="session")
def ingress_database(servers: "TestServers") -> Iterator[str]:
    name = f"ingress_{secrets.token_hex(6)}"
    url = str(URL(servers.database_admin_url).with_path(f"/{name}"))
    asyncio.run(_execute(servers.database_admin_url, f'CREATE DATABASE "{name}"'))
    asyncio.run(upgrade(url, "ingress", "services.ingress", password=PASSWORD))
    yield url
    asyncio.run(_execute(servers.database_admin_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def database_url(ingress_database: str) -> str:
    await _execute(ingress_database, EMPTY)
    return ingress_database


@pytest.fixture
async def orchestrator() -> AsyncIterator[FakeOrchestrator]:
    fake = FakeOrchestrator()
    async with served(fake.application()) as url:
        fake.url = url
        yield fake


@pytest.fixture
async def desk(database_url: str, orchestrator: FakeOrchestrator) -> AsyncIterator[Ingress]:
    async with ingress(database_url, orchestrator) as running:
        yield running


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

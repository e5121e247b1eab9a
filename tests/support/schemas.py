"""The tables of one service in a test's own database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from infra.chassis.database import async_url
from infra.chassis.schema import upgrade


@asynccontextmanager
async def migrated(database_url: str, service: str, package: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the service's empty tables, as the administrator."""
    await upgrade(database_url, service, package)
    engine = create_async_engine(async_url(database_url), connect_args={"server_settings": {"search_path": service}})
    yield engine
    await engine.dispose()

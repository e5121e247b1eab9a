"""The orchestrator's schema in a database of the test's own."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.settings import Settings
from orchestrator.wiring import build
from tests.integration.orchestrator.desk import Desk
from tests.support.schemas import migrated


@pytest.fixture
def settings() -> Settings:
    nowhere = SecretStr("amqp://nowhere")
    return Settings(database_url=nowhere, broker_url=nowhere, operator_token=SecretStr("t"), undo_attempts_max=1)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "orchestrator", "orchestrator") as engine:
        yield engine


@pytest.fixture
def desk(engine: AsyncEngine, settings: Settings) -> Desk:
    return Desk(engine, build(settings), settings)

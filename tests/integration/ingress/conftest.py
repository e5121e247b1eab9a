"""One ingress per test, on a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.ingress.partners import FakeOrchestrator, Ingress, ingress, served


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

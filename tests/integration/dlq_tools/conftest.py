from collections.abc import AsyncIterator

import pytest

from tests.integration.dlq_tools.system import System, system_on
from tests.support.servers import TestBroker


@pytest.fixture
async def system(broker: TestBroker, database_url: str) -> AsyncIterator[System]:
    async with system_on(broker, database_url) as system:
        yield system

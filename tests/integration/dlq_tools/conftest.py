from collections.abc import AsyncIterator

import pytest

from infra.chassis import logs
from tests.integration.dlq_tools.system import System, system_on
from tests.support.servers import TestBroker


@pytest.fixture(autouse=True, scope="session")
def logs_as_in_a_process() -> None:
    """structlog's own default renders every local variable of a traceback: seconds, where one is a body of 20 MiB."""
    logs.configure("tests")


@pytest.fixture
async def system(broker: TestBroker, database_url: str) -> AsyncIterator[System]:
    async with system_on(broker, database_url) as system:
        yield system

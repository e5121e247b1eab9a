import asyncio
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
import uvicorn

from infra.stack.simulators.carrier import create_app
from tests.support.waiting import wait_until

TOKEN = "a-token"


@pytest.fixture
async def simulator() -> AsyncIterator[httpx2.AsyncClient]:
    """The simulator behind a port of its own, as a client that may order faults."""
    server = uvicorn.Server(uvicorn.Config(create_app(token=TOKEN), log_config=None, timeout_graceful_shutdown=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            await wait_until(lambda: server.started)
            yield client
        server.should_exit = True
        await serving

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
import uvicorn

from infra.stack.simulators.carrier import create_app

TOKEN = "a-token"
START_SECONDS = 10.0


@pytest.fixture
async def simulator() -> AsyncIterator[httpx2.AsyncClient]:
    """The simulator behind a port of its own, as a client that may order faults."""
    server = uvicorn.Server(uvicorn.Config(create_app(token=TOKEN), log_config=None, timeout_graceful_shutdown=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            async with asyncio.timeout(START_SECONDS):
                while not server.started:
                    await asyncio.sleep(0)
            yield client
        server.should_exit = True
        await serving

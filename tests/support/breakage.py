"""Breaks parts of a running platform on purpose, and waits until it is whole again. Only by the pids of its own processes."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from infra.stack.local import stack
from infra.stack.local.process import MARKER, end_with_parent
from tests.support.history import History
from tests.support.platform import Platform
from tests.support.waiting import wait_until

WHOLE_SECONDS = 90.0
READY_SECONDS = 60.0


def row(platform: Platform, name: str) -> dict[str, Any]:
    """What `tutti status` says of a process."""
    return next(one for one in stack.status(platform.home)["processes"] if one["name"] == name)


async def whole(platform: Platform, *, within: float = WHOLE_SECONDS) -> None:
    """Waits until every process is ready and says so itself: broker, database and consumers are reached again."""
    urls = [f"{url}/health/ready" for url in platform.addresses["services"].values()]

    async def look() -> bool:
        if stack.status(platform.home)["state"] != "up":
            return False
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as client:
            try:
                return all([(await client.get(url)).status_code == 200 for url in urls])
            except httpx2.HTTPError:
                return False

    await wait_until(look, within=within, what="every process is ready", every=0.2)


async def kill(platform: Platform, name: str, history: History) -> None:
    """SIGKILL, and waits until the supervisor has started it again: another pid, one restart more."""
    before = row(platform, name)
    os.kill(int(before["pid"]), signal.SIGKILL)

    async def again() -> bool:
        now = row(platform, name)
        return now["restarts"] > before["restarts"] and now["state"] == "ready" and now["pid"] not in (None, before["pid"])

    await wait_until(again, within=READY_SECONDS, what=f"{name} runs again")
    history.fault(f"killed {name}")


@asynccontextmanager
async def frozen(platform: Platform, name: str, history: History | None = None) -> AsyncIterator[None]:
    """SIGSTOP for the length of the block: it neither works nor says that it does not."""
    pid = int(row(platform, name)["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
    if history is not None:
        history.fault(f"froze {name}")


@dataclass(frozen=True, slots=True)
class Replica:
    """A second process of a service, beside the supervised one. `url` is its port."""

    services: tuple[str, ...]
    process: subprocess.Popen[bytes]
    urls: Mapping[str, str]
    log: Path

    async def ready(self) -> None:
        """Waits until it works. Raises AssertionError with its last lines."""

        async def look() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"
            async with httpx2.AsyncClient(timeout=2, trust_env=False) as client:
                try:
                    return all([(await client.get(f"{url}/health/ready")).status_code == 200 for url in self.urls.values()])
                except httpx2.HTTPError:
                    return False

        await wait_until(look, within=READY_SECONDS, what=f"a second {'+'.join(self.services)}", every=0.1)

    async def died(self, *, within: float) -> None:
        """Waits until it was ended by SIGKILL, which it does to itself at a crash point."""

        async def look() -> bool:
            return self.process.poll() is not None

        await wait_until(look, within=within, what=f"{'+'.join(self.services)} dies at its crash point")
        assert self.process.returncode == -signal.SIGKILL, self.log.read_text()[-2000:]


@contextmanager
def replica(
    platform: Platform, services: Sequence[str], directory: Path, changes: Mapping[str, str] | None = None
) -> Iterator[Replica]:
    """Starts the services once more in one process, with the environment of the supervised ones; it is ended with the block.

    `changes` are variables that differ. Does not wait until it is ready.
    """
    environment: dict[str, str] = {}
    for service in services:
        environment |= psutil.Process(platform.pid(service)).environ()
    ports = {service: free_port() for service in services}
    environment |= {f"TUTTI_{service.upper()}__HTTP_PORT": str(port) for service, port in ports.items()} | dict(changes or {})
    # Not one of the supervisor's: it would take it for a leftover.
    environment.pop(MARKER, None)
    log = directory / f"{'-'.join(services)}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*psutil.Process(platform.pid(services[0])).cmdline()[:3], *services],
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent(signal.SIGTERM),
        )
    try:
        yield Replica(tuple(services), process, {service: f"http://127.0.0.1:{port}" for service, port in ports.items()}, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def every(seconds: float) -> None:
    """The rhythm of a schedule of faults: the one place where time itself is what is waited for."""
    await asyncio.sleep(seconds)

"""What docker-compose.yml would run, run without an engine: its commands, variables and health checks on a private stack.

Only what a container's network gives is replaced: the two servers' addresses and the port, the same in every container there.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from infra.stack.jobs.secrets import BROKER_HOST, DATABASE, DATABASE_HOST, SecretFiles
from infra.stack.local.home import choose_port
from infra.stack.local.layout import PACKAGES
from infra.stack.local.process import end_with_parent
from infra.stack.local.servers import Servers
from tests.support.servers import private_servers
from tests.support.waiting import wait_until

PROJECT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
JOB_SECONDS_MAX = 120
READY_SECONDS_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Containers:
    """Processes in the place of containers, each with a port of its own and the secrets in a directory."""

    secrets: Path
    logs: Path
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        bare = {key: value for key, value in os.environ.items() if not key.startswith("TUTTI_")}
        told = {
            key: str(self.port(name)) if key.endswith("__HTTP_PORT") else value.replace("/run/secrets", str(self.secrets))
            for key, value in SERVICES[name]["environment"].items()
        }
        return {**bare, **told}

    def port(self, name: str) -> int:
        if name not in self.ports:
            self.ports[name] = choose_port(set(self.ports.values()))
        return self.ports[name]

    def run(self, name: str) -> None:
        command = [sys.executable, *SERVICES[name]["command"][1:]]
        done = subprocess.run(
            command, env=self.environment(name), cwd=PROJECT, capture_output=True, timeout=JOB_SECONDS_MAX, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self, name: str) -> None:
        command = [sys.executable, *SERVICES[name]["command"][1:]]
        with (self.logs / name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                cwd=PROJECT,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent(signal.SIGTERM),
            )

    async def until_healthy(self, name: str) -> None:
        program = SERVICES[name]["healthcheck"]["test"][3].replace("8000", str(self.port(name)))

        async def healthy() -> bool:
            assert self.running[name].poll() is None, self.said(name)
            return await _succeeds(program)

        # Each question is a new interpreter, which would take the processor from what it asks about.
        await wait_until(healthy, within=READY_SECONDS_MAX, what=f"{name} is healthy; its log is in {self.logs}", every=0.5)

    def said(self, name: str) -> str:
        return (self.logs / name).read_text()[-3000:]


async def _succeeds(program: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await process.wait() == 0


def _at_their_addresses(servers: Servers, directory: Path) -> None:
    """Rewrites the secrets of a network with the names `database` and `broker` for the servers of this test."""
    database, broker = urlsplit(servers.database_admin_url), urlsplit(servers.broker_admin_url)
    for path in directory.iterdir():
        text = path.read_text()
        text = text.replace(f"@{DATABASE_HOST}:5432/{DATABASE}", f"@{database.hostname}:{database.port}{database.path}")
        text = text.replace(f"@{BROKER_HOST}:5672/", f"@{broker.hostname}:{broker.port}/")
        path.chmod(0o600)
        path.write_text(text)
    # The administrators of private servers have passwords already.
    (directory / "database_url").write_text(servers.database_admin_url)
    (directory / "management_url").write_text(servers.management_url)


@pytest.fixture
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    containers = Containers(tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("logs"))
    with private_servers(tmp_path_factory.mktemp("servers")) as servers:
        SecretFiles(containers.secrets).write_missing()
        _at_their_addresses(servers, containers.secrets)
        try:
            yield containers
        finally:
            for process in containers.running.values():
                process.kill()
                process.wait()


async def test_jobs_end_services_become_healthy_the_sample_loads_and_all_stop_in_time(containers: Containers):
    for job in ("topology", "schema"):
        await asyncio.to_thread(containers.run, job)
    for service in PACKAGES:
        containers.start(service)
    for service in PACKAGES:
        await containers.until_healthy(service)

    for _ in range(2):
        await asyncio.to_thread(containers.run, "sample")

    for process in containers.running.values():
        process.send_signal(signal.SIGTERM)
    for name, process in containers.running.items():
        grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert await asyncio.to_thread(process.wait, grace) == 0, containers.said(name)

"""The jobs of the container stack against a real broker and database of their own (they change passwords of the whole server)."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from contracts.registry import queues
from infra.stack.jobs import schema, secrets, topology
from infra.stack.local.layout import PACKAGES
from infra.stack.local.servers import Servers
from infra.terminal.exit_codes import ExitCode
from tests.support.servers import private_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with private_servers(tmp_path_factory.mktemp("servers")) as private:
        yield private


@pytest.fixture
def given(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a job as docker-compose.yml makes it, with files of fresh secrets; returns their directory."""
    for name in [name for name in os.environ if name.startswith("TUTTI_")]:
        monkeypatch.delenv(name)
    secrets.SecretFiles(tmp_path).write_missing()
    monkeypatch.setenv("TUTTI_MANAGEMENT_URL", servers.management_url)
    monkeypatch.setenv("TUTTI_DATABASE_URL", servers.database_admin_url)
    for variable in (*topology.BROKER_URLS.values(), *schema.DATABASE_URLS.values()):
        name = variable.removeprefix("TUTTI_").replace("__", "_").lower()
        monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / name))
    return tmp_path


def at(server_url: str, file: Path) -> str:
    """The secret's URL, at the server of this test instead of the container's."""
    theirs, ours = urlsplit(file.read_text()), urlsplit(server_url)
    return ours._replace(netloc=f"{theirs.username}:{theirs.password}@{ours.hostname}:{ours.port}").geturl()


async def may_log_in_to_broker(servers: Servers, file: Path) -> bool:
    try:
        connection = await aio_pika.connect(at(servers.broker_admin_url, file), timeout=10)
    except aio_pika.exceptions.AMQPConnectionError:
        return False
    await connection.close()
    return True


async def test_every_broker_user_logs_in_with_its_own_secret_after_the_topology_job(servers: Servers, given: Path):
    assert await asyncio.to_thread(topology.main) == ExitCode.DONE
    assert await asyncio.to_thread(topology.main) == ExitCode.DONE

    for user in topology.BROKER_URLS:
        assert await may_log_in_to_broker(servers, given / f"{user}_broker_url"), user
    connection = await aio_pika.connect(servers.broker_admin_url, timeout=10)
    async with connection, connection.channel() as channel:
        for queue in queues():
            await channel.declare_queue(queue, passive=True, timeout=10)


async def test_a_new_secret_takes_effect_with_the_next_run_and_the_old_one_ends(servers: Servers, given: Path):
    assert await asyncio.to_thread(topology.main) == ExitCode.DONE
    old = given / "credit_broker_url"
    kept = old.rename(given / "old")
    secrets.SecretFiles(given).write_missing()

    assert await asyncio.to_thread(topology.main) == ExitCode.DONE

    assert await may_log_in_to_broker(servers, old)
    assert not await may_log_in_to_broker(servers, kept)
    assert await may_log_in_to_broker(servers, given / "pricing_broker_url")


async def test_every_service_sees_its_own_tables_and_no_others_after_the_schema_job(servers: Servers, given: Path):
    assert await asyncio.to_thread(schema.main) == ExitCode.DONE
    for phase in ("pre", "post"):
        assert await asyncio.to_thread(schema.main, ["--phase", phase]) == ExitCode.DONE

    for service in PACKAGES:
        connection = await asyncpg.connect(at(servers.database_admin_url, given / f"{service}_database_url"))
        try:
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
            other = next(name for name in PACKAGES if name != service)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval(f"SELECT count(*) FROM {other}.outbox")
        finally:
            await connection.close()


async def test_an_administrator_whom_the_servers_refuse_is_said_at_once(
    servers: Servers, given: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for variable, url in (
        ("TUTTI_MANAGEMENT_URL", servers.management_url),
        ("TUTTI_DATABASE_URL", servers.database_admin_url),
    ):
        parts = urlsplit(url)
        wrong = parts._replace(netloc=f"{parts.username}:wrong-password@{parts.hostname}:{parts.port}").geturl()
        monkeypatch.setenv(variable, wrong)

    assert await asyncio.to_thread(topology.main) == ExitCode.SOME_FAILED
    assert await asyncio.to_thread(schema.main) == ExitCode.SOME_FAILED
    logged = capfd.readouterr()
    assert "TUTTI_MANAGEMENT_URL" in logged.err
    assert "wrong-password" not in logged.err + logged.out

"""The private PostgreSQL and RabbitMQ: found, started, kept from the outside, killed, and gone after the end.

The home lies below a directory that only its owner may enter, which as root means: not the user that
PostgreSQL runs as.
"""

import asyncio
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import aiormq
import asyncpg
import httpx2
import psutil
import pytest
from pamqp.common import FieldValue

from infra.stack.local.doctor import Finding, examine
from infra.stack.local.home import Home, open_home
from infra.stack.local.leftovers import leftovers
from infra.stack.local.servers import Servers, management_url_of, prepare_servers, start_servers
from infra.stack.local.stack import down, reset, status
from tests.support.servers import private_servers, store_queue_names
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    with private_servers(closed / "home") as servers:
        yield servers


def findings(home: Home) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(home)}


async def test_both_servers_are_listed_with_the_pids_and_ports_that_serve_the_addresses(
    private: Servers,
) -> None:
    document = status(private.home)
    assert document["state"] == "up"
    rows = {row["name"]: row for row in document["processes"]}
    assert set(rows) == {"broker", "database"}
    assert psutil.Process(rows["broker"]["pid"]).name().startswith("beam")
    assert psutil.Process(rows["database"]["pid"]).name() == "postgres"
    assert rows["broker"]["port"] == urlsplit(private.broker_admin_url).port
    assert rows["database"]["port"] == urlsplit(private.database_admin_url).port


async def test_the_servers_listen_on_the_loopback_address_only(private: Servers) -> None:
    for pid in (private.broker_pid, private.database_pid):
        listening = [
            connection.laddr
            for connection in psutil.Process(pid).net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {next(iter(address)) for address in listening} == {"127.0.0.1"}


async def test_the_well_known_and_empty_credentials_are_refused(private: Servers) -> None:
    broker = urlsplit(private.broker_admin_url)
    with pytest.raises(aiormq.exceptions.AMQPConnectionError):
        await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{broker.port}/")
    database = urlsplit(private.database_admin_url)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://admin:admin@127.0.0.1:{database.port}/postgres")


async def test_the_addresses_are_for_the_owner_only(private: Servers) -> None:
    assert stat.S_IMODE(private.home.addresses_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.home.path.stat().st_mode) == 0o700


async def test_the_database_does_not_trade_durability_for_speed(private: Servers) -> None:
    connection = await asyncpg.connect(private.database_admin_url)
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert await connection.fetchval(f"SHOW {setting}") == "on"
    await connection.close()


async def test_the_management_api_counts_messages(private: Servers) -> None:
    connection = await aio_pika.connect(private.broker_admin_url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("counted", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"one"), "counted")
        async with httpx2.AsyncClient(trust_env=False) as client:
            address = f"{private.management_url}/api/queues/%2F/counted"
            await wait_until(lambda: client.get(address), lambda answer: answer.json().get("messages") == 1, every=0.2)


@pytest.mark.parametrize("kill", [True, False])
async def test_what_was_committed_survives_the_end_of_the_database(private: Servers, kill: bool) -> None:
    before = private.database_pid
    connection = await asyncpg.connect(private.database_admin_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
    value = await connection.fetchval("INSERT INTO kept SELECT count(*) FROM kept RETURNING value")
    await private.restart_database(kill=kill)
    assert private.database_pid != before
    after = await asyncpg.connect(private.database_admin_url)
    assert await after.fetchval("SELECT max(value) FROM kept") == value
    await after.close()
    connection.terminate()


async def test_what_was_confirmed_survives_the_death_of_the_broker(private: Servers) -> None:
    before = private.broker_pid
    message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    quorum: dict[str, FieldValue] = {"x-queue-type": "quorum"}
    async with await aio_pika.connect(private.broker_admin_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("kept", durable=True, arguments=quorum)
        await channel.default_exchange.publish(message, "kept")
        assert before is not None
        await store_queue_names(before)
        restarting = asyncio.create_task(private.restart_broker(kill=True))
        await private.until("broker", lambda row: row["state"] == "restarting")
        # The document is there although the broker is not.
        assert status(private.home)["state"] == "degraded"
        await restarting
    assert private.broker_pid != before
    async with await aio_pika.connect(private.broker_admin_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("kept", durable=True, arguments=quorum)
        received = await queue.get(timeout=10)
        assert received is not None
        assert received.body == b"kept"
        await received.ack()


async def test_the_doctor_knows_our_own_ports_and_finds_nothing_wrong(private: Servers) -> None:
    found = findings(private.home)
    assert [finding for finding in found.values() if not finding.ok] == []
    assert found["port broker"].detail.endswith("is ours")
    assert found["supervisor"].detail.endswith(str(private.detached.process.pid))


# The last two take the pair away that all tests above have used.


async def test_a_pair_that_lost_everything_by_kill_leaves_nothing_and_starts_again(private: Servers) -> None:
    home = private.home
    victims = (private.detached.process.pid, private.broker_pid, private.database_pid)
    for victim in victims:
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
    private.detached.process.wait()
    assert status(home)["state"] == "down"
    assert not findings(home)["supervisor"].ok
    assert findings(home)["supervisor"].remedy == "tutti down"

    again = await start_servers(home.path)
    assert urlsplit(again.broker_admin_url).port == urlsplit(private.broker_admin_url).port
    assert again.broker_admin_url == private.broker_admin_url


async def test_a_postgres_without_its_supervisor_is_recognised_and_ended(private: Servers) -> None:
    home = private.home
    found = home.supervisor()
    assert found is not None
    supervisor, postmaster = psutil.Process(found.pid), psutil.Process(private.database_pid)
    # Stopped, it cannot follow the kernel's request to end with its parent.
    postmaster.suspend()
    supervisor.kill()
    supervisor.wait()
    try:
        assert postmaster.pid in {process.pid for process in leftovers(home)}
        assert str(postmaster.pid) in findings(home)["orphans"].detail
    finally:
        down(home)
    assert leftovers(home) == []

    reset(home)
    assert list(home.path.iterdir()) == []


async def test_given_servers_are_used_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTTI_DATABASE_URL", "postgresql://someone:secret@127.0.0.1:1/orders")
    monkeypatch.setenv("TUTTI_BROKER_URL", "amqp://someone:secret@127.0.0.1:1/orders")
    home = open_home(tmp_path)
    prepared = await prepare_servers(home)
    assert prepared.processes == ()
    assert prepared.addresses["database"] == "postgresql://someone:secret@127.0.0.1:1/orders"
    assert prepared.addresses["management"] == "http://someone:secret@127.0.0.1:15672"
    found = findings(home)
    for name in ("postgresql", "rabbitmq"):
        assert not found[name].ok
        assert "127.0.0.1:1" in found[name].detail
        assert "secret" not in str(found[name])


async def test_the_management_address_of_a_given_broker_keeps_host_and_user() -> None:
    assert management_url_of("amqp://u:p@broker.example:5673/v") == "http://u:p@broker.example:15672"
    assert management_url_of("amqp://[::1]/") == "http://[::1]:15672"

"""The real broker and database as fixtures: one pair per session, a fresh corner of it per test.

With TUTTI_TEST_HOME set, the pair that runs in that home already is used and left running; else one is started
in a temporary directory and ended with the session. `pytest_plugins = ["tests.support.servers"]` makes the
fixtures known.
"""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx2
import psutil
import pytest
from yarl import URL

from infra.stack.local.home import Home, open_home
from infra.stack.local.leftovers import leftovers
from infra.stack.local.servers import Servers, start_servers
from infra.stack.local.stack import status
from tests.support.guard import guarded

EVALUATION_SECONDS = 20.0
MANAGEMENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TestServers:
    """Both servers, by their administrators' URLs. `private` is set when this session may kill them."""

    __test__ = False

    home: Home
    broker_admin_url: str
    management_url: str
    database_admin_url: str
    private: Servers | None

    @property
    def broker_pid(self) -> int:
        """Of the Erlang machine itself."""
        return next(int(row["pid"]) for row in status(self.home)["processes"] if row["name"] == "broker")


@dataclass(frozen=True, slots=True)
class TestBroker:
    """A virtual host of its own, in which `url` may do everything."""

    __test__ = False

    servers: TestServers
    vhost: str

    @property
    def url(self) -> str:
        return str(URL(self.servers.broker_admin_url).with_path(f"/{self.vhost}"))

    @property
    def user(self) -> str:
        user = URL(self.servers.broker_admin_url).user
        assert user is not None
        return user

    async def management(self, method: str, path: str, body: Any = None) -> Any:
        """Asks the management API; returns the answer's document or None. Raises httpx2.HTTPStatusError."""
        url = URL(self.servers.management_url)
        async with httpx2.AsyncClient(
            auth=(url.user or "", url.password or ""), timeout=MANAGEMENT_SECONDS, trust_env=False
        ) as client:
            address = f"{url.with_user(None)}".rstrip("/") + f"/api/{path}"
            answer = await client.request(method, address, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    @asynccontextmanager
    async def user_with(self, *, configure: str, write: str, read: str) -> AsyncIterator[str]:
        """A user with these permissions (regular expressions) in this virtual host, as its AMQP URL."""
        name, password = f"user-{secrets.token_hex(4)}", secrets.token_hex(16)
        await self.management("PUT", f"users/{name}", {"password": password, "tags": ""})
        try:
            grant = {"configure": configure, "write": write, "read": read}
            await self.management("PUT", f"permissions/{self.vhost}/{name}", grant)
            yield str(URL(self.url).with_user(name).with_password(password))
        finally:
            await self.management("DELETE", f"users/{name}")

    async def evaluate(self, expression: str) -> str:
        """Evaluates Erlang on the node: the way in for what neither AMQP nor the management API can do."""
        return await evaluate(self.servers.broker_pid, expression)

    @asynccontextmanager
    async def memory_alarm(self) -> AsyncIterator[None]:
        """Holds the memory alarm. It concerns the whole node, so tests with it must not run in parallel."""
        alarm = "{resource_limit, memory, node()}"
        await self.evaluate(f"rabbit_alarm:set_alarm({{{alarm}, []}})")
        try:
            yield
        finally:
            await self.evaluate(f"rabbit_alarm:clear_alarm({alarm})")

    async def close_connections(self) -> None:
        """Makes the broker close every connection to this virtual host."""
        await self.evaluate(
            '[rabbit_networking:close_connection(Pid, "by a test") || Pid <- rabbit_networking:connections(),'
            f' rabbit_networking:connection_info(Pid, [vhost]) =:= [{{vhost, <<"{self.vhost}">>}}]]'
        )


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServers]:
    given = os.environ.get("TUTTI_TEST_HOME")
    if given:
        home = open_home(Path(given))
        addresses = home.addresses()
        if not addresses:
            pytest.fail(f"TUTTI_TEST_HOME is {given}, but no servers run there (no addresses.json)")
        yield TestServers(home, addresses["broker"], addresses["management"], addresses["database"], private=None)
        return
    with private_servers(tmp_path_factory.mktemp("servers")) as private:
        yield TestServers(
            private.home,
            private.broker_admin_url,
            private.management_url,
            private.database_admin_url,
            private,
        )


@contextmanager
def private_servers(home: Path) -> Iterator[Servers]:
    """A pair for the length of the block, which may do with it what it likes. Nothing of it is left afterwards."""
    with guarded(home):
        private = asyncio.run(start_servers(home))
        try:
            yield private
        finally:
            asyncio.run(private.stop())
            assert leftovers(private.home) == []


@pytest.fixture
async def broker(servers: TestServers) -> AsyncIterator[TestBroker]:
    """A virtual host that exists for one test."""
    broker = TestBroker(servers, f"test-{secrets.token_hex(6)}")
    await broker.management("PUT", f"vhosts/{broker.vhost}", {})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    await broker.management("PUT", f"permissions/{broker.vhost}/{quote(broker.user)}", everything)
    yield broker
    await broker.management("DELETE", f"vhosts/{broker.vhost}")


@pytest.fixture
async def database_url(servers: TestServers) -> AsyncIterator[str]:
    """An empty database that exists for one test, as its administrator's URL."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(servers.database_admin_url)
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        yield str(URL(servers.database_admin_url).with_path(f"/{name}"))
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


async def evaluate(broker_pid: int, expression: str) -> str:
    """What the expression says on the node of this process. Raises AssertionError when it fails there."""
    return await asyncio.to_thread(_evaluate, broker_pid, expression)


async def store_queue_names(broker_pid: int) -> None:
    """To be called before a broker with a new quorum queue is killed.

    Half a second passes before RabbitMQ 3.10 stores the name of a new quorum queue; killed before, the queue comes back
    without its log and never elects a leader.
    """
    await evaluate(broker_pid, "[ok = dets:sync(Table) || Table <- dets:all()]")


def _evaluate(broker_pid: int, expression: str) -> str:
    # The node runs without epmd; its environment says where Erlang, its cookie and its port are.
    environment = psutil.Process(broker_pid).environ()
    node = environment["RABBITMQ_NODENAME"]
    text = f"{expression}.".replace("\\", "\\\\").replace('"', '\\"')
    program = (
        f'{{ok, Tokens, _}} = erl_scan:string("{text}"), {{ok, Parsed}} = erl_parse:parse_exprs(Tokens), '
        f"{{value, Value, _}} = rpc:call('{node}', erl_eval, exprs, [Parsed, []]), "
        'io:format("~tp", [Value]), halt(0).'
    )
    erl, name = f"{environment['ROOTDIR']}/bin/erl", f"test{secrets.token_hex(4)}@localhost"
    result = subprocess.run(
        [
            *(erl, "-noshell", "-hidden", "-sname", name),
            *("-start_epmd", "false", "-erl_epmd_port", environment["RABBITMQ_DIST_PORT"]),
            *("-dist_listen", "false", "-eval", program),
        ],
        env={key: value for key, value in environment.items() if not key.startswith("RABBITMQ_")},
        capture_output=True,
        text=True,
        timeout=EVALUATION_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{expression}: {result.stdout}{result.stderr}"
    return result.stdout

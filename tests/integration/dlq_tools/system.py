"""A failure desk and a credit service at work on a virtual host and a database of one test's own."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aio_pika
import asyncpg
import httpx2
from dlq_tools.settings import Settings as DeskSettings
from dlq_tools.wiring import build as build_desk
from pydantic import SecretStr
from yarl import URL

from contracts.envelope import STRUCTURED, Envelope
from infra.broker.publisher import Outgoing, Publisher, PublisherSettings
from infra.broker.topology import USERS, apply, definitions
from infra.chassis.outbox import new_id
from infra.chassis.process import running
from infra.chassis.runtime import Runtime, Service
from infra.chassis.schema import upgrade
from infra.stack.local.home import choose_port
from services.credit.settings import Settings as CreditSettings
from services.credit.wiring import build as build_credit
from tests.support.servers import TestBroker
from tests.support.waiting import wait_until

PASSWORDS = {user: f"pw-{user}" for user in USERS}
TOKEN = "an operator's token"
ORDER = "ord_" + "0" * 26
T = TypeVar("T")

PUBLISHER_SETTINGS = PublisherSettings(body_bytes_max=32 * 1024 * 1024, header_bytes_max=128 * 1024)


@dataclass
class System:
    """Addresses, and what tests do to the system. `desk_options` are settings of the desk."""

    broker: TestBroker
    database_url: str
    stack: AsyncExitStack
    publishers: dict[str, Publisher] = field(default_factory=dict)
    desk: Runtime | None = None
    desk_port: int = 0

    def broker_url(self, user: str) -> SecretStr:
        return SecretStr(str(URL(self.broker.url).with_user(user).with_password(PASSWORDS[user])))

    def settings(self, user: str) -> dict[str, Any]:
        database = URL(self.database_url).with_user(user).with_password(PASSWORDS[user])
        return {
            "database_url": SecretStr(str(database)),
            "broker_url": self.broker_url(user),
            "operator_token": SecretStr(TOKEN),
            "http_port": choose_port(set()),
            "shutdown_seconds": 5.0,
        }

    @asynccontextmanager
    async def running_desk(self, **options: Any) -> AsyncIterator[Runtime]:
        settings = DeskSettings(**{**self.settings("deadletters"), "collector_reconnect_seconds": 0.1, **options})
        async with running(build_desk(settings), settings) as runtime:
            self.desk, self.desk_port = runtime, settings.http_port
            yield runtime

    @asynccontextmanager
    async def running_credit(
        self, alter: Callable[[Service], Service] = lambda service: service, **options: Any
    ) -> AsyncIterator[Runtime]:
        settings = CreditSettings(**{**self.settings("credit"), **options})
        async with running(alter(build_credit(settings)), settings) as runtime:
            yield runtime

    async def publisher(self, user: str) -> Publisher:
        if user not in self.publishers:
            url = self.broker.url if user == "admin" else self.broker_url(user).get_secret_value()
            publisher = Publisher(url, name=user, settings=PUBLISHER_SETTINGS)
            await publisher.connect()
            self.stack.push_async_callback(publisher.close)
            self.publishers[user] = publisher
        return self.publishers[user]

    async def publish(self, user: str, *messages: Outgoing) -> None:
        receipts = await (await self.publisher(user)).publish(messages)
        assert all(one.outcome.value == "confirmed" for one in receipts), receipts

    async def publish_as_it_is(self, user: str, message: Outgoing, **properties: Any) -> None:
        """With properties that our publisher never sets. Confirmed when it returns."""
        connection = await aio_pika.connect(self.broker_url(user).get_secret_value())
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            given = {"message_id": message.message_id, "content_type": message.content_type, "user_id": user, **properties}
            exchange = await channel.get_exchange(message.exchange, ensure=False)
            await exchange.publish(
                aio_pika.Message(message.body, headers=dict(message.headers), delivery_mode=2, **given), message.routing_key
            )

    async def take_raw(self, queue: str) -> Any:
        """The next message of a queue, as the broker delivers it; it is taken out."""
        connection = await aio_pika.connect(self.broker.url)
        async with connection:
            channel = await connection.channel()
            taken = await channel.get_queue(queue, ensure=False)
            return await wait_until(lambda: taken.get(no_ack=True, fail=False), lambda message: message is not None)

    async def letter_body(self, id: str) -> bytes:
        connection = await asyncpg.connect(self.database_url)
        try:
            body: bytes = await connection.fetchval("SELECT body FROM deadletters.dead_letter WHERE id = $1", id)
            return body
        finally:
            await connection.close()

    async def api(self, method: str, path: str, **options: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.desk_port}", timeout=20, trust_env=False) as client:
            return await client.request(method, f"/internal/{path}", headers={"Authorization": f"Bearer {TOKEN}"}, **options)

    async def letters(self, **filters: str) -> list[dict[str, Any]]:
        answer = await self.api("GET", "dead-letters", params={"limit": 1000, **filters})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    async def letter(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api("GET", f"dead-letters/{id}")).json()
        return found

    async def act(self, name: str, selection: Mapping[str, Any], **options: Any) -> httpx2.Response:
        body = {"selection": dict(selection), "reason": "a test", "actor": "tester", **options}
        return await self.api("POST", f"dead-letters/{name}", json=body)

    async def dlq(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """The command as a process of its own: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dlq_tools.cli", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "TUTTI_DEADLETTERS_URL": f"http://127.0.0.1:{self.desk_port}",
                "TUTTI_OPERATOR_TOKEN": TOKEN,
                "TUTTI_HOME": str(Path(os.devnull)),
                **environment,
            },
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def dlq_json(self, *arguments: str) -> tuple[int, Any]:
        code, out, _ = await self.dlq(*arguments, "--json")
        return code, json.loads(out)

    async def rows(self, schema: str, statement: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(f"SET search_path = {schema}")
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()


@asynccontextmanager
async def system_on(broker: TestBroker, database_url: str) -> AsyncIterator[System]:
    """The topology and two schemas; nothing runs yet."""
    document = definitions(PASSWORDS, vhost=broker.vhost)
    await asyncio.to_thread(apply, broker.servers.management_url, document, administrator=broker.user)
    await upgrade(database_url, "credit", "services.credit", password=PASSWORDS["credit"])
    await upgrade(
        database_url,
        "deadletters",
        "dlq_tools",
        password=PASSWORDS["deadletters"],
    )
    async with AsyncExitStack() as stack:
        yield System(broker, database_url, stack)


def limit_changed(buyer: str, minor: int = 1_000_000, sequence: int = 1, **envelope: Any) -> Envelope:
    return _envelope(
        "credit.limit-changed.v2",
        "/erp",
        {
            "buyer_id": buyer,
            "limit": {"amount_minor": minor, "currency": "EUR"},
            "sequence": sequence,
            "reason": "annual review",
        },
        **envelope,
    )


def reserve_credit(operation: str, buyer: str = "C-1", minor: int = 100, **envelope: Any) -> Envelope:
    data = {"order_id": ORDER, "buyer_id": buyer, "amount": {"amount_minor": minor, "currency": "EUR"}}
    return _envelope(
        "credit.reserve-credit.v1",
        "/orchestrator",
        data,
        correlationid=operation.partition(":")[0],
        operationid=operation,
        **envelope,
    )


def _envelope(type: str, source: str, data: Mapping[str, Any], **envelope: Any) -> Envelope:
    return Envelope(**{"id": new_id(), "source": source, "type": type, "time": datetime.now(UTC), "data": data, **envelope})


def structured(envelope: Envelope, user: str, exchange: str = "events", **properties: Any) -> Outgoing:
    """As our own services send it. `properties` replace what is there."""
    message = Outgoing(
        exchange=exchange,
        routing_key=envelope.type,
        message_id=envelope.id,
        body=envelope.to_bytes(),
        content_type=STRUCTURED,
        type=envelope.type,
        correlation_id=envelope.correlationid or envelope.id,
        app_id=user,
        user_id=user,
        timestamp=datetime.now(UTC),
        headers={},
    )
    return replace(message, **properties)

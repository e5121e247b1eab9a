"""Ingress on a real database, without broker: what a partner sends and gets, and a stand-in for the orchestrator."""

import asyncio
import copy
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uuid_utils import uuid7
from yarl import URL

from contracts.envelope import Envelope
from contracts.message import Event, Message
from infra.chassis.runtime import Runtime, Service
from infra.chassis.service import Context, Decision
from services.ingress.adapters.partners import create_partner, issue_key
from services.ingress.http.openapi import ORDER_EXAMPLE
from services.ingress.settings import Settings
from services.ingress.wiring import build
from tests.support.waiting import wait_until

# Of the role in the tests' database.
PASSWORD = "ingress"
PEPPER = "a pepper of the tests"
READY_SECONDS = 10.0


@dataclass
class FakeOrchestrator:
    """Answers what the test puts here; `asked` are the cancellations that it was asked for."""

    url: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    cancel_status: int = 202
    cancel_answer: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    credentials: set[str] = field(default_factory=set)

    def application(self) -> ASGIApp:
        return Starlette(
            routes=[
                Route("/internal/sagas/{saga}/steps", self._steps),
                Route("/internal/sagas/{saga}/cancel", self._cancel, methods=["POST"]),
            ]
        )

    async def _steps(self, request: Request) -> Response:
        self.credentials.add(request.headers["authorization"])
        found = self.progress.get(request.path_params["saga"])
        return JSONResponse(found) if found is not None else Response(status_code=404)

    async def _cancel(self, request: Request) -> Response:
        self.asked.append({"saga": request.path_params["saga"], **await request.json()})
        return JSONResponse(self.cancel_answer, self.cancel_status)


@dataclass
class Ingress:
    """One process' worth of ingress, and a client with the key of partner acme."""

    runtime: Runtime
    service: Service
    settings: Settings
    app: FastAPI
    client: httpx2.AsyncClient
    key: str
    other_key: str
    orchestrator: FakeOrchestrator

    async def post(self, body: Any = None, *, key: str | None = None, **headers: str) -> httpx2.Response:
        sent = {"Idempotency-Key": key or str(uuid7())} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/v1/orders", json=order() if body is None else body, headers=sent)

    async def hear(self, message: Message, *, sender: str | None = None) -> Decision[Any]:
        """What the loop does with one message, without inbox and acknowledgement."""
        consumer = self.service.consumers[0]
        route = next(item for item in consumer.routes if item.model is type(message))
        context = context_of(message, sender)
        keys = route.keys(message, context.envelope)
        async with self.runtime.engine.begin() as connection:
            states = await consumer.repository.load(connection, keys)
            decision = route.decide(message, states, context, None)
            changed = {} if decision.state is states else decision.state
            await consumer.repository.save(connection, changed, decision.facts)
        assert consumer.committed is not None
        consumer.committed(changed, decision.facts)
        return decision

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        async with self.runtime.engine.begin() as connection:
            return list(await connection.execute(text(statement), values))

    async def sent(self) -> list[str]:
        return [row.type for row in await self.rows("SELECT type FROM outbox ORDER BY position")]


def context_of(message: Message, sender: str | None) -> Context:
    now = datetime.now(UTC)
    data = message.model_dump(mode="json")
    envelope = Envelope(id=str(uuid7()), source="/test", type=message.wire_name, time=now, data=data)
    return Context(now=now, envelope=envelope, new_id=lambda: str(uuid7()), random=lambda: 0.5, sender=sender)


def order(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ORDER_EXAMPLE), "order_number": f"PO-{uuid7().hex[-12:]}", **changes}


@asynccontextmanager
async def ingress(database_url: str, orchestrator: FakeOrchestrator, **knobs: Any) -> AsyncIterator[Ingress]:
    """Ingress on a migrated database, with partners acme and globex."""
    settings = Settings(
        database_url=str(URL(database_url).with_user("ingress").with_password(PASSWORD)),
        broker_url="amqp://nowhere.invalid/",
        operator_token="operator",
        api_key_pepper=PEPPER,
        orchestrator_url=orchestrator.url,
        orchestrator_token="between us",
        **knobs,
    )
    service = build(settings)
    runtime = Runtime(service, settings)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    beside = service.beside(runtime)
    assert beside.http is not None
    app.include_router(beside.http)
    async with runtime.engine.begin() as connection:
        await create_partner(connection, "acme", broker_users=["erp"])
        await create_partner(connection, "globex")
        key = await issue_key(connection, PEPPER, "acme")
        other_key = await issue_key(connection, PEPPER, "globex")
    background = [asyncio.create_task(work()) for work in beside.background]
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://ingress", headers=headers) as client:
            yield Ingress(runtime, service, settings, app, client, key, other_key, orchestrator)
    finally:
        runtime.begin_stop()
        await asyncio.gather(*background)
        await runtime.engine.dispose()


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The application on a free port of the loopback interface, as its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def end(kind: type[Event], placed: dict[str, Any], **fields: Any) -> Event:
    """The event with which the orchestrator ends the order of this resource."""
    given = {
        "order_id": placed["order_id"],
        "order_number": placed["order_number"],
        "partner_id": "acme",
        "buyer_id": "C-17",
        **fields,
    }
    return kind.model_validate(given)

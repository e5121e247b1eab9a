"""The internal API over HTTP, on a real database; the loop's part is played by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.api import routes
from orchestrator.catalogue import Catalogue
from orchestrator.definition import load_all
from orchestrator.instance import State
from orchestrator.settings import Settings
from orchestrator.wiring import build
from tests.integration.orchestrator.desk import SAGA, Desk, message, play
from tests.scenarios.saga_suite.samples import ORDER_ID

pytestmark = pytest.mark.asyncio

# Long enough for a machine that does much else; the loop's part is played at once.
DECIDES_SECONDS = 30.0
ASKED = {"reason": "changed their mind", "actor": "partner:acme"}


@pytest.fixture
def settings() -> Settings:
    nowhere = SecretStr("amqp://nowhere")
    return Settings(
        database_url=nowhere, broker_url=nowhere, operator_token=SecretStr("secret"), cancel_wait_seconds=DECIDES_SECONDS
    )


@pytest.fixture
def desk(engine: AsyncEngine, settings: Settings) -> Desk:
    return Desk(engine, build(settings), settings)


@pytest.fixture
async def client(engine: AsyncEngine, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with served(engine, settings) as client:
        yield client


@asynccontextmanager
async def served(engine: AsyncEngine, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    runtime: Any = SimpleNamespace(engine=engine, loops=())
    app.include_router(routes(runtime, Catalogue(load_all()), settings))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://orchestrator",
        headers={"Authorization": "Bearer secret"},
    ) as client:
        yield client


async def cancel(client: httpx2.AsyncClient, desk: Desk, saga: str = SAGA) -> httpx2.Response:
    asked = asyncio.create_task(client.post(f"/internal/sagas/{saga}/cancel", json=ASKED))
    async with asyncio.timeout(DECIDES_SECONDS):
        while not asked.done():
            await play(desk, await desk.look_at_rows())
    return await asked


async def test_nobody_without_the_token_is_answered(client: httpx2.AsyncClient) -> None:
    for method, path in [
        ("GET", ""),
        ("GET", f"/{SAGA}"),
        ("GET", f"/{SAGA}/steps"),
        ("POST", f"/{SAGA}/cancel"),
    ]:
        answer = await client.request(method, f"/internal/sagas{path}", headers={"Authorization": "Bearer guess"})
        assert answer.status_code == 401


async def test_a_process_is_shown_whole_and_by_its_order_too(client: httpx2.AsyncClient, desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await play(desk, started)

    shown = (await client.get(f"/internal/sagas/{SAGA}")).json()

    assert shown == (await client.get(f"/internal/sagas/{ORDER_ID}")).json()
    assert {
        "id",
        "workflow",
        "version",
        "state",
        "subject",
        "partner",
        "started_at",
        "finished_at",
        "sla",
    } <= set(shown)
    assert shown["state"] == "completed"
    assert [step["state"] for step in shown["steps"]] == ["done"] * 5
    assert set(shown["steps"][0]) >= {
        "id",
        "state",
        "attempts",
        "operation_id",
        "sent_at",
        "answered_at",
        "late",
        "time",
        "undo",
    }
    assert set(shown["steps"][0]["time"]) == {
        "queue_ms",
        "processing_ms",
        "dependency_ms",
        "human_ms",
        "backoff_ms",
    }
    assert shown["history"][-1]["kind"] == "finished"
    assert shown["waits_for"] == []


async def test_a_running_process_says_what_it_waits_for_and_by_when(client: httpx2.AsyncClient, desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    shown = (await client.get(f"/internal/sagas/{SAGA}")).json()
    progress = (await client.get(f"/internal/sagas/{SAGA}/steps")).json()

    assert {wait["step"] for wait in shown["waits_for"]} == {"price", "reserve-stock", "screen-buyer"}
    assert all(wait["by"] for wait in shown["waits_for"])
    assert progress["status"] == "running"
    assert progress["expected_by"] == shown["waits_for"][0]["by"]
    assert [step["state"] for step in progress["steps"]] == ["sent", "pending", "sent", "sent", "pending"]


async def test_lists_filter_and_turn_pages(client: httpx2.AsyncClient, desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    everything = (await client.get("/internal/sagas", params={"limit": 1})).json()
    rest = (await client.get("/internal/sagas", params={"after": everything["after"]})).json()
    stuck = (await client.get("/internal/sagas", params={"state": "stuck"})).json()

    assert [saga["id"] for saga in everything["sagas"]] == [SAGA]
    assert rest == {"sagas": [], "after": None}
    assert stuck["sagas"] == []
    assert (await client.get("/internal/sagas/counts")).json() == {"running": 1}
    assert (await client.get("/internal/sagas", params={"after": "%%%"})).status_code == 422


async def test_an_unknown_process_is_not_found(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/internal/sagas/nobody")).status_code == 404


async def test_a_cancellation_in_time_is_accepted_and_one_after_the_end_refused(client: httpx2.AsyncClient, desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    first, second = await cancel(client, desk), await cancel(client, desk)

    assert first.status_code == 202
    assert second.status_code == 409
    assert second.json()["detail"] == "It cannot be cancelled: the process is cancelled."


async def test_a_process_is_cancelled_by_its_order_too(client: httpx2.AsyncClient, desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    answer = await cancel(client, desk, ORDER_ID)

    assert answer.status_code == 202
    assert (await desk.instance()).state is State.CANCELLED


async def test_a_process_that_has_not_begun_is_cancelled_and_stays_so(client: httpx2.AsyncClient, desk: Desk) -> None:
    answer = await cancel(client, desk)
    sent = await desk.hear(message("orders.order-accepted.v1"))

    assert answer.status_code == 202
    assert [row.type for row in sent] == ["orders.order-cancelled.v1"]


async def test_a_cancellation_past_the_pivot_is_refused_with_the_reason(client: httpx2.AsyncClient, desk: Desk) -> None:
    await play(desk, await desk.hear(message("orders.order-accepted.v1")))

    answer = await cancel(client, desk)

    assert answer.status_code == 409
    assert answer.json()["detail"] == "It cannot be cancelled: the process is completed."


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"reason": "changed their mind"},
        {**ASKED, "reason": "   "},
        {**ASKED, "reason": "x" * 501},
        {**ASKED, "reason": "a\x00b"},
        {**ASKED, "actor": "mia"},
        {**ASKED, "actor": "partner:acme\n"},
        {**ASKED, "kind": "pause"},
    ],
    ids=["nothing", "nobody", "blank", "long", "nul", "actor-without-kind", "actor-with-newline", "unknown-field"],
)
async def test_a_cancellation_that_is_not_well_formed_asks_for_nothing(
    client: httpx2.AsyncClient, desk: Desk, asked: dict[str, str]
) -> None:
    answer = await client.post(f"/internal/sagas/{SAGA}/cancel", json=asked)

    assert answer.status_code == 422
    assert await desk.rows("SELECT act_id FROM operator_act") == []


@pytest.mark.parametrize("name", ["workflow", "partner", "subject", "owner"])
async def test_a_filter_that_no_row_can_have_is_refused(client: httpx2.AsyncClient, name: str) -> None:
    assert (await client.get("/internal/sagas", params={name: "a\x00b"})).status_code == 422


async def test_a_cancellation_that_nobody_decides_in_time_is_neither(engine: AsyncEngine, settings: Settings, desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    async with served(engine, settings.model_copy(update={"cancel_wait_seconds": 0.05})) as client:
        answer = await client.post(f"/internal/sagas/{SAGA}/cancel", json=ASKED)

    assert answer.status_code == 503
    assert "Retry-After" in answer.headers

import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from infra.stack.simulators.carrier import create_app

KEY = "saga-1:ship/2#berlin#fast"
PATH = "/fast/v1/bookings/saga-1%3Aship%2F2%23berlin%23fast"

pytestmark = pytest.mark.asyncio


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
async def http(log: io.StringIO) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(log=log))
    async with httpx2.AsyncClient(transport=transport, base_url="http://carrier") as client:
        yield client


async def book(http: httpx2.AsyncClient, key: str = KEY) -> httpx2.Response:
    return await http.post("/fast/v1/bookings", headers={"Idempotency-Key": key}, json={"weight_grams": 5})


async def effects(http: httpx2.AsyncClient) -> list[str]:
    return [effect["effect"] for effect in (await http.get("/effects")).json()]


async def order(http: httpx2.AsyncClient, **fault: Any) -> None:
    assert (await http.post("/faults", json=fault)).status_code == 201


async def test_one_key_is_one_booking_however_often_it_is_asked_for(http: httpx2.AsyncClient):
    first, second = await book(http), await book(http)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.json()["state"] == "booked"
    assert (await http.get(PATH)).json() == first.json()
    assert await effects(http) == ["booked"]
    assert len((await http.get("/attempts")).json()) == 3


async def test_a_booking_is_cancelled_once_and_stays_cancelled(http: httpx2.AsyncClient):
    await book(http)

    answers = [await http.delete(PATH), await http.delete(PATH), await book(http)]

    assert [answer.json()["state"] for answer in answers] == ["cancelled"] * 3
    assert await effects(http) == ["booked", "cancelled"]


async def test_a_key_that_was_cancelled_before_it_was_booked_is_never_booked(http: httpx2.AsyncClient):
    unknown, booked = await http.delete(PATH), await book(http)

    assert (unknown.status_code, booked.status_code) == (404, 409)
    assert (await http.get(PATH)).status_code == 404
    assert await effects(http) == []


async def test_what_has_left_cannot_be_cancelled(http: httpx2.AsyncClient):
    await book(http)
    await http.post("/departures", json={"carrier": "fast", "booking": KEY})

    answer = await http.delete(PATH)

    assert (answer.status_code, answer.json()["code"]) == (409, "already-left")


@pytest.mark.parametrize(
    ("kind", "status", "had_effect"),
    [
        ("unavailable", 503, False),
        ("refuse", 422, False),
        ("rate-limited", 429, False),
        ("execute-then-fail", 500, True),
        ("garbage", 200, True),
    ],
)
async def test_a_fault_happens_as_often_as_ordered_and_with_or_without_an_effect(
    http: httpx2.AsyncClient, kind: str, status: int, had_effect: bool
):
    await order(http, kind=kind, count=1)

    failed = await book(http)
    after_fault = await effects(http)
    healthy = await book(http)

    assert failed.status_code == status
    assert after_fault == (["booked"] if had_effect else [])
    assert healthy.is_success
    assert await effects(http) == ["booked"]
    assert [attempt["fault"] for attempt in (await http.get("/attempts")).json()] == [kind, None]


async def test_a_busy_carrier_says_when_to_come_back(http: httpx2.AsyncClient):
    await order(http, kind="rate-limited", count=1, retry_after_seconds=7)

    assert (await book(http)).headers["Retry-After"] == "7"


async def test_a_slow_carrier_does_its_work_late(http: httpx2.AsyncClient):
    await order(http, kind="slow", count=1, delay_seconds=0.01)

    assert (await book(http)).status_code == 201


async def test_a_fault_concerns_only_the_carrier_and_the_action_it_names(http: httpx2.AsyncClient):
    await order(http, kind="unavailable", carrier="slow")
    await order(http, kind="unavailable", carrier="fast", action="cancel")

    assert (await book(http)).status_code == 201
    assert (await http.delete(PATH)).status_code == 503
    assert (await http.post("/slow/v1/bookings", headers={"Idempotency-Key": "k"})).status_code == 503


async def test_a_fault_lasts_until_its_moment_or_until_it_is_deleted(http: httpx2.AsyncClient):
    await order(http, kind="unavailable", until=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    over = await book(http)
    await order(http, kind="unavailable")
    lasting = [await book(http), await book(http)]
    await http.delete("/faults")

    assert over.status_code == 201
    assert [answer.status_code for answer in lasting] == [503, 503]
    assert (await book(http)).status_code == 200


async def test_carriers_do_not_share_their_keys(http: httpx2.AsyncClient):
    tracking = [
        (await http.post(path, headers={"Idempotency-Key": "k"})).json()["tracking"]
        for path in ("/v1/bookings", "/fast/v1/bookings", "/slow/v1/bookings")
    ]

    assert len(set(tracking)) == 3


async def test_attempts_and_effects_are_logged_as_lines(http: httpx2.AsyncClient, log: io.StringIO):
    await book(http)
    await book(http)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [next(iter(set(line) & {"attempt", "effect"})) for line in lines] == ["attempt", "effect", "attempt"]
    assert {line["key"] for line in lines} == {KEY}


async def test_requests_without_a_key_or_without_the_token_are_refused():
    transport = httpx2.ASGITransport(create_app(token="secret"))
    async with httpx2.AsyncClient(transport=transport, base_url="http://carrier") as client:
        without = await book(client)
        client.headers["Authorization"] = "Bearer secret"
        keyless = await client.post("/fast/v1/bookings")

        assert (without.status_code, keyless.status_code) == (401, 400)
        assert (await book(client)).status_code == 201
        assert (await client.get("/health/live")).json() == {"status": "live"}

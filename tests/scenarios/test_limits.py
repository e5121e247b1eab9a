"""The rows of the POST table about limits, by a second ingress with small ones: whoever is refused leaves nothing, others are served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from infra.chassis.database import async_url
from services.ingress.adapters.partners import create_partner, issue_key
from tests.support.breakage import replica
from tests.support.partner import assert_problem, finished, post
from tests.support.platform import REQUEST_SECONDS_MAX, Platform
from tests.support.proxy import proxy_before
from tests.support.waiting import wait_until
from tests.support.workload import order

PER_MINUTE, WINDOW_SECONDS = 3, 60
BURST = 20
Refused = tuple[dict[str, Any], str, httpx2.Response]


def setting(platform: Platform, name: str) -> str:
    """Of the ingress that runs."""
    return psutil.Process(platform.pid("ingress")).environ()[f"TUTTI_INGRESS__{name}"]


@asynccontextmanager
async def ingress_with(platform: Platform, directory: Path, **settings: str) -> AsyncIterator[str]:
    """The address of a second ingress of the platform, with these settings of its own."""
    changes = {f"TUTTI_INGRESS__{name}": value for name, value in settings.items()}
    with replica(platform, ["ingress"], directory, changes) as second:
        await second.ready()
        yield second.urls["ingress"]


def client(url: str, api_key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=REQUEST_SECONDS_MAX, trust_env=False
    )


def acme_at(platform: Platform, url: str) -> httpx2.AsyncClient:
    return client(url, platform.addresses["partners"]["acme"]["api_key"])


@pytest.fixture
async def metered(platform: Platform) -> str:
    """The key of a new partner that may send PER_MINUTE requests in a minute."""
    partner = f"metered-{uuid4().hex[:12]}"
    engine = create_async_engine(async_url(setting(platform, "DATABASE_URL")))
    try:
        async with engine.begin() as connection:
            await create_partner(connection, partner, requests_per_minute=PER_MINUTE)
            return await issue_key(connection, setting(platform, "API_KEY_PEPPER"), partner)
    finally:
        await engine.dispose()


async def assert_left_nothing(elsewhere: httpx2.AsyncClient, body: dict[str, Any], key: str) -> None:
    """The same request under the same key is a first one for a process without the limit, and makes the only order."""
    accepted = await post(elsewhere, body, key=key)
    assert (accepted.status_code, accepted.headers.get("idempotent-replayed")) == (202, None), accepted.text
    listed = (await elsewhere.get("/v1/orders", params={"order_number": body["order_number"]})).json()
    assert [one["order_id"] for one in listed["orders"]] == [accepted.json()["order_id"]]


async def test_a_partner_over_its_quota_is_told_when_to_come_back(platform: Platform, metered: str, tmp_path: Path) -> None:
    body, key = order(), str(uuid4())
    async with ingress_with(platform, tmp_path) as url, client(url, metered) as partner, acme_at(platform, url) as neighbour:
        within = [await post(partner, order()) for _ in range(PER_MINUTE)]
        refused = await post(partner, body, key=key)
        reading = await partner.get("/v1/orders")
        served = await post(neighbour, order())

    assert [answer.status_code for answer in within] == [202] * PER_MINUTE
    assert [answer.headers["ratelimit"].split(";")[1] for answer in within] == ["r=2", "r=1", "r=0"]
    assert assert_problem(refused, 429, "rate-limited")["retryable"] is True
    assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_SECONDS
    assert refused.headers["ratelimit-policy"] == f'"requests";q={PER_MINUTE};w={WINDOW_SECONDS}'
    assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
    assert_problem(reading, 429, "rate-limited")
    assert served.status_code == 202
    # Each process counts for itself.
    async with client(platform.addresses["ingress"], metered) as elsewhere:
        await assert_left_nothing(elsewhere, body, key)


async def test_more_requests_than_may_wait_are_told_to_come_back(
    platform: Platform, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    async with ingress_with(platform, tmp_path, ACCEPTANCE_QUEUE_SIZE_MAX="1") as url, acme_at(platform, url) as partner:

        async def burst() -> tuple[list[Refused], list[httpx2.Response]] | None:
            sent = [(order(), str(uuid4())) for _ in range(BURST)]
            answers = await asyncio.gather(*(post(partner, body, key=key) for body, key in sent))
            told = [(*request, answer) for request, answer in zip(sent, answers, strict=True)]
            refused = [one for one in told if one[2].status_code == 503]
            return (refused, [one[2] for one in told if one[2].status_code != 503]) if refused else None

        refused, served = await wait_until(burst, within=30, what="a burst of which some have to wait", every=0.5)

    for _, _, answer in refused:
        assert assert_problem(answer, 503, "overloaded")["retryable"] is True
        assert int(answer.headers["retry-after"]) >= 1
    assert served
    assert {answer.status_code for answer in served} == {202}
    body, key, _ = refused[0]
    await assert_left_nothing(acme, body, key)
    assert (await finished(acme, served[0].json()["order_id"]))["status"] == "completed"


async def test_while_accepted_orders_cannot_leave_no_more_are_taken(
    platform: Platform, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    async with proxy_before(setting(platform, "BROKER_URL")) as broker:
        small = {
            "BROKER_URL": broker.in_front_of(setting(platform, "BROKER_URL")),
            "OUTBOX_DEPTH_MAX": "1",
            "OVERLOAD_CHECK_SECONDS": "0.05",
            "PUBLISH_TIMEOUT_SECONDS": "1",
        }
        async with ingress_with(platform, tmp_path, **small) as url, acme_at(platform, url) as partner:
            accepted: list[str] = []

            async def refusal() -> Refused | None:
                body, key = order(), str(uuid4())
                answer = await post(partner, body, key=key)
                if answer.status_code == 503:
                    return body, key, answer
                accepted.append(answer.json()["order_id"])
                return None

            broker.fall_silent()
            body, key, refused = await wait_until(refusal, within=30, what="a backlog of accepted orders", every=0.1)
            reading = await partner.get(f"/v1/orders/{accepted[0]}")
            beside = await post(acme, order())
            await assert_left_nothing(acme, body, key)
            broker.release()

            async def recovered() -> bool:
                return (await post(partner, order())).status_code == 202

            await wait_until(recovered, within=60, what="the second ingress takes orders again", every=0.1)

    assert assert_problem(refused, 503, "overloaded")["retryable"] is True
    assert int(refused.headers["retry-after"]) >= 1
    assert "on their way" in refused.json()["detail"]
    assert (reading.status_code, beside.status_code) == (200, 202)
    for order_id in accepted:
        assert (await finished(acme, order_id))["status"] == "completed"

"""Posting as a partner would, on a plain HTTP client."""

from typing import Any
from uuid import uuid4

import httpx2

from tests.support.waiting import wait_until

FINISHED = frozenset({"completed", "refused", "cancelled", "failed"})
WAIT_SECONDS = 20
PROBLEM = "application/problem+json"


async def post(
    client: httpx2.AsyncClient, body: Any, *, key: str | None = None, wait: int | None = None, **headers: str
) -> httpx2.Response:
    """POST /v1/orders under this key or a new one."""
    prefer = {"Prefer": f"wait={wait}"} if wait is not None else {}
    return await client.post("/v1/orders", json=body, headers={"Idempotency-Key": key or str(uuid4()), **prefer, **headers})


async def finished(client: httpx2.AsyncClient, order_id: str, *, within: float = 30.0) -> dict[str, Any]:
    """The order once it has come to its end."""

    async def look() -> dict[str, Any] | None:
        answer = await client.get(f"/v1/orders/{order_id}")
        document: dict[str, Any] = answer.raise_for_status().json()
        return document if document["status"] in FINISHED else None

    return await wait_until(look, within=within, what=f"the end of order {order_id}", every=0.1)


def codes(document: dict[str, Any]) -> set[str]:
    """Of the reasons that the partner was given."""
    return {reason["code"] for reason in document["reasons"]}


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of every error."""
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, PROBLEM), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem.keys() >= {"type", "title", "status", "detail", "instance", "correlation_id", "retryable"}
    assert problem["status"] == status
    assert problem["type"].rsplit("/", 1)[-1] == code
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    assert answer.headers["ratelimit-policy"]
    assert answer.headers["ratelimit"]
    return problem

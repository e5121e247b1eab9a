"""Every row of the POST table in docs/partners.md, which docs/public-face.md fixes, by a client that shares no code with the server.

The rows about limits are in test_limits.py.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest

from tests.support.partner import WAIT_SECONDS, assert_problem, finished, post
from tests.support.platform import Platform
from tests.support.workload import order

RACERS = 12


async def raw(client: httpx2.AsyncClient, content: bytes, **headers: str) -> httpx2.Response:
    given = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json", **headers}
    return await client.post("/v1/orders", content=content, headers=given)


async def test_accepted(acme: httpx2.AsyncClient) -> None:
    answer = await post(acme, order())

    document = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/orders/{document['order_id']}" == document["links"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert document["status"] == "running"
    assert document.keys() >= {
        "order_id", "order_number", "status", "stage", "message", "expected_by", "accepted_at", "finished_at", "total", "reasons", "steps",
        "shipments", "links",
    }  # fmt: skip
    assert (await finished(acme, document["order_id"]))["status"] == "completed"


async def test_accepted_and_finished_in_time(acme: httpx2.AsyncClient) -> None:
    answer = await post(acme, order(), wait=WAIT_SECONDS)

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.headers["preference-applied"] == f"wait={WAIT_SECONDS}"


async def test_the_same_key_and_body_get_the_stored_answer_again(acme: httpx2.AsyncClient) -> None:
    body, key = order(), str(uuid4())
    first = await post(acme, body, key=key)

    again = await post(acme, body, key=key)
    waited = await post(acme, body, key=key, wait=WAIT_SECONDS)

    assert (first.status_code, again.status_code, waited.status_code) == (202, 202, 200)
    assert again.content == first.content
    assert [one.headers.get("idempotent-replayed") for one in (first, again, waited)] == [None, "true", "true"]
    assert waited.json()["order_id"] == first.json()["order_id"]


async def test_the_same_key_with_another_body(acme: httpx2.AsyncClient) -> None:
    key = str(uuid4())
    await post(acme, order(), key=key)

    assert_problem(await post(acme, order(), key=key), 422, "idempotency-key-reused")


async def test_requests_with_one_key_at_the_same_moment_make_one_order(acme: httpx2.AsyncClient) -> None:
    body, key = order(), str(uuid4())

    answers = await asyncio.gather(*(post(acme, body, key=key) for _ in range(RACERS)))

    accepted = [answer.json()["order_id"] for answer in answers if answer.status_code == 202]
    assert len(set(accepted)) == 1
    for answer in answers:
        if answer.status_code != 202:
            assert assert_problem(answer, 409, "request-in-progress")["retryable"] is True
    listed = (await acme.get("/v1/orders", params={"order_number": body["order_number"]})).json()
    assert [one["order_id"] for one in listed["orders"]] == accepted[:1]


async def test_no_key(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/orders", json=order())

    assert_problem(answer, 400, "idempotency-key-missing")


async def test_another_key_for_an_order_that_exists(acme: httpx2.AsyncClient) -> None:
    body = order()
    first = (await post(acme, body)).json()

    problem = assert_problem(await post(acme, body), 409, "duplicate-order")

    assert problem["order_id"] == first["order_id"]
    revised = await post(acme, {**body, "revision": 1})
    assert (revised.status_code, revised.json()["order_id"] != first["order_id"]) == (202, True)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b'{"revision": NaN}', b'{"revision": Infinity}', b'{"revision": 0, "revision": 1}',
        b'{"order_number": "\\ud800"}', b"[" * 100_000,
    ],
    ids=["empty", "cut", "not-utf-8", "nan", "infinity", "duplicate-key", "lone-surrogate", "nested"],
)  # fmt: skip
async def test_what_is_no_json(acme: httpx2.AsyncClient, content: bytes) -> None:
    assert_problem(await raw(acme, content), 400, "invalid-json")


VIOLATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("float", {"lines": [{"line": "1", "sku": "P-1", "quantity": 1.5, "unit": "C62"}]}, "/lines/0/quantity"),
    ("zero", {"lines": [{"line": "1", "sku": "P-1", "quantity": "0", "unit": "C62"}]}, "/lines/0/quantity"),
    ("unit", {"lines": [{"line": "1", "sku": "P-1", "quantity": "1", "unit": "XYZ"}]}, "/lines/0/unit"),
    ("country", {"country": "ZZ"}, "/ship_to/country"),
    ("currency", {"currency": "EURO"}, "/currency"),
    ("unknown", {"coupon": "SAVE10"}, "/coupon"),
    ("no-lines", {"lines": []}, "/lines"),
    ("hidden", {"order_number": "PO\u202e1"}, "/order_number"),
]


@pytest.mark.parametrize(("changes", "pointer"), [case[1:] for case in VIOLATIONS], ids=[case[0] for case in VIOLATIONS])
async def test_what_violates_the_schema(acme: httpx2.AsyncClient, changes: dict[str, Any], pointer: str) -> None:
    problem = assert_problem(await post(acme, order(**changes)), 422, "validation-failed")

    assert pointer in [error["pointer"] for error in problem["errors"]]
    assert all(error["detail"] for error in problem["errors"])


@pytest.mark.parametrize("missing", ["order_number", "revision", "buyer", "ship_to", "currency", "lines"])
async def test_a_missing_field_is_named(acme: httpx2.AsyncClient, missing: str) -> None:
    body = order()
    del body[missing]

    problem = assert_problem(await post(acme, body), 422, "validation-failed")

    assert [error["pointer"] for error in problem["errors"]] == [f"/{missing}"]


async def test_over_256_kib(acme: httpx2.AsyncClient) -> None:
    content = json.dumps({**order(), "order_number": "x" * 256 * 1024}).encode()

    assert_problem(await raw(acme, content), 413, "body-too-large")


async def test_an_encoding_or_a_media_type_that_is_not_taken(acme: httpx2.AsyncClient) -> None:
    content = json.dumps(order()).encode()

    assert_problem(await raw(acme, content, **{"Content-Encoding": "gzip"}), 415, "unsupported-content-encoding")
    assert_problem(await raw(acme, content, **{"Content-Type": "text/xml"}), 415, "unsupported-media-type")


@pytest.mark.parametrize("credential", [None, "Bearer", "Bearer tk_wrong_wrong", "Basic dXNlcjpwYXNz"])
async def test_no_or_a_wrong_credential(platform: Platform, credential: str | None) -> None:
    headers = {"Idempotency-Key": str(uuid4()), **({"Authorization": credential} if credential else {})}
    async with httpx2.AsyncClient(base_url=platform.addresses["ingress"], trust_env=False) as stranger:
        answer = await stranger.post("/v1/orders", json=order(), headers=headers)

    assert_problem(answer, 401, "unauthorized")


async def test_a_cut_key_is_as_wrong_as_any_other(platform: Platform) -> None:
    key = platform.addresses["partners"]["acme"]["api_key"]
    async with httpx2.AsyncClient(base_url=platform.addresses["ingress"], trust_env=False) as stranger:
        answers = [
            await stranger.get("/v1/orders", headers={"Authorization": f"Bearer {given}"})
            for given in (key[:-1], key[:20], key + "0")
        ]

    assert [assert_problem(answer, 401, "unauthorized")["detail"] for answer in answers] == [answers[0].json()["detail"]] * 3


async def test_an_order_can_be_read_listed_and_revalidated(acme: httpx2.AsyncClient) -> None:
    numbers = [order() for _ in range(3)]
    placed = [(await post(acme, body, wait=WAIT_SECONDS)).json() for body in numbers]

    one = await acme.get(placed[0]["links"]["self"])
    same = await acme.get(placed[0]["links"]["self"], headers={"If-None-Match": one.headers["etag"]})
    first_page = (await acme.get("/v1/orders", params={"status": "completed", "limit": 2})).json()
    second_page = (await acme.get("/v1/orders", params={"status": "completed", "limit": 2, "after": first_page["next"]})).json()

    assert (one.status_code, same.status_code) == (200, 304)
    assert [step["state"] for step in one.json()["steps"]] == ["done"] * 5
    ids = [found["order_id"] for found in [*first_page["orders"], *second_page["orders"]]]
    assert len(set(ids)) == 4
    assert set(ids) >= {document["order_id"] for document in placed}
    assert_problem(await acme.get("/v1/orders", params={"after": "nonsense"}), 422, "validation-failed")


BURST, GROWTH_BYTES_MAX = 10, 48 * 1024 * 1024
MEMORY_POISON: dict[str, tuple[bytes, int]] = {
    "large": (b"[" + b"0," * 1024 * 1024 + b"0]", 413),
    "many-objects": (b'{"lines": [' + b"{}," * 80_000 + b"{}]}", 422),
    "nested": (b'{"lines": ' + b"[" * 120_000, 400),
    "many-errors": (b'{"lines": [' + b'{"line": 1, "sku": 2, "quantity": 3.5, "unit": 4, "x": 5},' * 3_500 + b"{}]}", 422),
    "long-number": (b'{"revision": ' + b"9" * 200_000 + b"}", 400),
}


async def test_poison_is_refused_and_leaves_the_memory_flat(platform: Platform, acme: httpx2.AsyncClient) -> None:
    process = psutil.Process(platform.pid("ingress"))

    async def burst() -> set[tuple[str, int]]:
        return {(name, (await raw(acme, body)).status_code) for _ in range(BURST) for name, (body, _) in MEMORY_POISON.items()}

    answered = await burst()
    before = process.memory_info().rss
    for _ in range(3):
        answered |= await burst()

    assert answered == {(name, status) for name, (_, status) in MEMORY_POISON.items()}
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX
    assert (await post(acme, order(), wait=WAIT_SECONDS)).json()["status"] == "completed"

"""What ingress does not take: malformed bodies, wrong credentials, too much of everything."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from services.ingress.adapters.partners import KeyRefused, create_partner, issue_key
from services.ingress.http.problems import TYPES
from services.ingress.keys import new_key
from tests.integration.ingress.partners import PEPPER, FakeOrchestrator, Ingress, ingress, order, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

JSON = {"Content-Type": "application/json"}
REVOKE = "UPDATE partner_key SET revoked_at = now() WHERE key_id = :key_id AND revoked_at IS NULL RETURNING key_id"


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code, after checking that it is a whole problem document."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "correlation_id", "retryable"} <= set(document)
    assert document["status"] == answer.status_code
    assert document["correlation_id"] == answer.headers["x-correlation-id"]
    assert document["instance"].startswith("urn:uuid:")
    assert answer.headers["ratelimit"]
    return answer.status_code, document["type"].removeprefix("/problems/")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid-json")),
        (b"{", (400, "invalid-json")),
        (b"\xff\xfe{}", (400, "invalid-json")),
        (b'{"order_number": "\xed\xa0\x80"}', (400, "invalid-json")),
        (b'{"revision": NaN}', (400, "invalid-json")),
        (b'{"revision": 1e999}', (400, "invalid-json")),
        (b'{"revision": 0, "revision": 1}', (400, "invalid-json")),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, (400, "invalid-json")),
        (b"[" * 100_000, (400, "invalid-json")),
        (b'{"a": ' + b"9" * 10_000 + b"}", (400, "invalid-json")),
        (b"[]", (422, "validation-failed")),
        (b"null", (422, "validation-failed")),
        (b'"order"', (422, "validation-failed")),
        (b"{}", (422, "validation-failed")),
        (b'{"lines": [' + b"1," * 100_000 + b"1]}", (422, "validation-failed")),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(20_000)) + b"}", (422, "validation-failed")),
    ],
    ids=range(16),
)
async def test_a_malformed_body_is_named(desk: Ingress, body: bytes, expected: tuple[int, str]) -> None:
    answer = await desk.client.post("/v1/orders", content=body, headers={"Idempotency-Key": "k", **JSON})

    assert problem(answer) == expected
    if expected[0] == 422:
        assert answer.json()["errors"]
    assert await desk.sent() == []


async def test_a_violation_of_the_schema_points_at_its_place(desk: Ingress) -> None:
    body = order(priority="now", surprise=1)
    body["lines"][0] = {**body["lines"][0], "quantity": 2.5}
    body["ship_to"] = {**body["ship_to"], "country": "XX", "city": "Ham\u202eburg"}
    del body["buyer"]

    answer = await desk.post(body)

    assert problem(answer) == (422, "validation-failed")
    assert {item["pointer"] for item in answer.json()["errors"]} == {
        "/buyer", "/lines/0/quantity", "/priority", "/ship_to/city", "/ship_to/country", "/surprise",
    }  # fmt: skip
    assert "Ham" not in answer.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "text/plain"}, (415, "unsupported-media-type")),
        ({"Content-Type": ""}, (415, "unsupported-media-type")),
        ({"Content-Type": "application/json; charset=utf-16"}, (415, "unsupported-media-type")),
        ({"Content-Encoding": "gzip"}, (415, "unsupported-content-encoding")),
        ({"Idempotency-Key": ""}, (400, "idempotency-key-missing")),
        ({"Idempotency-Key": '""'}, (400, "idempotency-key-missing")),
        ({"Idempotency-Key": "k" * 256}, (400, "idempotency-key-invalid")),
        ({"Idempotency-Key": "a,b"}, (400, "idempotency-key-invalid")),
        ({"Idempotency-Key": '"unfinished'}, (400, "idempotency-key-invalid")),
    ],
    ids=range(9),
)
async def test_a_wrong_header_is_named(desk: Ingress, headers: dict[str, str], expected: tuple[int, str]) -> None:
    given = {"Idempotency-Key": "k", **JSON, **headers}

    assert problem(await desk.client.post("/v1/orders", content=b"{}", headers=given)) == expected


async def test_a_post_without_key_is_refused(desk: Ingress) -> None:
    answer = await desk.client.post("/v1/orders", json=order())

    assert problem(answer) == (400, "idempotency-key-missing")
    assert answer.json()["retryable"] is False


async def test_a_body_too_large_is_refused_whether_it_says_so_or_not(desk: Ingress) -> None:
    large = b" " * (desk.settings.body_bytes_max + 1)
    headers = {"Idempotency-Key": "k", **JSON, "Authorization": f"Bearer {desk.key}"}

    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * 65536

    async with served(desk.app) as url, httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        declared = await client.post("/v1/orders", content=large)
        chunked = await client.post("/v1/orders", content=pieces())
        largest = await client.post("/v1/orders", content=large[:-3] + b"{}")

    assert problem(declared) == problem(chunked) == (413, "body-too-large")
    assert problem(largest) == (422, "validation-failed")


async def test_a_body_that_does_not_come_is_not_waited_for(database_url: str, orchestrator: FakeOrchestrator) -> None:
    forever = asyncio.Event()

    async def never() -> Any:
        yield b"{"
        await forever.wait()
        yield b"}"

    async with ingress(database_url, orchestrator, body_seconds_max=0.2) as desk, served(desk.app) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.key}\r\nIdempotency-Key: k\r\n"
            "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        writer.write(head.encode())
        async with asyncio.timeout(10):
            status = await reader.readline()
        writer.close()

    assert b" 408 " in status


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "",
        lambda key: key,
        lambda key: f"Basic {key}",
        lambda key: f"Bearer {key[:-1]}",
        lambda key: f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}",
        lambda key: f"Bearer {key.upper()}",
        lambda key: f"Bearer {new_key().reveal()}",
        lambda key: f"Bearer {'x' * 5000}",
        lambda key: "Bearer \xe9",
    ],
    ids=["missing", "bare", "basic", "truncated", "altered", "upper-case", "unknown", "long", "not-ascii"],
)
async def test_a_wrong_credential_is_not_told_why(desk: Ingress, change: Any) -> None:
    headers = {b"authorization": change(desk.key).encode("latin-1"), b"idempotency-key": b"k"}

    answer = await desk.client.post("/v1/orders", json=order(), headers=list(headers.items()))

    assert problem(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await desk.sent() == []


async def test_the_secret_of_one_key_does_not_open_another(desk: Ingress) -> None:
    mixed = "_".join([*desk.key.split("_")[:2], desk.other_key.split("_")[2]])

    assert problem(await desk.post(Authorization=f"Bearer {mixed}")) == (401, "unauthorized")


async def test_a_key_without_the_scope_is_refused(desk: Ingress) -> None:
    async with desk.runtime.engine.begin() as connection:
        reader = await issue_key(connection, PEPPER, "acme", scopes=["orders:read"])
    headers = {"Authorization": f"Bearer {reader}"}

    assert problem(await desk.post(**headers)) == (403, "forbidden")
    assert (await desk.client.get("/v1/orders", headers=headers)).status_code == 200


async def test_a_revoked_or_expired_key_opens_nothing(database_url: str, orchestrator: FakeOrchestrator) -> None:
    async with ingress(database_url, orchestrator, api_key_cache_seconds=0.05) as desk:
        assert (await desk.post()).status_code == 202
        assert len(await desk.rows(REVOKE, key_id=desk.key.split("_")[1])) == 1
        async with desk.runtime.engine.begin() as connection:
            expired = await issue_key(connection, PEPPER, "acme", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        revoked = await wait_until(lambda: desk.client.get("/v1/orders"), lambda answer: answer.status_code != 200)

        assert problem(revoked) == (401, "unauthorized")
        assert problem(await desk.post(Authorization=f"Bearer {expired}")) == (401, "unauthorized")


async def test_a_partner_has_at_most_two_active_keys(desk: Ingress) -> None:
    async with desk.runtime.engine.begin() as connection:
        second = await issue_key(connection, PEPPER, "acme")
        with pytest.raises(KeyRefused, match="2 active keys"):
            await issue_key(connection, PEPPER, "acme")
        assert await issue_key(connection, PEPPER, "acme", api_key=second) == second
        with pytest.raises(KeyRefused, match="no partner"):
            await issue_key(connection, PEPPER, "nobody")


async def test_a_given_key_can_be_loaded_again_and_again(desk: Ingress) -> None:
    given = new_key().reveal()

    for _ in range(2):
        async with desk.runtime.engine.begin() as connection:
            await create_partner(connection, "initech", broker_users=["erp"], requests_per_minute=5)
            assert await issue_key(connection, PEPPER, "initech", api_key=given) == given

    assert (await desk.post(Authorization=f"Bearer {given}")).headers["ratelimit-policy"] == '"requests";q=5;w=60'
    rows = await desk.rows("SELECT secret_hash FROM partner_key")
    assert all(given.split("_")[2].encode() not in bytes(row.secret_hash) for row in rows)


async def test_whoever_asks_too_often_is_told_when_to_come_back(desk: Ingress) -> None:
    async with desk.runtime.engine.begin() as connection:
        await create_partner(connection, "initech", requests_per_minute=3)
        key = await issue_key(connection, PEPPER, "initech")
    headers = {"Authorization": f"Bearer {key}"}

    answers = [await desk.client.get("/v1/orders", headers=headers) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert problem(answers[3]) == (429, "rate-limited")
    assert answers[3].json()["retryable"] is True
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0", "r=0"]
    assert (await desk.client.get("/v1/orders")).status_code == 200


async def test_strangers_are_slowed_down_and_partners_are_not(database_url: str, orchestrator: FakeOrchestrator) -> None:
    async with ingress(database_url, orchestrator, anonymous_requests_per_minute=3) as desk:
        stranger = {"Authorization": f"Bearer {new_key().reveal()}"}

        answers = [await desk.client.get("/v1/orders", headers=stranger) for _ in range(4)]

        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert (await desk.client.get("/v1/orders")).status_code == 200


async def test_orders_are_turned_away_while_those_accepted_cannot_leave(
    database_url: str, orchestrator: FakeOrchestrator
) -> None:
    async with ingress(database_url, orchestrator, outbox_depth_max=2, overload_check_seconds=0.01) as desk:
        answer = await wait_until(desk.post, lambda answer: answer.status_code != 202)
        assert problem(answer) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert (await desk.client.get("/v1/orders")).status_code == 200

        await desk.rows("DELETE FROM outbox RETURNING 1")
        await wait_until(desk.post, lambda answer: answer.status_code == 202)


async def test_more_requests_than_we_keep_waiting_are_turned_away(database_url: str, orchestrator: FakeOrchestrator) -> None:
    async with ingress(database_url, orchestrator, acceptance_queue_size_max=5) as desk:
        answers = await asyncio.gather(*[desk.post() for _ in range(20)])

    assert {answer.status_code for answer in answers} == {202, 503}
    assert sum(answer.status_code == 202 for answer in answers) >= 5


async def test_a_database_that_is_away_is_a_503(desk: Ingress) -> None:
    assert (await desk.client.get("/v1/orders")).status_code == 200
    async with desk.runtime.engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
        # The role may end its own sessions, all but this one.
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
            )
        )
    answers = [await desk.post() for _ in range(8)]

    assert {answer.status_code for answer in answers} <= {202, 503}
    assert answers[-1].status_code == 202
    for answer in answers:
        if answer.status_code == 503:
            assert problem(answer) == (503, "overloaded")


async def test_an_unexpected_error_is_a_500_without_internals(desk: Ingress) -> None:
    placed = (await desk.post()).json()
    await desk.rows("UPDATE partner_order SET steps = '{' RETURNING 1")

    answer = await desk.client.get(placed["links"]["self"])

    assert problem(answer) == (500, "internal-error")
    assert "steps" not in answer.text


async def test_every_problem_type_leads_to_its_explanation(desk: Ingress) -> None:
    answers = [await desk.client.get(kind.path, headers={"Authorization": ""}) for kind in TYPES.values()]

    assert {answer.status_code for answer in answers} == {200}
    assert [answer.text for answer in answers] == [kind.document() for kind in TYPES.values()]


async def test_what_is_not_there_is_a_problem_as_well(desk: Ingress) -> None:
    assert problem(await desk.client.get("/nowhere")) == (404, "not-found")
    assert problem(await desk.client.get("/v1/nowhere")) == (404, "not-found")
    assert problem(await desk.client.get("/problems/nothing")) == (404, "not-found")
    assert problem(await desk.client.put("/v1/orders")) == (405, "method-not-allowed")
    assert problem(await desk.client.delete("/problems/not-found")) == (405, "method-not-allowed")
    assert problem(await desk.client.get("/v1/orders/")) == (404, "not-found")

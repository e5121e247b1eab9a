"""Posting, reading, listing and cancelling orders, over HTTP, on a real database."""

import asyncio
from typing import Any

import jsonschema
import pytest
from sqlalchemy import text
from uuid_utils import uuid7

from contracts.orders.v1 import OrderCancelled, OrderCompleted, OrderFailed, OrderRefused
from services.ingress.http import openapi
from tests.integration.ingress.partners import FakeOrchestrator, Ingress, end, ingress, order
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

TOTAL = {"amount_minor": 12345, "currency": "EUR"}
SHIPMENT = {"warehouse": "W-1", "carrier": "own-fleet", "tracking": "OF-1"}
ALLOCATION = {"line": "1", "sku": "P-100", "warehouse": "W-1", "country": "DE", "quantity": "3"}
REASONS = [{"code": "credit-declined", "detail": "The credit line is short by 5.00 EUR."}]
WAIT_SECONDS = 10.0


def completed(placed: dict[str, Any]) -> OrderCompleted:
    event = end(OrderCompleted, placed, total=TOTAL, allocations=[ALLOCATION], shipments=[SHIPMENT])
    assert isinstance(event, OrderCompleted)
    return event


async def until_waiting(desk: Ingress, number: str) -> dict[str, Any]:
    """The order once its POST has committed; its request is then waiting for the end."""

    async def committed() -> list[dict[str, Any]]:
        page = (await desk.client.get("/v1/orders", params={"order_number": number})).json()
        return list(page["orders"])

    return (await wait_until(committed))[0]


async def test_an_accepted_order_is_answered_202_and_leaves_one_event(desk: Ingress) -> None:
    answer = await desk.post(order(order_number="PO-1"))

    placed = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == placed["links"]["self"] == f"/v1/orders/{placed['order_id']}"
    assert answer.headers["retry-after"] == "1"
    assert placed["status"] == "running"
    assert placed["order_number"] == "PO-1"
    rows = await desk.rows("SELECT type, correlation_id, body FROM outbox")
    assert [row.type for row in rows] == ["orders.order-accepted.v1"]
    assert answer.headers["x-correlation-id"] == rows[0].correlation_id
    assert placed["order_id"].encode() in bytes(rows[0].body)
    assert b'"quantity":"3"' in bytes(rows[0].body)


async def test_every_answer_carries_its_correlation_and_the_quota(desk: Ingress) -> None:
    answers = [
        await desk.post(),
        await desk.post({}),
        await desk.client.get("/v1/orders"),
        await desk.client.get("/v1/orders", headers={"Authorization": "none"}),
        await desk.client.get("/nowhere"),
        await desk.client.delete("/v1/orders"),
        await desk.client.get("/v1/openapi.json"),
    ]

    assert [answer.status_code for answer in answers] == [202, 422, 200, 401, 404, 405, 200]
    for answer in answers:
        assert len(answer.headers["x-correlation-id"]) == 36
        assert answer.headers["ratelimit-policy"].endswith(";w=60")
        assert ";r=" in answer.headers["ratelimit"]
    assert len({answer.headers["x-correlation-id"] for answer in answers}) == len(answers)
    assert answers[5].headers["allow"].replace(" ", "").split(",").count("POST") == 1


async def test_an_order_that_ends_in_time_is_answered_200(desk: Ingress) -> None:
    given = order()
    waiting = asyncio.create_task(desk.post(given, Prefer="wait=20"))
    placed = await until_waiting(desk, given["order_number"])

    await desk.hear(completed(placed))
    answer = await waiting

    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["status"] == "completed"
    assert answer.json()["total"] == TOTAL
    assert answer.json()["shipments"] == [{"carrier": "own-fleet", "tracking": "OF-1"}]


async def test_an_end_that_another_replica_heard_is_found_as_well(desk: Ingress) -> None:
    given = order()
    waiting = asyncio.create_task(desk.post(given, Prefer="wait=20"))
    placed = await until_waiting(desk, given["order_number"])

    await desk.rows(
        "UPDATE partner_order SET status = 'failed', finished_at = now() WHERE order_id = :id RETURNING 1",
        id=placed["order_id"],
    )

    assert (await waiting).json()["status"] == "failed"


async def test_an_order_that_does_not_end_in_time_is_answered_202(desk: Ingress) -> None:
    answer = await desk.post(Prefer="wait=1")

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_the_same_request_again_gets_the_stored_answer(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    first = await desk.post(given, key=key)

    again = await desk.post(dict(reversed(given.items())), key=f'"{key}"')

    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-correlation-id"] == first.headers["x-correlation-id"]
    assert "idempotent-replayed" not in first.headers
    assert await desk.sent() == ["orders.order-accepted.v1"]


async def test_a_repetition_that_waits_gets_the_end(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    placed = (await desk.post(given, key=key)).json()
    await desk.hear(completed(placed))

    again = await desk.post(given, key=key, Prefer="respond-async, wait=5")

    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_key_belongs_to_one_body(desk: Ingress) -> None:
    key = str(uuid7())
    await desk.post(key=key)

    answer = await desk.post(key=key)

    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert answer.json()["retryable"] is False
    assert await desk.sent() == ["orders.order-accepted.v1"]


async def test_a_key_belongs_to_one_partner(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    mine = await desk.post(given, key=key)

    theirs = await desk.post(given, key=key, Authorization=f"Bearer {desk.other_key}")

    assert theirs.status_code == 202
    assert theirs.json()["order_id"] != mine.json()["order_id"]


async def test_an_order_number_belongs_to_one_order(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    first = await desk.post(given)

    for _ in range(2):
        answer = await desk.post({**given, "currency": "CHF"}, key=key)
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/duplicate-order"
        assert answer.json()["order_id"] == first.json()["order_id"]
        assert answer.json()["correlation_id"] == answer.headers["x-correlation-id"] == first.headers["x-correlation-id"]
    assert (await desk.post({**given, "revision": 1})).status_code == 202
    assert await desk.sent() == ["orders.order-accepted.v1"] * 2


async def test_a_request_whose_first_is_still_handled_is_told_to_come_back(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    async with desk.runtime.engine.begin() as elsewhere:
        await elsewhere.execute(
            text(
                "INSERT INTO idempotency_key VALUES "
                "('acme', 'POST /v1/orders', :key, decode(repeat('00', 32), 'hex'), 'ord_x', 'x', '', now())"
            ),
            {"key": key},
        )
        neighbour = asyncio.create_task(desk.post())
        # Well below the five seconds that the role itself would wait for a lock.
        async with asyncio.timeout(4):
            answer = await desk.post(given, key=key)

        assert (await neighbour).status_code == 202
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/request-in-progress"
        assert answer.json()["retryable"] is True
        assert answer.headers["retry-after"] == "1"
        await elsewhere.rollback()

    assert (await desk.post(given, key=key)).status_code == 202


async def test_many_requests_at_once_make_one_order_per_key_and_per_number(desk: Ingress) -> None:
    repeated, contested = order(), order()
    same = [desk.post(repeated, key="one-key") for _ in range(10)]
    other = [desk.post(contested) for _ in range(10)]
    single = [desk.post() for _ in range(30)]

    answers = await asyncio.gather(*same, *other, *single)

    of_same, of_other, of_single = answers[:10], answers[10:20], answers[20:]
    assert {answer.status_code for answer in of_same} == {202}
    assert len({answer.content for answer in of_same}) == 1
    assert sorted(answer.status_code for answer in of_other) == [202] + [409] * 9
    assert {answer.status_code for answer in of_single} == {202}
    assert len(await desk.sent()) == 32
    assert (await desk.rows("SELECT count(*) AS n FROM partner_order"))[0].n == 32
    assert (await desk.rows("SELECT count(*) AS n FROM idempotency_key"))[0].n == 32


async def test_nothing_of_an_order_remains_when_its_transaction_fails(desk: Ingress) -> None:
    given, key = order(), str(uuid7())
    async with desk.runtime.engine.begin() as elsewhere:
        # The outbox comes last in the transaction: locked, it lets everything before happen first.
        await elsewhere.execute(text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))
        answer = await desk.post(given, key=key)
        assert answer.status_code in (409, 503)
        await elsewhere.rollback()

    assert (await desk.rows("SELECT count(*) AS n FROM partner_order"))[0].n == 0
    assert (await desk.post(given, key=key)).status_code == 202
    assert await desk.sent() == ["orders.order-accepted.v1"]


@pytest.mark.parametrize(("kind", "status"), [(OrderRefused, "refused"), (OrderCancelled, "cancelled"), (OrderFailed, "failed")])
async def test_an_order_shows_how_and_why_it_ended(desk: Ingress, kind: Any, status: str) -> None:
    placed = (await desk.post()).json()
    await desk.hear(end(kind, placed, reasons=REASONS))

    shown = (await desk.client.get(placed["links"]["self"])).json()

    assert (shown["status"], shown["reasons"]) == (status, REASONS)
    assert shown["finished_at"] >= shown["accepted_at"]
    assert shown["expected_by"] is None
    assert "short by 5.00 EUR" in shown["message"]


async def test_an_end_is_final(desk: Ingress) -> None:
    placed = (await desk.post()).json()
    await desk.hear(completed(placed))
    before = (await desk.client.get(placed["links"]["self"])).content

    await desk.hear(end(OrderFailed, placed, reasons=REASONS))

    assert (await desk.client.get(placed["links"]["self"])).content == before


async def test_steps_come_from_the_orchestrator_and_are_remembered(desk: Ingress, orchestrator: FakeOrchestrator) -> None:
    posted = await desk.post()
    step = {"id": "reserve-credit", "state": "sent", "attempts": 2, "started_at": "2026-03-01T12:00:00Z"}
    orchestrator.progress[posted.headers["x-correlation-id"]] = {
        "status": "compensating",
        "stage": "checks",
        "steps": [{**step, "unknown": 1}],
    }
    shown = (await desk.client.get(posted.headers["location"])).json()
    orchestrator.progress[posted.headers["x-correlation-id"]] = {"status": "running", "steps": [step]}
    later = (await desk.client.get(posted.headers["location"])).json()
    orchestrator.progress.clear()
    remembered = (await desk.client.get(posted.headers["location"])).json()

    assert orchestrator.credentials == {"Bearer between us"}
    assert (shown["status"], shown["stage"]) == ("compensating", "checks")
    assert [(item["id"], item["state"], item["attempts"]) for item in shown["steps"]] == [("reserve-credit", "sent", 2)]
    assert later["status"] == remembered["status"] == "compensating"
    assert remembered["steps"] == shown["steps"]


async def test_an_order_is_shown_without_the_orchestrator(database_url: str) -> None:
    nobody = FakeOrchestrator(url="http://127.0.0.1:1")
    async with ingress(database_url, nobody) as desk:
        placed = (await desk.post()).json()

        shown = await desk.client.get(placed["links"]["self"])
        refused = await desk.client.post(placed["links"]["cancel"])

    assert (shown.status_code, shown.json()["steps"]) == (200, [])
    assert refused.status_code == 503
    assert refused.json()["type"] == "/problems/orchestrator-unreachable"
    assert refused.headers["retry-after"] == "1"


async def test_an_unchanged_order_is_not_sent_again(desk: Ingress) -> None:
    placed = (await desk.post()).json()
    first = await desk.client.get(placed["links"]["self"])
    known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}

    unchanged = await desk.client.get(placed["links"]["self"], headers=known)
    await desk.hear(completed(placed))
    changed = await desk.client.get(placed["links"]["self"], headers=known)

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == first.headers["etag"]
    assert (changed.status_code, changed.json()["status"]) == (200, "completed")
    assert "retry-after" not in changed.headers


@pytest.mark.parametrize("suffix", ["", "/cancel"])
async def test_the_order_of_another_partner_looks_like_no_order(desk: Ingress, suffix: str) -> None:
    placed = (await desk.post()).json()
    method = "POST" if suffix else "GET"
    other = {"Authorization": f"Bearer {desk.other_key}"}

    theirs = await desk.client.request(method, placed["links"]["self"] + suffix, headers=other)
    unknown = await desk.client.request(method, f"/v1/orders/ord_{uuid7().hex}{suffix}", headers=other)
    malformed = await desk.client.request(method, f"/v1/orders/%00{suffix}", headers=other)

    def told(answer: Any) -> dict[str, Any]:
        return {k: v for k, v in answer.json().items() if k not in ("instance", "correlation_id")}

    assert theirs.status_code == 404
    assert told(theirs) == told(unknown) == told(malformed)
    assert desk.orchestrator.asked == []
    assert (await desk.client.get("/v1/orders", headers=other)).json()["orders"] == []


async def test_pages_show_every_order_once_newest_first(desk: Ingress) -> None:
    ids = [(await desk.post()).json()["order_id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None

    for _ in range(3):
        page = (await desk.client.get("/v1/orders", params={"limit": 2} | ({"after": cursor} if cursor else {}))).json()
        seen += [item["order_id"] for item in page["orders"]]
        cursor = page["next"]

    assert seen == ids[::-1]
    assert cursor is None


async def test_a_list_can_be_narrowed(desk: Ingress) -> None:
    first, second = (await desk.post()).json(), (await desk.post()).json()
    await desk.hear(completed(second))

    by_number = await desk.client.get("/v1/orders", params={"order_number": first["order_number"]})
    by_status = await desk.client.get("/v1/orders", params={"status": "completed"})

    assert [item["order_id"] for item in by_number.json()["orders"]] == [first["order_id"]]
    assert [item["order_id"] for item in by_status.json()["orders"]] == [second["order_id"]]


async def test_a_senseless_query_names_its_parameters(desk: Ingress) -> None:
    answer = await desk.client.get("/v1/orders", params={"status": "lost", "after": "%%", "limit": 0, "order_number": "\0"})

    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == ["/order_number", "/status", "/after", "/limit"]


async def test_cancelling_is_decided_by_the_orchestrator(desk: Ingress, orchestrator: FakeOrchestrator) -> None:
    posted = await desk.post()
    link = posted.json()["links"]["cancel"]

    accepted = await desk.client.post(link, json={"reason": "wrong item"})
    orchestrator.cancel_status, orchestrator.cancel_answer = 409, {"detail": "The order is past its pivot."}
    refused = await desk.client.post(link)

    saga = posted.headers["x-correlation-id"]
    assert (accepted.status_code, accepted.headers["location"]) == (202, posted.headers["location"])
    assert orchestrator.asked == [
        {"saga": saga, "reason": "wrong item", "actor": "partner:acme"},
        {"saga": saga, "reason": "cancelled by the partner", "actor": "partner:acme"},
    ]
    assert refused.status_code == 409
    assert refused.json()["detail"] == "The order is past its pivot."
    assert refused.headers["x-correlation-id"] == saga


async def test_an_order_that_has_ended_is_not_cancelled(desk: Ingress, orchestrator: FakeOrchestrator) -> None:
    placed = (await desk.post()).json()
    await desk.hear(completed(placed))

    answer = await desk.client.post(placed["links"]["cancel"])

    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/not-cancellable")
    assert orchestrator.asked == []


async def test_answers_are_as_they_are_described(desk: Ingress) -> None:
    described = (await desk.client.get("/v1/openapi.json", headers={"Authorization": ""})).json()
    placed = await desk.post()
    page = await desk.client.get("/v1/orders")
    problem = await desk.post({"order_number": 1})

    def check(name: str, document: Any) -> None:
        jsonschema.validate(document, {"$ref": f"#/components/schemas/{name}", "components": described["components"]})

    check("Order", placed.json())
    check("Orders", page.json())
    check("Problem", problem.json())
    check("OrderInput", openapi.ORDER_EXAMPLE)
    check("Order", described["components"]["schemas"]["Order"]["examples"][0])
    assert described["openapi"].startswith("3.1")

"""A step that fails for good, is repaired and sent again: once, however often it is sent."""

import json

import httpx2

from tests.scenarios.conftest import CarrierDesk
from tests.scenarios.desk import dead_letter, dead_letters, replay
from tests.support.partner import finished, post
from tests.support.platform import Platform
from tests.support.workload import OVER_HTTP, order


async def test_an_order_survives_its_carriers_outage(platform: Platform, acme: httpx2.AsyncClient, carrier: CarrierDesk) -> None:
    await carrier.misbehave("unavailable")
    placed = await post(acme, order(country=OVER_HTTP))
    order_id, saga_id = placed.json()["order_id"], placed.headers["x-correlation-id"]

    letter = await dead_letter(platform, "--correlation-id", saga_id)
    during = (await acme.get(f"/v1/orders/{order_id}")).json()
    _, proof, _ = await platform.run("tutti", "reconcile", "--json")
    await carrier.behave()
    first = await replay(platform, letter["id"])
    document = await finished(acme, order_id)

    assert (letter["queue"], letter["type"], letter["kind"]) == (
        "fulfillment.commands",
        "fulfillment.create-shipment.v1",
        "transient",
    )
    assert during["status"] == "running"
    # An open dead letter is a reason; what it explains is neither lost nor unanswered.
    assert {kind: found for kind, found in json.loads(proof).items() if isinstance(found, list) and found} == {}
    assert (first["items"], first["resolved"], first["failed_again"]) == (1, 1, 0)
    assert document["status"] == "completed"
    assert await carrier.effects(saga_id) == ["booked"]
    assert [one["state"] for one in await dead_letters(platform, "--correlation-id", saga_id)] == ["resolved"]


async def test_a_repaired_message_has_one_effect_however_often_it_is_replayed(
    platform: Platform, acme: httpx2.AsyncClient, carrier: CarrierDesk
) -> None:
    await carrier.misbehave("unavailable")
    placed = await post(acme, order(country=OVER_HTTP))
    saga_id = placed.headers["x-correlation-id"]
    letter = await dead_letter(platform, "--correlation-id", saga_id)
    await carrier.behave()
    await replay(platform, letter["id"])
    document = await finished(acme, placed.json()["order_id"])

    again = await platform.run("dlq", "replay", letter["id"], "--reason", "once more", "--wait", "--yes", "--json")

    # What is resolved is refused or answered again; either way nothing happens twice.
    assert again[0] in (0, 1, 4), again
    assert document["status"] == "completed"
    assert await carrier.effects(saga_id) == ["booked"]
    shipments = (await acme.get(f"/v1/orders/{placed.json()['order_id']}")).json()["shipments"]
    assert len(shipments) == 1


async def test_an_order_in_the_dead_letters_is_cancelled_once_its_carrier_has_said_no(
    platform: Platform, acme: httpx2.AsyncClient, carrier: CarrierDesk
) -> None:
    await carrier.misbehave("unavailable")
    placed = await post(acme, order(country=OVER_HTTP))
    order_id, saga_id = placed.json()["order_id"], placed.headers["x-correlation-id"]
    letter = await dead_letter(platform, "--correlation-id", saga_id)
    asked = await acme.post(f"/v1/orders/{order_id}/cancel")
    await carrier.behave()
    await carrier.misbehave("refuse", action="book", count=1)

    await replay(platform, letter["id"])
    document = await finished(acme, order_id)

    assert asked.status_code == 202
    assert document["status"] == "cancelled"
    assert "booked" not in await carrier.effects(saga_id)


async def test_an_answer_that_is_lost_on_the_way_does_not_book_twice(acme: httpx2.AsyncClient, carrier: CarrierDesk) -> None:
    await carrier.misbehave("execute-then-fail", action="book", count=1)

    placed = await post(acme, order(country=OVER_HTTP))
    document = await finished(acme, placed.json()["order_id"])

    assert document["status"] == "completed"
    assert await carrier.effects(placed.headers["x-correlation-id"]) == ["booked"]


async def test_a_carrier_that_answers_nonsense_does_not_book_twice(acme: httpx2.AsyncClient, carrier: CarrierDesk) -> None:
    await carrier.misbehave("garbage", action="book", count=1)

    placed = await post(acme, order(country=OVER_HTTP))
    document = await finished(acme, placed.json()["order_id"])

    assert document["status"] == "completed"
    assert await carrier.effects(placed.headers["x-correlation-id"]) == ["booked"]


async def test_a_busy_carrier_is_asked_again(acme: httpx2.AsyncClient, carrier: CarrierDesk) -> None:
    await carrier.misbehave("rate-limited", action="book", count=1, retry_after_seconds=1)

    placed = await post(acme, order(country=OVER_HTTP))
    document = await finished(acme, placed.json()["order_id"])

    assert document["status"] == "completed"
    assert (await carrier.attempts(placed.headers["x-correlation-id"])).count("book") == 2

"""Every definite end that an order can come to, seen by the partner over HTTP and by a system on the broker."""

import asyncio
from decimal import Decimal

import httpx2
import pytest

from tests.scenarios.conftest import CarrierDesk
from tests.support.breakage import frozen
from tests.support.outsider import Ear
from tests.support.partner import WAIT_SECONDS, codes, finished, post
from tests.support.platform import Platform
from tests.support.workload import (
    BLOCKED,
    BLOCKED_TOO,
    BUYER_WITHOUT_CREDIT,
    MORE_THAN_ALL_STOCK,
    OVER_HTTP,
    RESEMBLING,
    line,
    order,
)

EVENT_SECONDS = 15.0
AT_ONCE = 20


async def promised(client: httpx2.AsyncClient, ear: Ear, sku: str) -> Decimal:
    """How much of the item could be promised now: asked by an order for more than there can be."""
    answer = await post(client, order(lines=[line(1, sku, "90000")], buyer_id="C-50"), wait=WAIT_SECONDS)
    short = await ear.event("inventory.stock-short.v1", answer.json()["order_id"], within=EVENT_SECONDS)
    return Decimal(short["missing"][0]["available"])


async def undone(ear: Ear, order_id: str, done: str, undo: str) -> tuple[dict[str, object], dict[str, object]]:
    """The answers of a step and of its undo."""
    return (
        await ear.event(done, order_id, within=EVENT_SECONDS),
        await ear.event(undo, order_id, within=EVENT_SECONDS),
    )


async def test_an_order_completes_and_everybody_who_asked_is_told(acme: httpx2.AsyncClient, ear: Ear) -> None:
    before = await promised(acme, ear, "P-301")

    answer = await post(acme, order(lines=[line(1, "P-301", "7"), line(2, "P-302", "2")]), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"]) == (200, "completed")
    assert document["shipments"][0]["carrier"] == "own-fleet"
    assert document["shipments"][0]["tracking"]
    completed = await ear.event("orders.order-completed.v1", document["order_id"], within=EVENT_SECONDS)
    assert completed["total"] == document["total"]
    assert {(one["sku"], one["quantity"]) for one in completed["allocations"]} == {("P-301", "7"), ("P-302", "2")}
    reserved = await ear.event("credit.credit-reserved.v1", document["order_id"], within=EVENT_SECONDS)
    assert reserved["amount"] == document["total"]
    assert await promised(acme, ear, "P-301") == before - 7


async def test_an_order_beyond_the_credit_line_is_refused_and_its_stock_is_free_again(acme: httpx2.AsyncClient, ear: Ear) -> None:
    # Dear, and most of what there is: dearer than any buyer's line.
    lines = [line(1, "P-73", "2500")]
    before = await promised(acme, ear, "P-73")

    answer = await post(acme, order(lines=lines), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"], codes(document)) == (200, "refused", {"credit-declined"})
    declined = await ear.event("credit.credit-declined.v1", document["order_id"], within=EVENT_SECONDS)
    assert 0 < declined["shortfall"]["amount_minor"] < declined["amount"]["amount_minor"]
    taken, given_back = await undone(ear, document["order_id"], "inventory.stock-reserved.v1", "inventory.stock-released.v1")
    assert given_back["allocations"] == taken["allocations"] != []
    assert await promised(acme, ear, "P-73") == before


async def test_an_order_of_a_buyer_without_credit_is_refused(acme: httpx2.AsyncClient) -> None:
    answer = await post(acme, order(buyer_id=BUYER_WITHOUT_CREDIT), wait=WAIT_SECONDS)

    assert (answer.json()["status"], codes(answer.json())) == ("refused", {"no-credit-line"})


async def test_an_order_for_more_than_there_is_is_refused_and_its_credit_is_free_again(
    acme: httpx2.AsyncClient, ear: Ear
) -> None:
    lines = [line(1, "P-304", "1"), line(2, "P-1", str(MORE_THAN_ALL_STOCK))]
    before = await promised(acme, ear, "P-304")

    answer = await post(acme, order(lines=lines, buyer_id="C-49"), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"], codes(document)) == (200, "refused", {"stock-short"})
    assert str(MORE_THAN_ALL_STOCK) in document["reasons"][0]["detail"]
    assert await promised(acme, ear, "P-304") == before, "the whole order or nothing of it"
    # Were the credit of the refused orders still held, the line would be used up after a few.
    again = [(await post(acme, order(lines=lines, buyer_id="C-49"), wait=WAIT_SECONDS)).json() for _ in range(15)]
    assert {code for one in again for code in codes(one)} == {"stock-short"}


@pytest.mark.parametrize(
    ("name", "code"),
    [(BLOCKED, "denied-party"), (BLOCKED_TOO, "denied-party"), (RESEMBLING, "possible-denied-party")],
)
async def test_an_order_of_a_denied_party_is_refused_and_taken_back(
    acme: httpx2.AsyncClient, ear: Ear, name: str, code: str
) -> None:
    before = await promised(acme, ear, "P-305")

    answer = await post(acme, order(name=name, lines=[line(1, "P-305", "3")]), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"]) == (200, "refused")
    assert codes(document) == {code}
    assert not ear.of(document["order_id"], "fulfillment.shipment-created.v1")
    assert await promised(acme, ear, "P-305") == before


async def test_an_order_of_an_unknown_item_is_refused_by_name(acme: httpx2.AsyncClient) -> None:
    answer = await post(acme, order(lines=[line(1, "P-1"), line(2, "NO-SUCH-ITEM")]), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"]) == (200, "refused")
    assert any("NO-SUCH-ITEM" in reason["detail"] for reason in document["reasons"])


async def test_an_order_that_its_carrier_refuses_is_taken_back(acme: httpx2.AsyncClient, ear: Ear, carrier: CarrierDesk) -> None:
    before = await promised(acme, ear, "P-306")
    await carrier.misbehave("refuse", detail="no dangerous goods", action="book", count=1)

    answer = await post(acme, order(country=OVER_HTTP, lines=[line(1, "P-306", "2")]), wait=WAIT_SECONDS)

    document = answer.json()
    assert (answer.status_code, document["status"]) == (200, "refused")
    assert document["reasons"]
    assert "booked" not in await carrier.effects(answer.headers["x-correlation-id"])
    held, released = await undone(ear, document["order_id"], "credit.credit-reserved.v1", "credit.credit-released.v1")
    assert released["amount"] == held["amount"]
    assert await promised(acme, ear, "P-306") == before


async def test_orders_are_cancelled_in_time(platform: Platform, acme: httpx2.AsyncClient, ear: Ear) -> None:
    before = await promised(acme, ear, "P-307")

    # Held before their first step, they are all under way when their cancellation comes.
    async with frozen(platform, "pricing"):
        orders, asked = zip(*await asyncio.gather(*(post_and_cancel(acme, "P-307") for _ in range(AT_ONCE))), strict=True)
    ends = [(await finished(acme, order_id))["status"] for order_id in orders]

    assert asked == (202,) * AT_ONCE
    assert ends == ["cancelled"] * AT_ONCE
    await ear.event("orders.order-cancelled.v1", orders[0], within=EVENT_SECONDS)
    assert not ear.of(orders[0], "orders.order-completed.v1")
    assert await promised(acme, ear, "P-307") == before


async def test_a_cancellation_meets_its_order_wherever_that_is(acme: httpx2.AsyncClient, ear: Ear) -> None:
    """An order runs on while its cancellation is on its way: some are told in time and some too late."""
    before = await promised(acme, ear, "P-308")

    seen = await asyncio.gather(*(post_and_cancel(acme, "P-308") for _ in range(AT_ONCE)))

    ends = [(code, (await finished(acme, order_id))["status"]) for order_id, code in seen]
    assert set(ends) <= {(202, "cancelled"), (202, "completed"), (409, "completed")}
    assert await promised(acme, ear, "P-308") == before - sum(status == "completed" for _, status in ends)


async def post_and_cancel(client: httpx2.AsyncClient, sku: str) -> tuple[str, int]:
    """The order, and how its cancellation was answered."""
    placed = (await post(client, order(lines=[line(1, sku)]))).json()
    asked = await client.post(f"/v1/orders/{placed['order_id']}/cancel", json={"reason": "ordered twice"})
    return placed["order_id"], asked.status_code


async def test_a_cancellation_while_the_carrier_thinks_waits_for_its_answer(
    acme: httpx2.AsyncClient, ear: Ear, carrier: CarrierDesk
) -> None:
    await carrier.misbehave("slow", delay_seconds=2, action="book", count=1)
    placed = await post(acme, order(country=OVER_HTTP))
    order_id, saga_id = placed.json()["order_id"], placed.headers["x-correlation-id"]
    await ear.event("credit.credit-reserved.v1", order_id, within=EVENT_SECONDS)

    asked = await acme.post(f"/v1/orders/{order_id}/cancel")
    document = await finished(acme, order_id)

    # The carrier said yes: the process completes, and the cancellation was too late. Had it said no, it would have been in time.
    effects = await carrier.effects(saga_id)
    assert asked.status_code in (202, 409)
    assert (document["status"], effects) in [("completed", ["booked"]), ("cancelled", ["booked", "cancelled"]), ("cancelled", [])]


async def test_an_order_that_has_ended_cannot_be_cancelled(acme: httpx2.AsyncClient) -> None:
    placed = await post(acme, order(), wait=WAIT_SECONDS)

    answer = await acme.post(f"/v1/orders/{placed.json()['order_id']}/cancel", json={"reason": "too late"})

    assert placed.json()["status"] == "completed"
    assert answer.status_code == 409
    assert answer.json()["type"].endswith("/not-cancellable")
    assert (await acme.get(f"/v1/orders/{placed.json()['order_id']}")).json()["status"] == "completed"


async def test_what_a_partner_may_not_see_is_not_there(platform: Platform, acme: httpx2.AsyncClient) -> None:
    placed = (await post(acme, order(), wait=WAIT_SECONDS)).json()

    async with platform.partner("globex") as globex:
        foreign = [
            await globex.get(f"/v1/orders/{placed['order_id']}"),
            await globex.post(f"/v1/orders/{placed['order_id']}/cancel"),
            await globex.get("/v1/orders/ord_00000000000000000000000000000000"),
        ]
        listed = (await globex.get("/v1/orders", params={"order_number": placed["order_number"]})).json()

    assert [answer.status_code for answer in foreign] == [404, 404, 404]
    telling = [{**answer.json(), "instance": "", "correlation_id": ""} for answer in foreign]
    assert telling[0] == telling[2]
    assert listed["orders"] == []


async def test_nothing_is_left_over(platform: Platform) -> None:
    code, out, err = await platform.run("tutti", "reconcile", "--json")

    assert code == 0, out + err

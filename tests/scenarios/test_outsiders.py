"""Acceptance 3: programs that know only the envelope, on plain aio-pika and the CloudEvents SDK, each with its own broker user."""

import base64
import json
import time
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aio_pika
import httpx2
import pytest
from aiormq.exceptions import AMQPError
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage

from tests.scenarios.desk import dead_letters, discard
from tests.support.outsider import Ear, Mode, system
from tests.support.partner import WAIT_SECONDS, finished, post
from tests.support.platform import Platform
from tests.support.waiting import wait_until
from tests.support.workload import line, order

EVENT_SECONDS = 15.0
DEAD_LETTER_SECONDS = 5.0
MODES: list[Mode] = ["structured", "binary"]
RECEIVED, SUBMITTED = "inventory.stock-received.v1", "orders.order-submitted.v1"
OPEN_IN_INVENTORY = ("--queue", "inventory.events", "--state", "open", "--limit", "1000")
STRUCTURED = "application/cloudevents+json"


async def promised(acme: httpx2.AsyncClient, ear: Ear, sku: str) -> Decimal:
    answer = await post(acme, order(lines=[line(1, sku, "90000")]), wait=WAIT_SECONDS)
    short = await ear.event("inventory.stock-short.v1", answer.json()["order_id"], within=EVENT_SECONDS)
    return Decimal(short["missing"][0]["available"])


async def orders_of(acme: httpx2.AsyncClient, number: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await acme.get("/v1/orders", params={"order_number": number})).json()["orders"]
    return found


async def until_ordered(acme: httpx2.AsyncClient, number: str) -> dict[str, Any]:
    (found,) = await wait_until(
        lambda: orders_of(acme, number), within=EVENT_SECONDS, what=f"order {number} in the partner's list"
    )
    return await finished(acme, found["order_id"])


@pytest.mark.parametrize("mode", MODES)
async def test_goods_that_the_warehouse_reports_can_be_sold(
    platform: Platform, acme: httpx2.AsyncClient, ear: Ear, mode: Mode
) -> None:
    before = await promised(acme, ear, "P-311")

    async with system(platform.addresses["systems"]["wms"]["broker"]) as wms:
        await wms.say(RECEIVED, {"warehouse": "W-HAM", "sku": "P-311", "quantity": "12"}, mode=mode)

    async def arrived() -> bool:
        return await promised(acme, ear, "P-311") == before + 12

    await wait_until(arrived, within=EVENT_SECONDS, what="twelve more can be promised", every=0.2)


async def test_goods_that_are_reported_twice_arrived_once(platform: Platform, acme: httpx2.AsyncClient, ear: Ear) -> None:
    before = await promised(acme, ear, "P-312")
    goods = {"warehouse": "W-HAM", "sku": "P-312", "quantity": "5"}

    async with system(platform.addresses["systems"]["wms"]["broker"]) as wms:
        first = await wms.say(RECEIVED, goods)
        for mode in MODES:
            await wms.say(RECEIVED, goods, id=first, mode=mode)
        # Another source may use the same id: it is another event. It also comes last, so that the others have been handled.
        await wms.say(RECEIVED, {**goods, "quantity": "100"}, id=first, source="/wms/hall-2")

    async def arrived() -> bool:
        return await promised(acme, ear, "P-312") >= before + 100

    await wait_until(arrived, within=EVENT_SECONDS, what="the last report was handled", every=0.2)
    assert await promised(acme, ear, "P-312") == before + 105


@pytest.mark.parametrize("mode", MODES)
async def test_an_order_over_the_broker_is_an_order_like_any_other(
    platform: Platform, acme: httpx2.AsyncClient, mode: Mode
) -> None:
    body = order()
    async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
        await erp.say(SUBMITTED, {**body, "partner_id": "acme"}, mode=mode)

    document = await until_ordered(acme, body["order_number"])

    assert (document["status"], document["order_number"]) == ("completed", body["order_number"])


async def test_an_order_over_the_broker_exists_once_by_id_and_by_number(platform: Platform, acme: httpx2.AsyncClient) -> None:
    body, last = order(), order()
    async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
        first = await erp.say(SUBMITTED, {**body, "partner_id": "acme"})
        await erp.say(SUBMITTED, {**body, "partner_id": "acme"}, id=first)
        await erp.say(SUBMITTED, {**body, "partner_id": "acme"})
        await erp.say(SUBMITTED, {**last, "partner_id": "acme"})

    await until_ordered(acme, last["order_number"])
    document = await until_ordered(acme, body["order_number"])

    assert document["status"] == "completed"
    assert len(await orders_of(acme, body["order_number"])) == 1
    problem = (await post(acme, body)).json()
    assert (problem["status"], problem["order_id"]) == (409, document["order_id"])


async def test_a_bad_order_over_the_broker_is_a_dead_letter_and_its_neighbours_are_orders(
    platform: Platform, acme: httpx2.AsyncClient
) -> None:
    before, bad, after = order(), order(coupon="SAVE10"), order()
    async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
        ids = [await erp.say(SUBMITTED, {**body, "partner_id": "acme"}) for body in (before, bad, after)]

    letter = await _dead_letter_of(platform, "ingress.events", ids[1])

    assert letter["kind"] == "permanent"
    assert "coupon" in letter["error"]
    for body in (before, after):
        assert (await until_ordered(acme, body["order_number"]))["status"] == "completed"
    assert await orders_of(acme, bad["order_number"]) == []
    await discard(platform, letter["id"])


async def test_nobody_orders_for_a_partner_who_has_not_named_him(platform: Platform) -> None:
    body = order()
    async with system(platform.addresses["systems"]["erp"]["broker"]) as erp:
        event_id = await erp.say(SUBMITTED, {**body, "partner_id": "globex"})

    letter = await _dead_letter_of(platform, "ingress.events", event_id)

    assert "globex" in letter["error"]
    async with platform.partner("globex") as globex:
        assert await orders_of(globex, body["order_number"]) == []
    await discard(platform, letter["id"])


def _structured(data: str, **attributes: str) -> bytes:
    known = {"specversion": "1.0", "id": str(uuid4()), "source": "/wms", "type": RECEIVED, **attributes}
    listed = ", ".join(f'"{name}": "{value}"' for name, value in known.items())
    return f'{{{listed}, "data": {data}}}'.encode()


GOODS = '{"warehouse": "W-HAM", "sku": "P-313", "quantity": "1"}'
# No two with the same bytes: what cannot be read is known by its bytes, and would join the other's dead letter.
POISON: dict[str, tuple[bytes, str | None, dict[str, Any]]] = {
    "no-json": (b"{", STRUCTURED, {}),
    "empty": (b"", STRUCTURED, {}),
    "not-utf-8": (b"\xff\xfe\x00", STRUCTURED, {}),
    "nul": (_structured('{"warehouse": "W\\u0000", "sku": "P-313", "quantity": "1"}'), STRUCTURED, {}),
    "surrogate": (_structured('{"warehouse": "W\\ud800", "sku": "P-313", "quantity": "1"}'), STRUCTURED, {}),
    "wrong-type": (_structured('{"warehouse": 5, "sku": "P-313", "quantity": "1"}'), STRUCTURED, {}),
    "missing-field": (_structured('{"warehouse": "W-HAM", "quantity": "1"}'), STRUCTURED, {}),
    "no-attributes": (GOODS.encode(), STRUCTURED, {}),
    "nan": (_structured('{"warehouse": "W-HAM", "sku": "P-313", "quantity": NaN}'), STRUCTURED, {}),
    "huge-number": (_structured('{"warehouse": "W-HAM", "sku": "P-313", "quantity": 1e999}'), STRUCTURED, {}),
    "5000-digits": (_structured(f'{{"warehouse": "W-HAM", "sku": "P-313", "quantity": {"9" * 5000}}}'), STRUCTURED, {}),
    "duplicate-keys": (_structured('{"warehouse": "W-HAM", "sku": "P-313", "sku": "P-1", "quantity": "1"}'), STRUCTURED, {}),
    "nested": (b"[" * 100_000, STRUCTURED, {}),
    "many-objects": (b"[" + b"{}," * 80_000 + b"{}]", STRUCTURED, {}),
    "content-type": (_structured(GOODS), "text/xml", {}),
    "no-content-type": (_structured(GOODS), None, {}),
    "gzip": (b"\x1f\x8b" + b"garbage", STRUCTURED, {"content_encoding": "gzip"}),
    "other-type": (_structured(GOODS, type="inventory.stock-counted.v1"), STRUCTURED, {}),
    "too-large": (_structured(f'{{"warehouse": "W-HAM", "sku": "P-313", "quantity": "1", "note": "{"x" * 300_000}"}}'), STRUCTURED, {}),
    "binary-without-type": (GOODS.encode() + b" ", "application/json", {"headers": {"ce-id": "1", "ce-source": "/wms"}}),
    "large-headers": (_structured(GOODS), STRUCTURED, {"headers": {"note": "x" * 60_000}}),
    "spoofed-death": (b"{{", STRUCTURED, {"headers": {"x-death": "mine", "CC": ["orchestrator.events"]}, "expiration": 60}),
}  # fmt: skip


async def test_poison_of_every_kind_is_a_dead_letter_in_seconds_and_harms_nobody(
    platform: Platform, acme: httpx2.AsyncClient, ear: Ear
) -> None:
    before = await promised(acme, ear, "P-313")
    known = {letter["id"] for letter in await dead_letters(platform, *OPEN_IN_INVENTORY)}
    async with system(platform.addresses["systems"]["wms"]["broker"]) as wms:
        for body, content_type, properties in POISON.values():
            await wms.send(RECEIVED, RabbitMQMessage(properties.pop("headers", {}), content_type, body), **properties)
            await wms.say(RECEIVED, {"warehouse": "W-HAM", "sku": "P-313", "quantity": "1"})
    began = time.monotonic()

    async def letters() -> list[dict[str, Any]] | None:
        found = [one for one in await dead_letters(platform, *OPEN_IN_INVENTORY) if one["id"] not in known]
        return found if len(found) >= len(POISON) else None

    found = await wait_until(letters, within=DEAD_LETTER_SECONDS + 5, what=f"{len(POISON)} dead letters", every=0.2)
    took = time.monotonic() - began
    after = await promised(acme, ear, "P-313")

    assert took < DEAD_LETTER_SECONDS + 3, "seconds, with the start of the command that looks"
    assert len(found) == len(POISON)
    assert {letter["kind"] for letter in found} == {"permanent"}
    assert all(letter["error"] for letter in found)
    assert after == before + len(POISON), "each neighbour was handled"
    await discard(platform, *(letter["id"] for letter in found))


async def test_a_dead_letter_keeps_the_bytes_as_they_were(platform: Platform) -> None:
    body = b"\x00\x01 no json at all \xff" + uuid4().bytes
    known = {letter["id"] for letter in await dead_letters(platform, *OPEN_IN_INVENTORY)}
    async with system(platform.addresses["systems"]["wms"]["broker"]) as wms:
        await wms.send(RECEIVED, RabbitMQMessage({"note": "kept"}, STRUCTURED, body))

    async def look() -> list[dict[str, Any]]:
        return [one for one in await dead_letters(platform, *OPEN_IN_INVENTORY) if one["id"] not in known]

    (letter,) = await wait_until(look, within=DEAD_LETTER_SECONDS + 5, what="a dead letter", every=0.2)
    code, out, err = await platform.run(
        "dlq", "show", letter["id"], "--json", "--reveal", "--reason", "a test looks at its own bytes"
    )

    assert code == 0, err
    shown = json.loads(out)
    assert base64.b64decode(shown["body_base64"]) == body
    assert shown["headers"]["note"] == "kept"
    assert shown["failure"]
    await discard(platform, letter["id"])


FORBIDDEN_WRITES = [
    ("events", "credit.credit-reserved.v1"),
    ("events", "credit.limit-changed.v1"),
    ("events", "orders.order-submitted.v1"),
    ("events", "orders.order-completed.v1"),
    ("commands", "credit.reserve-credit.v1"),
    ("replay", "credit.commands"),
    ("dead-letters", "credit.commands"),
    ("", "credit.commands"),
]


@pytest.mark.parametrize(("exchange", "key"), FORBIDDEN_WRITES)
async def test_the_warehouse_system_may_not_speak_for_others(platform: Platform, exchange: str, key: str) -> None:
    async with await aio_pika.connect(platform.addresses["systems"]["wms"]["broker"]) as connection:
        channel = await connection.channel(on_return_raises=True)
        target = channel.default_exchange if not exchange else await channel.get_exchange(exchange, ensure=False)

        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await target.publish(aio_pika.Message(b"{}", user_id="wms"), key, mandatory=True)


@pytest.mark.parametrize(
    "queue", ["credit.commands", "inventory.events", "orchestrator.events", "credit.commands.dead", "erp.orders"]
)
async def test_the_warehouse_system_may_not_read_what_is_not_its_own(platform: Platform, queue: str) -> None:
    async with await aio_pika.connect(platform.addresses["systems"]["wms"]["broker"]) as connection:
        channel = await connection.channel()
        found = await channel.get_queue(queue, ensure=False)

        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await found.get()


async def test_the_warehouse_system_may_not_take_a_detour_over_a_dead_letter_exchange(platform: Platform) -> None:
    async with await aio_pika.connect(platform.addresses["systems"]["wms"]["broker"]) as connection:
        channel = await connection.channel()
        detour: dict[str, Any] = {
            "x-dead-letter-exchange": "commands",
            "x-dead-letter-routing-key": "credit.reserve-credit.v1",
            "x-message-ttl": 1,
        }

        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await channel.declare_queue(f"wms.detour-{uuid4().hex}", exclusive=True, arguments=detour)


async def test_nobody_signs_with_another_name(platform: Platform) -> None:
    async with system(platform.addresses["systems"]["wms"]["broker"]) as wms:
        with pytest.raises(AMQPError, match="PRECONDITION_FAILED"):
            await wms.send(RECEIVED, RabbitMQMessage({}, STRUCTURED, _structured(GOODS)), user_id="erp")


async def _dead_letter_of(platform: Platform, queue: str, message_id: str) -> dict[str, Any]:
    async def look() -> list[dict[str, Any]]:
        letters = await dead_letters(platform, "--queue", queue, "--limit", "1000")
        return [one for one in letters if one["message_id"] == message_id]

    (found,) = await wait_until(look, within=DEAD_LETTER_SECONDS + 5, what=f"a dead letter of {message_id}", every=0.2)
    return found

"""The adapter against the simulator over real HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from infra.chassis.errors import Permanent, Transient
from infra.chassis.service import Call
from services.fulfillment.adapters.carriers import RESPONSE_BYTES_MAX, HttpCarriers
from tests.integration.fulfillment.conftest import TOKEN

pytestmark = pytest.mark.asyncio

BOOKING = "saga-1:ship/2#berlin#fast"
BOOK = Call("carrier", BOOKING, {"action": "book", "carrier": "fast", "booking": BOOKING, "warehouse": "berlin"})
CANCEL = Call("carrier", f"{BOOKING}#cancel", {"action": "cancel", "carrier": "fast", "booking": BOOKING, "warehouse": "berlin"})
TIMEOUT_SECONDS = 1.0
END_SECONDS = 10.0


@pytest.fixture
async def carriers(simulator: httpx2.AsyncClient) -> AsyncIterator[HttpCarriers]:
    adapter = HttpCarriers(
        urls={"fast": f"{simulator.base_url}/fast/"},
        tokens={"fast": TOKEN},
        timeout_seconds=TIMEOUT_SECONDS,
        connections_max=2,
    )
    yield adapter
    await adapter.close()


async def order(simulator: httpx2.AsyncClient, **fault: Any) -> None:
    assert (await simulator.post("/faults", json=fault)).status_code == 201


async def effects(simulator: httpx2.AsyncClient) -> list[str]:
    return [effect["effect"] for effect in (await simulator.get("/effects")).json()]


async def test_a_booking_is_made_once_and_found_by_its_key(carriers: HttpCarriers, simulator: httpx2.AsyncClient):
    before = await carriers.query(BOOK)
    first, second, found = await carriers.perform(BOOK), await carriers.perform(BOOK), await carriers.query(BOOK)

    assert before is None
    assert first == second == found
    assert first.outcome == "done"
    assert str(first.response["tracking"]).startswith("FAST-")
    assert await effects(simulator) == ["booked"]


async def test_a_booking_is_taken_back_and_found_taken_back(carriers: HttpCarriers, simulator: httpx2.AsyncClient):
    await carriers.perform(BOOK)

    standing = await carriers.query(CANCEL)
    outcomes = [(await carriers.perform(CANCEL)).outcome, (await carriers.perform(CANCEL)).outcome]
    found = await carriers.query(CANCEL)

    assert standing is None
    assert outcomes == ["done", "done"]
    assert found is not None
    assert found.outcome == "done"
    assert await effects(simulator) == ["booked", "cancelled"]


async def test_a_booking_that_nobody_knows_counts_as_taken_back_and_is_refused_when_it_comes_late(carriers: HttpCarriers):
    unknown, late = await carriers.perform(CANCEL), await carriers.perform(BOOK)

    assert (unknown.outcome, late.outcome, late.response["code"]) == ("done", "refused", "cancelled")


async def test_a_booking_that_was_cancelled_is_no_booking(carriers: HttpCarriers):
    await carriers.perform(BOOK)
    await carriers.perform(CANCEL)

    found, repeated = await carriers.query(BOOK), await carriers.perform(BOOK)

    assert found is not None
    assert (found.outcome, repeated.outcome) == ("refused", "refused")


async def test_a_parcel_that_has_left_is_not_taken_back_and_is_still_booked(
    carriers: HttpCarriers, simulator: httpx2.AsyncClient
):
    await carriers.perform(BOOK)
    await simulator.post("/departures", json={"carrier": "fast", "booking": BOOKING})

    refused, still = await carriers.perform(CANCEL), await carriers.perform(BOOK)

    assert (refused.outcome, refused.response["code"]) == ("refused", "already-left")
    assert still.outcome == "done"


async def test_a_definite_no_is_refused_with_the_carriers_words_on_one_line(
    carriers: HttpCarriers, simulator: httpx2.AsyncClient
):
    await order(simulator, kind="refuse", count=1, detail="too\r\nlong")

    result = await carriers.perform(BOOK)

    assert (result.outcome, result.response["detail"]) == ("refused", "too long")


@pytest.mark.parametrize("kind", ["unavailable", "execute-then-fail", "garbage", "slow"])
@pytest.mark.parametrize("call", [BOOK, CANCEL], ids=["book", "cancel"])
async def test_whatever_leaves_the_outcome_open_is_worth_asking_again_and_then_happens_once(
    carriers: HttpCarriers, simulator: httpx2.AsyncClient, kind: str, call: Call
):
    if call is CANCEL:
        await carriers.perform(BOOK)
    action = call.request["action"]
    await order(simulator, kind=kind, count=1, action=action, delay_seconds=TIMEOUT_SECONDS * 20)

    if (kind, call) == ("garbage", CANCEL):
        # A deletion is known by its status alone.
        assert (await carriers.perform(call)).outcome == "done"
    else:
        with pytest.raises(Transient, match="fast"):
            await carriers.perform(call)
    result = await carriers.query(call) or await carriers.perform(call)

    assert result.outcome == "done"
    assert await effects(simulator) == (["booked"] if call is BOOK else ["booked", "cancelled"])


async def test_a_busy_carrier_is_asked_again_when_it_says(carriers: HttpCarriers, simulator: httpx2.AsyncClient):
    await order(simulator, kind="rate-limited", count=1, retry_after_seconds=7)

    with pytest.raises(Transient) as caught:
        await carriers.perform(BOOK)

    assert caught.value.retry_after_seconds == 7


async def test_a_carrier_that_cannot_be_reached_is_transient():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        adapter = HttpCarriers(urls={"fast": url}, tokens={}, timeout_seconds=TIMEOUT_SECONDS, connections_max=1)

        with pytest.raises(Transient, match="cannot be reached"):
            await adapter.perform(BOOK)

        await adapter.close()


async def test_a_wrong_token_and_a_missing_address_are_for_a_person(simulator: httpx2.AsyncClient):
    adapter = HttpCarriers(urls={"fast": str(simulator.base_url)}, tokens={"fast": "wrong"}, timeout_seconds=1, connections_max=1)
    elsewhere = HttpCarriers(urls={}, tokens={}, timeout_seconds=1, connections_max=1)

    for call in (BOOK, CANCEL):
        with pytest.raises(Permanent, match="token") as caught:
            await adapter.perform(call)
        assert "wrong" not in str(caught.value)
    with pytest.raises(Permanent, match="token"):
        await adapter.query(BOOK)
    with pytest.raises(Permanent, match="CARRIER_URLS"):
        await elsewhere.perform(BOOK)
    await adapter.close()
    await elsewhere.close()


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        ("HTTP/1.1 200 OK", b"x" * (RESPONSE_BYTES_MAX + 1), Transient),
        ("HTTP/1.1 200 OK", b'{"tracking": "T\\n1", "state": "booked"}', Transient),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/", b"", Permanent),
        ("HTTP/1.1 200 OK\r\nContent-Length: 900", b"{", Transient),
        ("no http", b"", Transient),
    ],
    ids=["too long", "control characters", "a redirect", "cut off", "no HTTP"],
)
async def test_answers_that_cannot_be_trusted_are_not_followed_or_believed(head: str, body: bytes, expected: type[Exception]):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    adapter = HttpCarriers(urls={"fast": url}, tokens={}, timeout_seconds=TIMEOUT_SECONDS, connections_max=1)
    async with server:
        with pytest.raises(expected):
            await adapter.perform(BOOK)
    await adapter.close()


async def test_a_carrier_that_trickles_its_answer_is_not_waited_for():
    ended = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.is_set():
            writer.write(b" ")
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS / 20):
                    await ended.wait()
            except TimeoutError:
                continue
        writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    adapter = HttpCarriers(urls={"fast": url}, tokens={}, timeout_seconds=TIMEOUT_SECONDS / 4, connections_max=1)
    async with server, asyncio.timeout(END_SECONDS):
        with pytest.raises(Transient, match="no answer"):
            await adapter.perform(BOOK)
        ended.set()
    await adapter.close()

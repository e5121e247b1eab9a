"""Somebody else's scenarios for the Idempotency-Key header (shared/data/idempotency), run where they apply.

Their endpoint takes any JSON, ours takes orders: `{"foo":"bar"}` stands for one order, `{"baz":"qux"}` for another.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from tests.integration.ingress.partners import Ingress, order
from tests.support.shared_data import SHARED

pytestmark = [pytest.mark.timeout(60)]

FEATURE = SHARED / "idempotency" / "idempotency-key.feature"

SKIPPED = {
    "Store unavailable": "test_refusals.py ends the database's sessions instead",
    "PUT requests bypass": "there is no PUT of orders; a GET is covered",
    "Empty request body": "an order cannot be empty: 415 without a media type, 400 with one",
}
# Their anchors into the draft, as the problem types that stand for them here.
SECTIONS = {
    "section-2.1": ("idempotency-key-missing", "idempotency-key-invalid"),
    # Their 409 for another key guesses from the body; ours knows the order by its number, which is in the body as well.
    "section-2.2": ("idempotency-key-reused", "duplicate-order"),
    "section-2.6": ("request-in-progress",),
}


@dataclass(frozen=True)
class Scenario:
    name: str
    steps: tuple[str, ...]

    @property
    def skip_reason(self) -> str | None:
        return next((reason for start, reason in SKIPPED.items() if self.name.startswith(start)), None)


def scenarios() -> Iterator[Scenario]:
    if not FEATURE.exists():
        return
    name, steps = "", list[str]()
    for line in [*FEATURE.read_text().splitlines(), "  Scenario: end"]:
        words = line.strip()
        if words.startswith("Scenario:"):
            if name:
                yield Scenario(name, tuple(steps))
            name, steps = words.removeprefix("Scenario:").strip(), []
        elif name and words and not words.startswith("#"):
            steps.append(words.split(" ", 1)[1])


@dataclass
class World:
    """One scenario under way."""

    desk: Ingress
    key: str | None = None
    answer: httpx2.Response | None = None
    bodies: dict[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> httpx2.Response:
        assert self.answer is not None
        return self.answer

    async def send(self, body: str | None = None) -> httpx2.Response:
        document = self.bodies.setdefault(body or "any", order())
        headers = {} if self.key is None else {"Idempotency-Key": self.key}
        return await self.desk.client.post("/v1/orders", json=document, headers=headers)


Step = Callable[..., Awaitable[None]]
STEPS: list[tuple[re.Pattern[str], Step]] = []


def step(pattern: str) -> Callable[[Step], Step]:
    def add(function: Step) -> Step:
        STEPS.append((re.compile(pattern), function))
        return function

    return add


@step(r"an empty Idempotency-Key header")
async def empty_key(world: World) -> None:
    world.key = ""


@step(r"an Idempotency-Key of (\d+) characters")
async def long_key(world: World, length: str) -> None:
    world.key = "k" * int(length)


@step(r'an Idempotency-Key "(.*)"')
async def given_key(world: World, key: str) -> None:
    world.key = key


@step(r'the key "(.*)" is currently being processed')
async def processed_elsewhere(world: World, key: str) -> None:
    assert world.key == key


@step(r'I (?:previously sent|send) a POST request to "/api" without an Idempotency-Key header')
async def send_without_key(world: World) -> None:
    world.answer = await world.send()


@step(r"""I (previously sent|send) a POST request to "/api" with body '(.*)'""")
async def send(world: World, when: str, body: str) -> None:
    answer = await world.send(body)
    if when == "send":
        world.answer = answer


@step(r'I send a GET request to "/api"')
async def get(world: World) -> None:
    world.answer = await world.desk.client.get("/v1/orders", headers={"Idempotency-Key": world.key or ""})


@step(r"the response status should be (\d+)")
async def status_is(world: World, status: str) -> None:
    # Their 200 to a POST is our 202.
    expected = 202 if status == "200" and world.answered.request.method == "POST" else int(status)
    assert world.answered.status_code == expected


@step(r'the response content-type should be "(.*)"')
async def content_type_is(world: World, media_type: str) -> None:
    assert world.answered.headers["content-type"] == media_type


@step(r'the response body should contain "(.*)"')
async def body_contains(world: World, words: str) -> None:
    if words in SECTIONS:
        assert world.answered.json()["type"].removeprefix("/problems/") in SECTIONS[words]
    elif words == "success":
        assert world.answered.json()["order_id"]
    else:
        assert words in world.answered.text


@step(r"the response retryable field should be (true|false)")
async def retryable_is(world: World, value: str) -> None:
    assert world.answered.json()["retryable"] is (value == "true")


@step(r'the response body instance field should match pattern "(.*)"')
async def instance_matches(world: World, pattern: str) -> None:
    assert re.match(pattern, world.answered.json()["instance"])


@step(r'the response should have header "x-idempotent-replayed" with value "true"')
async def is_replayed(world: World) -> None:
    assert world.answered.headers["idempotent-replayed"] == "true"


@step(r'an idempotency record should exist with key "(.*)"')
async def record_exists(world: World, key: str) -> None:
    assert [row.key for row in await world.desk.rows("SELECT key FROM idempotency_key")] == [key]


@step(r'the idempotency record status should be "complete"|the idempotency record response status should be 200')
async def record_is_complete(world: World) -> None:
    [row] = await world.desk.rows("SELECT answer FROM idempotency_key")
    assert bytes(row.answer) == world.answered.content


@step(r"(\d+) orders should exist in the database")
async def orders_exist(world: World, count: str) -> None:
    assert (await world.desk.rows("SELECT count(*) AS n FROM partner_order"))[0].n == int(count)


async def perform(world: World, words: str) -> None:
    for pattern, function in STEPS:
        match = pattern.fullmatch(words)
        if match:
            await function(world, *[group for group in match.groups() if group is not None])
            return
    pytest.fail(f"no step reads: {words}")


@pytest.mark.skipif(not FEATURE.exists(), reason="the shared data are not beside this checkout")
@pytest.mark.parametrize("scenario", list(scenarios()), ids=lambda scenario: scenario.name)
async def test_scenario(desk: Ingress, scenario: Scenario) -> None:
    if scenario.skip_reason:
        pytest.skip(scenario.skip_reason)
    world = World(desk)
    held = next((words for words in scenario.steps if "currently being processed" in words), None)
    if held is None:
        for words in scenario.steps:
            await perform(world, words)
        return
    async with desk.runtime.engine.begin() as elsewhere:
        insert = text(
            "INSERT INTO idempotency_key VALUES "
            "('acme', 'POST /v1/orders', :key, decode(repeat('00', 32), 'hex'), 'ord_x', 'x', '', now())"
        )
        await elsewhere.execute(insert, {"key": held.split('"')[1]})
        for words in scenario.steps:
            await perform(world, words)
        await elsewhere.rollback()


async def test_two_equal_orders_of_different_numbers_are_both_welcome(desk: Ingress) -> None:
    """Where we depart from the scenarios: equal orders on one day are legitimate, and the number tells them apart."""
    given = order()

    answers = await asyncio.gather(desk.post(given), desk.post({**given, "order_number": "PO-another"}))

    assert [answer.status_code for answer in answers] == [202, 202]

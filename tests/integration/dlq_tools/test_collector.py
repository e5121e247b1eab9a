"""The collector takes whatever lies in a dead queue, exactly once, and nothing in it can stop it."""

import json
from typing import Any

import aio_pika
import pytest
from dlq_tools.collector import Collector

from infra.broker.connection import BrokerUnreachable
from infra.broker.publisher import Outgoing
from infra.broker.topology import DELIVERY_LIMIT
from tests.integration.dlq_tools.system import System, limit_changed, reserve_credit, structured
from tests.support.waiting import wait_until

FAILURE = {
    "id": "dl_1",
    "identity": ["orchestrator.events", "/x", "1"],
    "queue": "orchestrator.events",
    "service": "orchestrator",
    "kind": "permanent",
    "error_class": "Permanent",
    "error": "it is wrong",
    "attempts": 1,
    "first_failed_at": "2026-11-21T10:00:00+00:00",
    "last_failed_at": "2026-11-21T10:00:00+00:00",
    "replay": 0,
    "type": "credit.credit-reserved.v1",
    "message_id": "1",
    "correlation_id": "saga-1",
    "operation_id": "saga-1:reserve",
    "revision": 0,
}


def dead(body: bytes, failure: Any = FAILURE, user: str = "orchestrator", **headers: Any) -> Outgoing:
    """A dead letter of the orchestrator, as its loop sends it."""
    if failure is not None:
        headers["x-failure"] = failure if isinstance(failure, str) else json.dumps(failure)
    message = structured(limit_changed("C-1"), user, "dead-letters", routing_key="orchestrator.events")
    return Outgoing(
        **{
            **{name: getattr(message, name) for name in Outgoing.__slots__},
            "body": body,
            "headers": headers,
            "user_id": "" if user == "admin" else user,
        }
    )


async def test_a_crash_between_commit_and_acknowledgement_records_nothing_twice(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge = Collector._acknowledge
    lost: list[int] = []

    async def lose_the_first(self: Collector, channel: Any, tag: int) -> None:
        if not lost:
            lost.append(tag)
            raise BrokerUnreachable("the process ended here")
        await acknowledge(self, channel, tag)

    monkeypatch.setattr(Collector, "_acknowledge", lose_the_first)
    async with system.running_desk():
        await system.publish("orchestrator", dead(b"bytes"))
        await wait_until(lambda: ready_in(system, "orchestrator.events.dead"), lambda ready: bool(lost) and not ready)

        [letter] = await system.letters()
        history = (await system.letter("dl_1"))["history"]

    assert letter["attempts"] == 1
    assert [entry["what"] for entry in history] == ["opened"]
    told = await system.rows("deadletters", "SELECT type FROM emission")
    assert told == [("deadletters.dead-letter-opened.v1",)]


async def test_a_message_that_the_broker_gave_up_is_collected_by_its_bytes(system: System) -> None:
    command = structured(reserve_credit("s1:reserve"), "orchestrator", "commands")
    await system.publish("orchestrator", command)
    connection = await aio_pika.connect(system.broker.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue("credit.commands", ensure=False)
        for _ in range(DELIVERY_LIMIT + 1):
            message = await wait_until(lambda: queue.get(fail=False), lambda message: message is not None)
            assert message is not None
            await message.nack(requeue=True)
    await wait_until(lambda: ready_in(system, "credit.commands.dead"), lambda ready: ready == 1)

    async with system.running_desk():
        [letter] = await wait_until(system.letters)
        shown = await system.letter(letter["id"])

    assert (letter["kind"], letter["queue"], letter["error_class"]) == ("broker", "credit.commands", "DeliveryLimit")
    assert shown["body"].encode() == command.body
    assert shown["failure"]["original"]["user_id"] == "orchestrator"
    assert shown["failure"]["original"]["routing_key"] == "credit.reserve-credit.v1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing but bytes", dead(b"\x00\xff\xfe", None, "admin")),
        ("a failure that is no JSON", dead(b"1", "{")),
        ("a failure that is a list", dead(b"2", "[]")),
        ("a failure nested deeply", dead(b"3", "[" * 50_000)),
        ("a failure of wrong types", dead(b"4", {**dict.fromkeys(FAILURE, 7), "kind": [], "attempts": "many"})),
        ("numbers too large", dead(b"5", {**FAILURE, "attempts": 10**30, "revision": 2**63})),
        ("nul and surrogates", dead(b"6", {**FAILURE, "error": "\x00\ud800", "type": "\x00"})),
        ("an original that is no JSON", dead(b"7", **{"x-original": "{"})),
        ("tables in tables", dead(b"8", None, deep={"a": {"b": [{"c": None}]}})),
        ("20 MiB", dead(b"x" * (20 * 1024 * 1024))),
        ("empty", dead(b"")),
    ],
)  # fmt: skip
async def test_nothing_stops_the_collector(system: System, name: str, message: Outgoing) -> None:
    sane = dead(b"sane", {**FAILURE, "id": "dl_sane"})
    async with system.running_desk():
        await system.publish("admin" if not message.user_id else message.user_id, message)
        await system.publish("orchestrator", sane)
        found = await wait_until(system.letters, lambda letters: len(letters) == 2)
        bodies = [await system.letter_body(letter["id"]) for letter in found]
        # Acknowledged after the commit that made them visible.
        await wait_until(lambda: ready_in(system, "orchestrator.events.dead"), lambda left: left == 0)

    assert sorted(bodies) == sorted([message.body, b"sane"]), name


async def test_a_failure_is_believed_only_from_the_service_that_owns_the_queue(system: System) -> None:
    forged = dead(b"forged", {**FAILURE, "id": "dl_forged"}, "admin")
    async with system.running_desk():
        await system.publish("admin", forged)
        [letter] = await wait_until(system.letters)

    assert letter["id"] != "dl_forged"
    assert (letter["kind"], letter["correlation_id"]) == ("broker", "")


async def test_the_process_is_told_of_its_dead_letter(system: System) -> None:
    async with system.running_desk():
        await system.publish("orchestrator", dead(b"bytes"))
        news = await system.take_raw("orchestrator.events")

    event = json.loads(news.body)
    assert event["type"] == "deadletters.dead-letter-opened.v1"
    assert event["correlationid"] == "saga-1"
    assert event["data"]["operation_id"] == "saga-1:reserve"
    assert event["data"]["dead_letter_id"] == "dl_1"


async def test_news_that_nobody_can_read_breed_no_news(system: System) -> None:
    unread = {**FAILURE, "type": "deadletters.dead-letter-opened.v1", "operation_id": None}
    async with system.running_desk():
        await system.publish("orchestrator", dead(b"news", unread))
        await wait_until(system.letters)

    assert await system.rows("deadletters", "SELECT * FROM emission") == []


async def test_collecting_goes_on_after_the_broker_has_closed_the_connection(system: System) -> None:
    async with system.running_desk() as desk:
        await wait_until(lambda: is_ready(desk))
        await system.broker.close_connections()
        await wait_until(lambda: publishes(system, dead(b"later")))
        await wait_until(system.letters)
        await wait_until(lambda: is_ready(desk))


async def publishes(system: System, message: Outgoing) -> bool:
    [receipt] = await (await system.publisher("orchestrator")).publish([message])
    return receipt.outcome.value == "confirmed"


async def is_ready(desk: Any) -> bool:
    return not (await desk.ready()).problems


async def ready_in(system: System, queue: str) -> int:
    """Messages in the queue, taken but not acknowledged ones included."""
    rows = await system.broker.evaluate(
        f'[rabbit_amqqueue:info(Q, [messages]) || Q <- rabbit_amqqueue:list(<<"{system.broker.vhost}">>), '
        f'element(4, amqqueue:get_name(Q)) =:= <<"{queue}">>]'
    )
    return int("".join(letter for letter in rows if letter.isdigit()) or 0)

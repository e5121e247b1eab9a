"""A replay is the same message again: one effect however often it is sent, and resolved only when its consumer says so."""

from dataclasses import replace
from typing import Any

from infra.chassis.runtime import Service
from tests.integration.dlq_tools.system import (
    System,
    limit_changed,
    reserve_credit,
    structured,
)
from tests.support.waiting import wait_until

HOLDS = "SELECT operation_id FROM credit_hold ORDER BY 1"


def without_reservations(service: Service) -> Service:
    """An older deployment, which does not know the command yet."""
    commands, events = service.consumers
    routes = tuple(route for route in commands.routes if route.wire_name != "credit.reserve-credit.v1")
    return replace(service, consumers=(replace(commands, routes=routes), events))


async def dead_reservation(system: System, operation: str = "s1:reserve") -> dict[str, Any]:
    """A command that came before the deployment that knows it; credit has been stopped again."""
    command = structured(reserve_credit(operation), "orchestrator", "commands")
    async with system.running_credit(without_reservations):
        await system.publish("erp", structured(limit_changed("C-1"), "erp"))
        await system.publish("orchestrator", command)
        [letter] = await wait_until(system.letters)
        await wait_until(lambda: system.rows("credit", "SELECT 1 FROM credit_line WHERE limit_minor > 0"))
    return letter


async def state_of(system: System, id: str) -> str:
    state: str = (await system.letter(id))["state"]
    return state


async def test_a_replayed_message_has_one_effect_however_often_it_is_sent(system: System) -> None:
    async with system.running_desk(replay_patience_seconds=0.001):
        letter = await dead_reservation(system)
        campaigns = [(await system.act("replay", {"ids": [letter["id"]]})).json() for _ in range(3)]
        assert [one["items"] for one in campaigns] == [1, 1, 1]
        assert await state_of(system, letter["id"]) == "replaying"

        async with system.running_credit():
            await wait_until(lambda: state_of(system, letter["id"]), lambda state: state == "resolved")
            finished = [await finished_campaign(system, one["campaign"]) for one in campaigns]

        assert await system.rows("credit", HOLDS) == [("s1:reserve",)]
        assert [one["resolved"] for one in finished] == [1, 1, 1]
        history = (await system.letter(letter["id"]))["history"]
        assert {entry["what"] for entry in history} >= {"opened", "replayed", "resolved"}


async def test_a_replay_keeps_the_bytes_and_the_identity_of_the_message(system: System) -> None:
    async with system.running_desk():
        letter = await dead_reservation(system)
        await system.act("replay", {"ids": [letter["id"]]})

        raw = await system.take_raw("credit.commands")

    original = await system.letter_body(letter["id"])
    assert raw.body == original
    assert raw.user_id == "deadletters"
    assert raw.type == "credit.reserve-credit.v1"
    assert raw.content_type == "application/cloudevents+json"
    assert raw.headers["x-replay"] == f"{letter['id']} 1"
    assert raw.headers["x-original-sender"] == "orchestrator"
    assert raw.headers["x-original-exchange"] == "commands"
    assert raw.headers["x-original-routing-key"] == "credit.reserve-credit.v1"
    assert raw.message_id != letter["message_id"]


async def test_a_message_in_binary_mode_is_replayed_with_its_attributes(system: System) -> None:
    envelope = limit_changed("C-9")
    headers = {"ce-id": envelope.id, "ce-source": "/erp", "ce-type": envelope.type, "ce-specversion": "1.0"}
    body = b'{"buyer_id": "C-9", "limit": {"amount_minor": 5, "currency": "EUR"}, "sequence": 1, "reason": "r"}'
    message = structured(envelope, "erp", body=body, content_type="application/json", headers=headers)
    async with system.running_desk():
        async with system.running_credit(without_limits):
            await system.publish("erp", message)
            [letter] = await wait_until(system.letters)
        async with system.running_credit():
            await system.act("replay", {"ids": [letter["id"]]})
            await wait_until(lambda: state_of(system, letter["id"]), lambda state: state == "resolved")

    assert await system.rows("credit", "SELECT limit_minor FROM credit_line WHERE buyer_id = 'C-9'") == [(5,)]


async def test_a_replay_that_fails_again_comes_back_to_the_same_dead_letter(system: System) -> None:
    broken = structured(limit_changed("C-1"), "erp", body=b"{not json")
    async with system.running_desk(), system.running_credit():
        await system.publish("erp", broken)
        [letter] = await wait_until(system.letters)

        code, made = await system.dlq_json("replay", letter["id"], "--reason", "perhaps it works now", "--yes", "--wait")
        [again] = await system.letters()
        shown, body = await system.letter(letter["id"]), await system.letter_body(letter["id"])

    assert code == 1
    assert (made["items"], made["resolved"], made["failed_again"], made["pending"]) == (1, 0, 1, 0)
    assert made["state"] == "finished"
    assert (again["id"], again["state"], again["attempts"]) == (letter["id"], "open", 2)
    assert [entry["what"] for entry in shown["history"]] == ["opened", "replayed", "replay-failed"]
    assert shown["history"][1]["reason"] == "perhaps it works now"
    # What is known of the first sending is not overwritten by the desk's own.
    assert shown["failure"]["original"]["user_id"] == "erp"
    assert shown["failure"]["original"]["exchange"] == "events"
    assert (shown["body"], shown["body_masked"]) == ("***", True)
    assert body == b"{not json"


async def test_a_resend_that_succeeds_resolves_the_dead_letter(system: System) -> None:
    broken = structured(replace(reserve_credit("s1:reserve"), data={}), "orchestrator", "commands")
    async with system.running_desk(), system.running_credit():
        await system.publish("erp", structured(limit_changed("C-1"), "erp"))
        await system.publish("orchestrator", broken)
        [letter] = await wait_until(system.letters)
        # A new message for the same operation, as the orchestrator's own retry sends it.
        await system.publish("orchestrator", structured(reserve_credit("s1:reserve"), "orchestrator", "commands"))
        await wait_until(lambda: state_of(system, letter["id"]), lambda state: state == "resolved")

    assert await system.rows("credit", HOLDS) == [("s1:reserve",)]


async def test_only_an_open_dead_letter_is_replayed_and_the_rest_is_refused_loudly(system: System) -> None:
    async with system.running_desk():
        letter = await dead_reservation(system)
        first = await system.act("replay", {"ids": [letter["id"]]})
        second = await system.act("replay", {"ids": [letter["id"]]})
        code, made = await system.dlq_json("replay", letter["id"], "--reason", "again", "--yes")

    assert first.json()["items"] == 1
    assert second.json()["items"] == 0
    assert "is being replayed" in second.json()["refused"][0]["reason"]
    assert code == 4
    assert made["campaign"] is None


async def test_a_dry_run_changes_nothing(system: System) -> None:
    async with system.running_desk():
        letter = await dead_reservation(system)
        answer = (await system.act("replay", {"all": True}, dry_run=True)).json()
        after = await system.letter(letter["id"])

    assert answer["ids"] == [letter["id"]]
    assert answer["state"] == "dry-run"
    assert after["state"] == "open"
    assert after["failure"]["replays"] == 0
    assert len(after["history"]) == 1


async def test_more_than_one_act_may_be_is_refused_and_names_the_way(system: System) -> None:
    async with system.running_desk(replay_items_max=2), system.running_credit():
        for number in range(3):
            await system.publish("erp", structured(limit_changed("C-1"), "erp", body=b"{%d" % number))
        await wait_until(system.letters, lambda found: len(found) == 3)

        refused = await system.act("replay", {"all": True})
        taken = await system.act("replay", {"all": True, "limit": 2})

    assert refused.status_code == 409
    assert "--limit 2" in refused.json()["detail"]
    assert taken.json()["items"] == 2


async def campaign(system: System, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await system.api("GET", f"campaigns/{id}")).json()
    return found


async def finished_campaign(system: System, id: str) -> dict[str, Any]:
    return await wait_until(lambda: campaign(system, id), lambda found: found["state"] == "finished")


def without_limits(service: Service) -> Service:
    """An older deployment, which does not listen to limits yet."""
    commands, events = service.consumers
    return replace(service, consumers=(commands, replace(events, routes=())))

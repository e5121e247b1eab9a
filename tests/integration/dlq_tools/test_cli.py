"""The `dlq` command: fields, exit codes, and one JSON document on stdout."""

import json
from typing import Any

from contracts.orders.v1 import OrderCompleted
from tests.integration.dlq_tools.system import System, limit_changed, structured
from tests.support.waiting import wait_until

FIELDS = {
    "id", "queue", "type", "message_id", "correlation_id", "subject", "kind", "error_class", "error", "attempts",
    "first_failed_at", "last_failed_at", "group", "revision", "state",
}  # fmt: skip


async def one_dead_letter(system: System, body: bytes = b"{bad") -> dict[str, Any]:
    known = {letter["id"] for letter in await system.letters()}
    await system.publish("erp", structured(limit_changed("C-1"), "erp", body=body))
    found = await wait_until(system.letters, lambda letters: len(letters) > len(known))
    return next(letter for letter in found if letter["id"] not in known)


async def test_lists_and_shows_what_failed(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system)

        code, listed = await system.dlq_json("list", "--queue", "credit.events", "--state", "open", "--since", "1h")
        other, nothing = await system.dlq_json("list", "--queue", "pricing.events")
        shown_code, shown = await system.dlq_json("show", letter["id"])
        _, on_terminal, _ = await system.dlq("show", letter["id"])

    assert code == 0
    assert [set(item) for item in listed] == [FIELDS]
    assert (other, nothing) == (3, [])
    assert shown_code == 0
    assert set(shown) >= FIELDS | {"headers", "body", "failure", "history"}
    assert {"trace", "step", "service_version"} <= set(shown["failure"])
    assert letter["id"] in on_terminal


async def test_personal_data_is_masked_until_somebody_says_why(system: System) -> None:
    assert "buyer_id" in OrderCompleted.model_fields
    body = b'{"data": {"buyer": {"id": "C-1", "name": "Erika Mustermann"}, "lines": [{"sku": "P-1"}]}}'
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system, body)
        _, masked = await system.dlq_json("show", letter["id"])
        unexplained, _, _ = await system.dlq("show", letter["id"], "--reveal")
        code, revealed = await system.dlq_json("show", letter["id"], "--reveal", "--reason", "the buyer calls")
        _, after = await system.dlq_json("show", letter["id"])

    assert json.loads(masked["body"])["data"]["buyer"] == {"id": "C-1", "name": "***"}
    assert unexplained == 2
    assert code == 0
    assert revealed["body"].encode() == body
    assert (after["history"][-1]["what"], after["history"][-1]["reason"]) == ("revealed", "the buyer calls")


async def test_discards_with_a_reason_and_refuses_to_replay_what_is_discarded(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system)

        code, made = await system.dlq_json("discard", letter["id"], "--reason", "a test order", "--yes")
        refused, _ = await system.dlq_json("replay", letter["id"], "--reason", "after all", "--yes")
        shown = await system.letter(letter["id"])

    assert (code, made["discarded"]) == (0, 1)
    assert refused == 4
    assert shown["state"] == "discarded"
    assert shown["history"][-1]["reason"] == "a test order"


async def test_a_discarded_dead_letter_opens_again_when_it_fails_again(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system)
        await system.dlq("discard", letter["id"], "--reason", "a test order", "--yes")
        await system.publish("erp", structured(limit_changed("C-1"), "erp", body=b"{bad"))
        [again] = await wait_until(system.letters, lambda found: found[0]["state"] == "open")

    assert (again["id"], again["attempts"]) == (letter["id"], 2)


async def test_some_items_fail_and_others_do_not(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system)
        code, made = await system.dlq_json("discard", letter["id"], "dl_unknown", "--reason", "tests", "--yes")

    assert code == 1
    assert (made["discarded"], made["unknown"]) == (1, ["dl_unknown"])


async def test_says_by_its_exit_code_what_went_wrong(system: System) -> None:
    async with system.running_desk():
        no_reason, out, _ = await system.dlq("replay", "--all", "--json")
        nobody_to_ask, _, words = await system.dlq("replay", "--all", "--reason", "why not")
        nothing_selected, _, _ = await system.dlq("replay", "--reason", "why not", "--yes")
        unknown, document = await system.dlq_json("replay", "dl_unknown", "--reason", "why not", "--yes")
        missing, _ = await system.dlq_json("show", "dl_unknown")
        wrong_token, _, _ = await system.dlq("list", TUTTI_OPERATOR_TOKEN="another")
    away, _, next_command = await system.dlq("list", "--json")

    assert (no_reason, out) == (2, "")
    assert nobody_to_ask in (2, 3)
    assert nothing_selected == 2
    assert (unknown, document["exit_code"]) == (3, 3)
    assert missing == 3
    assert wrong_token == 4
    assert away == 5
    assert "tutti" in next_command
    assert words


async def test_asks_nobody_where_nobody_can_answer(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        letter = await one_dead_letter(system)
        code, _, words = await system.dlq("discard", letter["id"], "--reason", "a test")
        after = await system.letter(letter["id"])

    assert code == 2
    assert "--yes" in words
    assert after["state"] == "open"

"""A replay is checked as the first sending was: the desk lends nobody its own trust."""

import json
from dataclasses import replace

import pytest

from infra.broker.publisher import Outgoing
from tests.integration.dlq_tools.system import System, limit_changed, structured
from tests.support.waiting import wait_until


def claims_another_type() -> Outgoing:
    """erp may send limits, not the end of orders; the body says otherwise."""
    document = json.loads(limit_changed("C-1").to_bytes())
    forged = {**document, "type": "credit.limit-changed.v1", "data": {**document["data"], "reason": None}}
    return structured(limit_changed("C-1"), "erp", body=json.dumps(forged).encode())


def says_a_key_twice() -> Outgoing:
    body = limit_changed("C-1").to_bytes().replace(b'"sequence":1', b'"sequence":1,"sequence":2')
    return structured(limit_changed("C-1"), "erp", body=body)


@pytest.mark.parametrize("message", [claims_another_type(), says_a_key_twice()], ids=["other type", "key twice"])
async def test_what_was_refused_for_its_sender_is_refused_again(system: System, message: Outgoing) -> None:
    async with system.running_desk(), system.running_credit():
        await system.publish("erp", message)
        [letter] = await wait_until(system.letters)

        await system.act("replay", {"ids": [letter["id"]]})
        again = await wait_until(lambda: system.letter(letter["id"]), lambda found: found["state"] in ("open", "resolved"))

    assert again["state"] == "open"
    assert again["error"] == letter["error"]
    assert await system.rows("credit", "SELECT * FROM credit_line") == []


async def test_a_sender_cannot_pretend_that_its_message_is_a_replay(system: System) -> None:
    headers = {"x-replay": "dl_pretended 1", "x-original-sender": "orchestrator"}
    message = replace(structured(limit_changed("C-1"), "erp"), body=b"{", headers=headers)
    async with system.running_desk(), system.running_credit():
        await system.publish("erp", message)
        [letter] = await wait_until(system.letters)
        shown = await system.letter(letter["id"])

    assert letter["id"] != "dl_pretended"
    assert shown["failure"]["original"]["user_id"] == "erp"

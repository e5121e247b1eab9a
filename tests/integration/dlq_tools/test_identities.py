"""What `tutti reconcile` asks the desk: which messages have a dead letter, all of them, and what still waits for the collector."""

from datetime import UTC, datetime, timedelta

from contracts.registry import queues
from tests.integration.dlq_tools.system import System, limit_changed, structured
from tests.support.waiting import wait_until

LETTERS, PAGE = 7, 3


async def pages(system: System, **parameters: str) -> list[list[dict[str, str]]]:
    """Page after page, as the desk cuts them."""
    found: list[list[dict[str, str]]] = []
    after: dict[str, str] = {}
    while True:
        answer = await system.api("GET", "dead-letter-identities", params={"limit": PAGE, **parameters, **after})
        document = answer.raise_for_status().json()
        found.append(document["letters"])
        if document["after"] is None:
            return found
        after = {"after": document["after"]}


async def test_every_dead_letter_is_on_exactly_one_page_whatever_became_of_it(system: System) -> None:
    messages = [structured(limit_changed(f"C-{number}"), "erp", body=b"{bad %d" % number) for number in range(LETTERS)]
    async with system.running_desk(), system.running_credit():
        await system.publish("erp", *messages)
        letters = await wait_until(system.letters, lambda found: len(found) == LETTERS)
        (await system.act("discard", {"ids": [letters[0]["id"]]})).raise_for_status()
        found = await pages(system)
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        none = await pages(system, since=later)

    assert [len(page) for page in found] == [3, 3, 1]
    together = [one for page in found for one in page]
    assert sorted(one["id"] for one in together) == sorted(one["id"] for one in letters)
    assert {(one["queue"], one["message_id"]) for one in together} == {(one["queue"], one["message_id"]) for one in letters}
    assert sorted(one["state"] for one in together) == ["discarded", *["open"] * (LETTERS - 1)]
    assert none == [[]]


async def test_tells_what_lies_in_the_dead_queues(system: System) -> None:
    async with system.running_desk():
        answer = await system.api("GET", "dead-queues")

    assert answer.json() == {f"{queue}.dead": 0 for queue in queues()}

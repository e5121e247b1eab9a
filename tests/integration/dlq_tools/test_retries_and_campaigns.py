"""`dlq retries` and `dlq campaign`: what waits for another try, and what became of replays; fields and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.chassis.runtime import Runtime
from tests.integration.dlq_tools.system import System, limit_changed, structured
from tests.integration.dlq_tools.test_cli import one_dead_letter
from tests.support.waiting import wait_until

LATER_SECONDS = 600.0
RETRY_FIELDS = {
    "process", "queue", "source", "message_id", "type", "operation_id", "correlation_id", "attempts", "error_class", "error",
    "first_failed_at", "last_failed_at", "due_at",
}  # fmt: skip
CAMPAIGN_FIELDS = {"campaign", "items", "resolved", "failed_again", "pending", "state", "reason", "actor", "created_at"}
PATIENT = {"retry_first_seconds": LATER_SECONDS, "retry_delay_seconds_max": LATER_SECONDS, "unknown_version_attempts_max": 9}


def home_of(directory: Path, **processes: Runtime) -> str:
    """A home that knows these processes, and a system outside that is nobody's to ask."""
    services = {name: f"http://127.0.0.1:{runtime.settings.http_port}" for name, runtime in processes.items()}
    document = {"services": services, "carrier": "http://127.0.0.1:9"}
    (directory / "addresses.json").write_text(json.dumps(document))
    return str(directory)


async def waiting(system: System, home: str) -> list[dict[str, Any]]:
    code, out, err = await system.dlq("retries", "list", "--json", TUTTI_HOME=home)
    assert code in (0, 3), err
    found: list[dict[str, Any]] = json.loads(out)
    return found


async def publish_too_new(system: System) -> str:
    """A version that nobody has learnt yet waits for its deployment. Returns its id."""
    envelope = limit_changed("C-1")
    body = envelope.to_bytes().replace(b"credit.limit-changed.v2", b"credit.limit-changed.v9")
    message = structured(envelope, "erp", body=body, routing_key="credit.limit-changed.v9", type="credit.limit-changed.v9")
    await system.publish("erp", message)
    return envelope.id


async def test_lists_what_backs_off_and_tries_it_again_at_once(system: System, tmp_path: Path) -> None:
    async with system.running_desk() as desk, system.running_credit(**PATIENT) as credit:
        home = home_of(tmp_path, deadletters=desk, credit=credit)
        none, out, _ = await system.dlq("retries", "list", "--json", TUTTI_HOME=home)
        message_id = await publish_too_new(system)
        [row] = await wait_until(lambda: waiting(system, home))
        tried, said, _ = await system.dlq(
            "retries", "now", message_id, "--reason", "deployed", "--yes", "--json", TUTTI_HOME=home
        )
        [again] = await wait_until(lambda: waiting(system, home), lambda rows: rows[0]["attempts"] > row["attempts"])
        _, on_terminal, _ = await system.dlq("retries", "list", TUTTI_HOME=home)

    assert (none, json.loads(out)) == (3, [])
    assert set(row) == RETRY_FIELDS
    assert (row["process"], row["queue"], row["type"]) == ("credit", "credit.events", "credit.limit-changed.v9")
    assert (row["message_id"], row["error_class"]) == (message_id, "UnknownVersion")
    assert row["due_at"] > row["last_failed_at"]
    assert (tried, json.loads(said)) == (0, {"moved": [message_id], "unknown": [], "dry_run": False})
    assert again["last_failed_at"] > row["last_failed_at"]
    assert message_id[:8] in on_terminal


async def test_trying_again_says_by_its_exit_code_what_it_found(system: System, tmp_path: Path) -> None:
    async with system.running_desk() as desk, system.running_credit(**PATIENT) as credit:
        home = home_of(tmp_path, deadletters=desk, credit=credit)
        message_id = await publish_too_new(system)
        await wait_until(lambda: waiting(system, home))

        async def now(*arguments: str, **environment: str) -> tuple[int, str]:
            code, out, _ = await system.dlq("retries", "now", *arguments, **{"TUTTI_HOME": home, **environment})
            return code, out

        asked = ("--reason", "deployed", "--json")
        dry, would = await now(message_id, *asked, "--dry-run")
        [before] = await waiting(system, home)
        some, moved = await now(message_id, "nobody", *asked, "--yes")
        nothing, _ = await now("nobody", *asked, "--yes")
        no_reason, _ = await now(message_id, "--yes")
        nobody_to_ask, _ = await now(message_id, *asked)
        wrong_token, _ = await now(message_id, *asked, "--yes", TUTTI_OPERATOR_TOKEN="another")
        unknown_home, _ = await now(message_id, *asked, "--yes", TUTTI_HOME=str(tmp_path / "nowhere"))

    assert (dry, json.loads(would)) == (0, {"moved": [], "unknown": [], "dry_run": True})
    assert before["attempts"] == 1
    assert (some, json.loads(moved)["unknown"]) == (1, ["nobody"])
    assert (nothing, no_reason, nobody_to_ask, wrong_token, unknown_home) == (3, 2, 2, 4, 5)


@pytest.mark.parametrize("command", ["list", "now"])
async def test_a_process_that_gives_no_answer_is_said_to_be_unreachable(system: System, tmp_path: Path, command: str) -> None:
    async with system.running_credit() as credit:
        home = home_of(tmp_path, credit=credit)
    arguments = ("now", "m-1", "--reason", "deployed", "--yes") if command == "now" else ("list",)

    code, out, err = await system.dlq("retries", *arguments, "--json", TUTTI_HOME=home)

    assert (code, json.loads(out)["exit_code"]) == (5, 5)
    assert "tutti" in err


async def test_shows_replays_and_what_became_of_each_item(system: System) -> None:
    async with system.running_desk(), system.running_credit():
        none, nothing = await system.dlq_json("campaign", "list")
        letter = await one_dead_letter(system)
        _, made = await system.dlq_json("replay", letter["id"], "--reason", "perhaps now", "--yes", "--wait")
        listed_code, listed = await system.dlq_json("campaign", "list")
        shown_code, shown = await system.dlq_json("campaign", "show", made["campaign"])
        _, on_terminal, _ = await system.dlq("campaign", "show", made["campaign"])
        unknown, _ = await system.dlq_json("campaign", "show", "c_unknown")
        wrong_token, _, _ = await system.dlq("campaign", "list", TUTTI_OPERATOR_TOKEN="another")
    away, _, _ = await system.dlq("campaign", "list", "--json")

    assert (none, nothing) == (3, [])
    assert (listed_code, shown_code) == (0, 0)
    assert [set(one) for one in listed] == [CAMPAIGN_FIELDS]
    assert shown == {**listed[0], "results": [{"id": letter["id"], "replay": 1, "outcome": "failed-again"}]}
    assert (shown["campaign"], shown["state"], shown["reason"]) == (made["campaign"], "finished", "perhaps now")
    assert (shown["items"], shown["resolved"], shown["failed_again"], shown["pending"]) == (1, 0, 1, 0)
    assert letter["id"] in on_terminal
    assert (unknown, wrong_token, away) == (3, 4, 5)

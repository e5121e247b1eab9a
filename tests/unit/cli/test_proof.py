"""The reconciliation proof finds exactly what was planted."""

from collections.abc import Mapping
from typing import Any

import pytest

from infra.stack.cli.proof import Evidence, doubts, summary

SAGA = "saga-1"


def service(**rows: Any) -> dict[str, Any]:
    return {"emitted": [], "inbox": [], "outbox": [], "retries": [], "operations": [], "findings": [], **rows}


def facts() -> dict[str, dict[str, Any]]:
    """One order: accepted, its credit held, everything received."""
    return {
        "ingress": service(emitted=[["m1", "orders.order-accepted.v1", None, SAGA]]),
        "orchestrator": service(
            inbox=[["orchestrator.events", "m1", "handled"], ["orchestrator.events", "m3", "handled"]],
            emitted=[["m2", "credit.reserve-credit.v1", f"{SAGA}:reserve-credit", SAGA]],
        ),
        "credit": service(
            inbox=[["credit.commands", "m2", "handled"]],
            emitted=[["m3", "credit.credit-reserved.v1", f"{SAGA}:reserve-credit", SAGA]],
            operations=[[f"{SAGA}:reserve-credit", SAGA, "done", "credit.reserve-credit", True, False, False, False, False]],
        ),
    }


def evidence(found: Mapping[str, Mapping[str, Any]], **others: Any) -> Evidence:
    return Evidence(facts=found, sagas=others.pop("sagas", [{"id": SAGA, "state": "completed"}]), **others)


def kinds(found: Evidence) -> list[tuple[str, str]]:
    return [(doubt.kind, doubt.id) for doubt in doubts(found)]


def test_a_whole_order_leaves_no_doubt() -> None:
    found = evidence(facts())

    assert doubts(found) == []
    assert summary(found, [])["ok"] is True
    assert summary(found, [])["in"] == {"completed": 1}


def test_a_deleted_outbox_row_is_an_undelivered_message() -> None:
    planted = facts()
    planted["orchestrator"]["inbox"].remove(["orchestrator.events", "m3", "handled"])

    assert kinds(evidence(planted)) == [("undelivered", "m3")]


def test_a_message_that_waits_in_the_outbox_or_the_queue_or_the_dead_letters_is_explained() -> None:
    planted = facts()
    planted["orchestrator"]["inbox"].remove(["orchestrator.events", "m3", "handled"])
    waiting = facts()
    waiting["orchestrator"]["inbox"].remove(["orchestrator.events", "m3", "handled"])
    waiting["credit"]["outbox"].append(["m3", "credit.credit-reserved.v1", False, 1])

    assert kinds(evidence(waiting)) == []
    assert kinds(evidence(planted, depths={"orchestrator.events": 1})) == []
    assert kinds(evidence(planted, dead=frozenset({("orchestrator.events", "m3")}))) == []


@pytest.mark.parametrize("wire_name", ["credit.credit-reserved.v1", "dead-letter"])
def test_a_parked_message_is_undelivered(wire_name: str) -> None:
    planted = facts()
    planted["credit"]["emitted"].append(["m4", wire_name, None, SAGA])
    planted["credit"]["outbox"].append(["m4", wire_name, True, 900])

    assert kinds(evidence(planted)) == [("undelivered", "m4")]


def test_an_accepted_order_without_a_process_is_lost_and_its_effects_are_unexplained() -> None:
    found = kinds(evidence(facts(), sagas=[]))

    assert ("lost", SAGA) in found
    assert ("unexplained", f"{SAGA}:reserve-credit") in found


def test_a_command_without_outcome_and_without_reason_is_unanswered() -> None:
    planted = facts()
    planted["credit"]["operations"] = [[f"{SAGA}:reserve-credit", SAGA, "claimed", None, False, False, False, False, False]]

    assert kinds(evidence(planted)) == [("unanswered", f"{SAGA}:reserve-credit")]
    planted["credit"]["operations"][0][7] = True
    assert kinds(evidence(planted)) == []


def test_what_a_service_finds_in_its_own_sums_is_shown() -> None:
    planted = facts()
    finding = {"kind": "doubled", "id": "C-1", "detail": "two holds", "command": "tutti saga show saga-1"}
    planted["credit"]["findings"].append(finding)

    assert kinds(evidence(planted)) == [("doubled", "C-1")]


def test_a_retry_explains_its_own_operation_and_no_other() -> None:
    planted = facts()
    other = [f"{SAGA}:other", SAGA, "claimed", None, False, False, False, False, False]
    planted["credit"]["operations"] = [[f"{SAGA}:reserve-credit", *other[1:]], other]
    planted["credit"]["retries"] = [["credit.commands", "m2", "credit.reserve-credit.v1", "soon", f"{SAGA}:reserve-credit"]]

    assert kinds(evidence(planted)) == [("unanswered", f"{SAGA}:other")]


def test_a_message_marked_as_retrying_without_its_row_is_undelivered() -> None:
    planted = facts()
    planted["credit"]["inbox"] = [["credit.commands", "m2", "retrying"]]

    assert kinds(evidence(planted)) == [("undelivered", "m2")]


def given_up() -> dict[str, dict[str, Any]]:
    """The credit command could not be handled, and its receiver says that it is dead."""
    planted = facts()
    planted["credit"]["inbox"] = [["credit.commands", "m2", "dead"]]
    return planted


def test_a_message_given_up_without_a_dead_letter_is_lost() -> None:
    (doubt,) = doubts(evidence(given_up()))

    assert (doubt.kind, doubt.id, doubt.command) == ("lost", "m2", "tutti logs credit")
    assert "credit.commands" in doubt.detail


def test_a_dead_letter_explains_a_message_given_up_whatever_became_of_it() -> None:
    known = frozenset({("credit.commands", "m2")})

    assert kinds(evidence(given_up(), letters=known)) == []
    assert kinds(evidence(given_up(), letters=known, dead=known)) == []


def test_a_dead_letter_of_another_queue_or_message_explains_nothing() -> None:
    others = frozenset({("credit.events", "m2"), ("credit.commands", "m9")})

    assert kinds(evidence(given_up(), letters=others, dead=others)) == [("lost", "m2")]


def test_a_dead_letter_on_its_way_to_the_desk_explains_a_message_given_up() -> None:
    leaving = given_up()
    leaving["credit"]["outbox"].append(["m7", "dead-letter", False, 1])
    stopped = given_up()
    stopped["credit"]["outbox"].append(["m7", "dead-letter", True, 900])

    assert kinds(evidence(leaving)) == []
    assert kinds(evidence(stopped)) == [("lost", "m2")]
    assert kinds(evidence(given_up(), depths={"credit.commands.dead": 1})) == []
    assert kinds(evidence(given_up(), depths={"credit.events.dead": 1})) == [("lost", "m2")]

"""Exit codes of `tutti order` and `tutti saga`: a script must be able to tell what was refused from what is not there."""

import json
from pathlib import Path

import httpx2
import pytest

from tests.scenarios.conftest import CarrierDesk
from tests.scenarios.desk import dead_letter, replay
from tests.support.partner import WAIT_SECONDS, finished, post
from tests.support.platform import Platform
from tests.support.workload import OVER_HTTP, order

NOWHERE = "ord_" + "0" * 32
SOME_FAILED, NOTHING_MATCHED, REFUSED, USAGE = 1, 3, 4, 2


@pytest.mark.parametrize(
    "command",
    [
        ("saga", "show", NOWHERE),
        ("saga", "cancel", NOWHERE, "--reason", "a test", "--dry-run"),
        ("saga", "cancel", NOWHERE, "--reason", "a test", "--yes"),
        ("order", "show", NOWHERE),
        ("order", "cancel", NOWHERE, "--reason", "a test", "--dry-run"),
        ("order", "cancel", NOWHERE, "--reason", "a test", "--yes"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
async def test_what_is_not_there_is_said_with_the_next_command(platform: Platform, command: tuple[str, ...]) -> None:
    code, out, err = await platform.run("tutti", *command, "--json")

    assert code == NOTHING_MATCHED, err
    assert json.loads(out)["exit_code"] == NOTHING_MATCHED
    assert "tutti saga list" in err


async def test_a_finished_order_is_not_cancelled(platform: Platform, acme: httpx2.AsyncClient) -> None:
    placed = (await post(acme, order(), wait=WAIT_SECONDS)).json()

    asked = (placed["order_id"], "--reason", "a test", "--yes", "--json")
    by_partner, out, said = await platform.run("tutti", "order", "cancel", *asked)
    by_operator, document, told = await platform.run("tutti", "saga", "cancel", *asked)

    assert (by_partner, by_operator) == (REFUSED, REFUSED), said + told
    assert [json.loads(one)["exit_code"] for one in (out, document)] == [REFUSED, REFUSED]


async def test_a_running_order_is_cancelled_for_the_reason_that_is_given(
    platform: Platform, acme: httpx2.AsyncClient, carrier: CarrierDesk
) -> None:
    await carrier.misbehave("unavailable")
    placed = await post(acme, order(country=OVER_HTTP))
    order_id = placed.json()["order_id"]
    letter = await dead_letter(platform, "--correlation-id", placed.headers["x-correlation-id"])

    tried, would, _ = await platform.run("tutti", "order", "cancel", order_id, "--reason", "ordered twice", "--dry-run", "--json")
    _, before, _ = await platform.run("tutti", "saga", "show", order_id, "--json")
    code, out, err = await platform.run("tutti", "order", "cancel", order_id, "--reason", "ordered twice", "--yes", "--json")
    _, saga, _ = await platform.run("tutti", "saga", "show", order_id, "--json")
    await carrier.behave()
    await carrier.misbehave("refuse", action="book", count=1)
    await replay(platform, letter["id"])
    ended = await finished(acme, order_id)

    assert (tried, json.loads(would)["status"], json.loads(before)["state"]) == (0, "running", "running")
    assert "ordered twice" not in before
    assert (code, json.loads(out)["http_status"]) == (0, 202), err
    assert "ordered twice" in saga
    assert ended["status"] == "cancelled"


async def test_a_filter_that_is_none_is_wrong_usage(platform: Platform) -> None:
    code, out, err = await platform.run("tutti", "saga", "list", "--state", "nonsense", "--json")

    assert (code, json.loads(out)["exit_code"]) == (USAGE, USAGE), err


async def test_an_order_that_is_wrong_is_answered_with_each_place(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.json").write_text('{"order_number": 1}')
    monkeypatch.chdir(tmp_path)

    code, out, _ = await platform.run("tutti", "order", "submit", "wrong.json")

    assert code == SOME_FAILED
    assert "/order_number: " in out
    assert "/lines: " in out

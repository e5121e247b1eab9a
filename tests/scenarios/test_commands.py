"""Exit codes of `tutti order` and `tutti saga`: a script must be able to tell what was refused from what is not there."""

from pathlib import Path

import httpx2
import pytest

from tests.support.partner import WAIT_SECONDS, post
from tests.support.platform import Platform
from tests.support.workload import order

NOWHERE = "ord_" + "0" * 32
SOME_FAILED, NOTHING_MATCHED, REFUSED, USAGE = 1, 3, 4, 2


@pytest.mark.parametrize(
    "command",
    [
        ("saga", "show", NOWHERE),
        ("saga", "cancel", NOWHERE, "--reason", "a test", "--dry-run"),
        ("saga", "cancel", NOWHERE, "--reason", "a test", "--yes"),
        ("order", "show", NOWHERE),
        ("order", "cancel", NOWHERE),
    ],
    ids=lambda command: " ".join(command[:2]),
)
async def test_what_is_not_there_is_said_with_the_next_command(platform: Platform, command: tuple[str, ...]) -> None:
    code, _, err = await platform.run("tutti", *command, "--json")

    assert code == NOTHING_MATCHED, err
    assert "tutti saga list" in err


async def test_a_finished_order_is_not_cancelled(platform: Platform, acme: httpx2.AsyncClient) -> None:
    placed = (await post(acme, order(), wait=WAIT_SECONDS)).json()

    by_partner, _, said = await platform.run("tutti", "order", "cancel", placed["order_id"], "--json")
    by_operator, _, told = await platform.run(
        "tutti", "saga", "cancel", placed["order_id"], "--reason", "a test", "--yes", "--json"
    )

    assert (by_partner, by_operator) == (REFUSED, REFUSED), said + told


async def test_a_filter_that_is_none_is_wrong_usage(platform: Platform) -> None:
    code, out, err = await platform.run("tutti", "saga", "list", "--state", "nonsense", "--json")

    assert (code, out) == (USAGE, ""), err


async def test_an_order_that_is_wrong_is_answered_with_each_place(platform: Platform, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"order_number": 1}')

    code, out, _ = await platform.run("tutti", "order", "submit", str(wrong))

    assert code == SOME_FAILED
    assert "/order_number: " in out
    assert "/lines: " in out

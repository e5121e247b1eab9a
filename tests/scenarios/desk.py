"""The failure desk as an operator has it: the `dlq` command with --json."""

import json
from typing import Any

from tests.support.platform import Platform
from tests.support.waiting import wait_until

NOTHING_MATCHED = 3


async def dead_letters(platform: Platform, *selection: str) -> list[dict[str, Any]]:
    """What `dlq list` shows of the selection."""
    code, out, err = await platform.run("dlq", "list", "--json", *selection)
    assert code in (0, NOTHING_MATCHED), err
    found: list[dict[str, Any]] = json.loads(out or "[]")
    return found


async def dead_letter(platform: Platform, *selection: str, within: float = 30.0) -> dict[str, Any]:
    """The one dead letter of the selection, once it is there."""

    async def look() -> list[dict[str, Any]]:
        return await dead_letters(platform, *selection)

    (found,) = await wait_until(look, within=within, what=f"a dead letter of {selection}", every=0.2)
    return found


async def replay(platform: Platform, *selection: str) -> dict[str, Any]:
    """Replays, waits for what becomes of it, and returns the campaign."""
    code, out, err = await platform.run("dlq", "replay", *selection, "--reason", "repaired", "--wait", "--yes", "--json")
    assert code == 0, f"{err}{out}"
    campaign: dict[str, Any] = json.loads(out)
    return campaign


async def discard(platform: Platform, *selection: str) -> None:
    """Gives the dead letter up, so that the next test finds an empty desk."""
    code, out, err = await platform.run("dlq", "discard", *selection, "--reason", "a test's own", "--yes", "--json")
    assert code == 0, f"{err}{out}"

"""Waiting for a state, with a deadline and a message that says what was still missing."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

POLL_SECONDS = 0.02
WAIT_SECONDS = 60.0
SHOWN_CHARACTERS_MAX = 3000

T = TypeVar("T")


async def wait_until(
    look: Callable[[], Awaitable[T] | T],
    holds: Callable[[T], object] = bool,
    *,
    within: float = WAIT_SECONDS,
    what: str = "it holds",
    every: float = POLL_SECONDS,
) -> T:
    """Looks until `holds` is true of what it finds, and returns that. `look` may be a coroutine function.

    Raises AssertionError with the last finding after `within` seconds; `what` says what was expected where the call itself does not.
    """
    found: list[T] = []
    try:
        async with asyncio.timeout(within):
            while True:
                seen = look()
                found[:] = [cast("T", await seen if inspect.isawaitable(seen) else seen)]
                if holds(found[0]):
                    return found[0]
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}; last seen: {str(found)[:SHOWN_CHARACTERS_MAX]}") from None

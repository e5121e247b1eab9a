"""Waiting for a state, with a deadline and a message that says what was still missing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_SECONDS = 0.05

T = TypeVar("T")


async def wait_until(look: Callable[[], Awaitable[T | None]], *, within: float, what: str, every: float = POLL_SECONDS) -> T:
    """Looks until what it finds is true, and returns that. Raises AssertionError with the last finding after `within` seconds."""
    found: T | None = None
    try:
        async with asyncio.timeout(within):
            while True:
                if found := await look():
                    return found
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}; last seen: {found!r}") from None

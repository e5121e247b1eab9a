"""How anything here waits that has to end at once when it is asked to. Without a library: the local supervisor waits so, too."""

import asyncio


async def rest(until: asyncio.Event, seconds: float) -> bool:
    """Waits that long, or until the event is set. Returns whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return False
    return True

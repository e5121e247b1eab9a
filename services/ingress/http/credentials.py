"""Who asks: API keys, looked up once every few seconds and compared in constant time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from services.ingress.http.problems import Problem
from services.ingress.keys import Account, ApiKey, parse_key

Find = Callable[[str], Awaitable[Account | None]]
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="orders"'}
_INVALID: Final = {"WWW-Authenticate": 'Bearer realm="orders", error="invalid_token"'}
# Strangers with made-up keys cost a look-up each; they may keep this many of the pool's connections busy.
_LOOKUPS_MAX: Final = 2
# Compared with when the key id is unknown, so that an unknown id takes as long as a wrong secret.
_NOBODY: Final = Account("", "", bytes(32), frozenset(), 1)


def bearer(authorization: str | None) -> ApiKey:
    """The key in the header. Raises Problem when no key of our form is there."""
    scheme, _, credential = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Problem("unauthorized", "Send an API key as bearer token.", headers=_CHALLENGE)
    key = parse_key(credential.strip())
    if key is None:
        raise refusal()
    return key


def refusal() -> Problem:
    """One answer for every key that opens nothing. It does not tell why."""
    return Problem("unauthorized", "The API key is not valid.", headers=_INVALID)


def require_scope(account: Account, scope: str) -> None:
    if scope not in account.scopes:
        raise Problem("forbidden", f"The API key lacks the scope {scope}.")


class Credentials:
    """Accounts by key id, remembered for a few seconds: that long a revoked key may still work."""

    def __init__(
        self, find: Find, pepper: bytes, *, cache_seconds: float, cache_size_max: int, now: Callable[[], datetime]
    ) -> None:
        self._find = find
        self._turns = asyncio.Semaphore(_LOOKUPS_MAX)
        self._pepper = pepper
        self._cache_seconds = cache_seconds
        self._cache_size_max = cache_size_max
        self._now = now
        self._known: OrderedDict[str, tuple[float, asyncio.Future[Account | None]]] = OrderedDict()
        self._used: set[str] = set()

    async def account(self, key: ApiKey) -> Account | None:
        """The key's account; None when the key opens nothing. Raises what `find` raises."""
        found = await self._lookup(key.key_id)
        # Computed in every case, also for an unknown key: the time that it takes must not tell the two apart.
        opens = (found or _NOBODY).opens_with(key, self._pepper, self._now())
        if found is None or not opens:
            return None
        if len(self._used) < self._cache_size_max:
            self._used.add(found.key_id)
        return found

    def take_used(self) -> set[str]:
        """The ids of keys used since this was last asked."""
        used, self._used = self._used, set()
        return used

    async def _lookup(self, key_id: str) -> Account | None:
        kept = self._known.get(key_id)
        if kept is not None and time.monotonic() < kept[0]:
            return await asyncio.shield(kept[1])
        # The future is kept, not its result: when an entry expires under load, one request asks and the others wait
        # for it.
        future = asyncio.ensure_future(self._ask(key_id))
        self._known[key_id] = (time.monotonic() + self._cache_seconds, future)
        self._known.move_to_end(key_id)
        while len(self._known) > self._cache_size_max:
            self._known.popitem(last=False)
        try:
            return await asyncio.shield(future)
        finally:
            if future.done() and (future.cancelled() or future.exception() is not None):
                self._known.pop(key_id, None)

    async def _ask(self, key_id: str) -> Account | None:
        async with self._turns:
            return await self._find(key_id)

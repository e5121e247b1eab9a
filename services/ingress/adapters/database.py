"""When PostgreSQL cannot be asked: the driver's many ways of saying so, as one exception."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from infra.chassis.database import Trouble, classify

_LOCK_NOT_AVAILABLE: Final = "55P03"


class Unavailable(Exception):
    """The database is away, too busy, or has no connection left. What was asked may or may not have happened."""


class Locked(Unavailable):
    """Somebody else held a lock for longer than we wait. Nothing has happened."""


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Raises Unavailable in place of every exception that says that the database cannot serve us now."""
    try:
        yield
    except (DBAPIError, PoolTimeout, OSError) as error:
        if classify(error) is Trouble.DATA:
            raise
        state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
        kind = Locked if state == _LOCK_NOT_AVAILABLE else Unavailable
        raise kind(f"the database cannot be asked ({type(error).__name__}, {state})") from error

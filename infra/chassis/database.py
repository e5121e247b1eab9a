"""The connection pool of a service, and what a database error means for the batch that met it."""

from enum import Enum

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from infra.chassis.settings import ServiceSettings


class Trouble(Enum):
    """MOMENTARY: the same transaction again, after less than a second. OUTAGE: wait, spend no attempts. DATA: some message's data are at fault."""

    MOMENTARY = "momentary"
    OUTAGE = "outage"
    DATA = "data"


# What the driver raises, by itself or through SQLAlchemy, and the system below it.
DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# PostgreSQL's SQLSTATE codes (Appendix A): serialization failure, deadlock, lock not available. A stale plan has none of its own.
_MOMENTARY = frozenset({"40001", "40P01", "55P03"})
# 21 cardinality violation (one key twice in a statement), 22 data exception, 23 integrity constraint violation.
# Anything else (a missing table, a full disk) is no message's fault.
_DATA_CLASSES = frozenset({"21", "22", "23"})


def async_url(url: str) -> str:
    """The same database through asyncpg, whichever driver the URL names (`postgresql://` is what people write)."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def create_engine(settings: ServiceSettings, name: str) -> AsyncEngine:
    """A bounded pool. No connection is tested before its transaction: a lost one shows at the first statement, and the loop tries again.

    Statements get their generic plan from the start. They take arrays, and the planner would otherwise plan each length anew (0.5 ms of
    an order's 9 in the database), only to use the same index for one key and for a hundred.
    """
    return create_async_engine(
        async_url(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout_seconds,
        pool_recycle=1800,
        isolation_level="READ COMMITTED",
        connect_args={
            "timeout": 5,
            "server_settings": {"application_name": name, "jit": "off", "plan_cache_mode": "force_generic_plan"},
        },
    )


def classify(error: BaseException) -> Trouble | None:
    """What kind of trouble an exception of load, save or the driver is; None when it is not the database's at all."""
    # InternalClientError: the driver and the server no longer agree on where they are; only another connection helps.
    if isinstance(error, PoolTimeout | OSError | TimeoutError | asyncpg.InternalClientError):
        return Trouble.OUTAGE
    # Within the loop's transaction the driver's errors come as they are, elsewhere wrapped.
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(error, DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    state = getattr(cause, "sqlstate", None) or ""
    if state in _MOMENTARY or "cached statement plan" in str(cause):
        return Trouble.MOMENTARY
    if state[:2] in _DATA_CLASSES:
        return Trouble.DATA
    # The driver checks argument types before anything is sent; its DataError has no SQLSTATE.
    if not state and type(cause).__name__ == "DataError":
        return Trouble.DATA
    return Trouble.OUTAGE

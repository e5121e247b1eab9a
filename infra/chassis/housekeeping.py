"""Deletes what has outlived its retention, in small transactions that two processes may run at the same time.

Operations and their calls are never purged. They have to be kept until 30 days after the end of their saga, and only the orchestrator
knows that end; purged by their age alone, they would leave an undo on day 45 with nothing to take back.
"""

from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.settings import ServiceSettings

ROWS_MAX: Final = 5000
PURGES: Final = tuple(
    text(
        f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} "  # noqa: S608 - names from the tuple below
        f"WHERE {moment} < now() - make_interval(days => :days) {condition} LIMIT :rows FOR UPDATE SKIP LOCKED))"
    )
    for table, moment, condition in (
        # A retrying row's message is still to be handled, and a dead one may still be replayed.
        ("inbox", "received_at", "AND state = 'handled'"),
        ("emission", "emitted_at", ""),
        ("suspect", "last_at", ""),
    )
)

log = structlog.get_logger()


async def purge(engine: AsyncEngine, settings: ServiceSettings) -> None:
    """One round over all tables. A failing round is left to the next."""
    try:
        for statement in PURGES:
            async with engine.begin() as connection:
                await connection.execute(statement, {"days": settings.inbox_retention_days, "rows": ROWS_MAX})
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        log.warning("purge_failed", error=str(error)[:300])

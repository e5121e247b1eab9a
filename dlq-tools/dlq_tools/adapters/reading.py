"""What operators, the figures and the reconciliation read of dead letters. Nothing here locks or changes a row."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.deadletters.record import read_original
from dlq_tools.adapters.filters import Filters
from dlq_tools.replaying import Replayable
from infra.chassis.service import Finding

ITEM_COLUMNS: Final = """id, queue, type, message_id, correlation_id, subject, kind, error_class, error, attempts,
    first_failed_at, last_failed_at, group_id AS "group", revision, state"""
DETAIL_COLUMNS: Final = """source, operation_id, partner_id, trace, step, replays, service, service_version, identity, signature,
    original, body"""

_HISTORY = text("""
    SELECT at, what, actor, reason, detail FROM dead_letter_history WHERE dead_letter_id = :id ORDER BY position
""")
_REPLAYABLES = text("""
    SELECT id, queue, correlation_id, operation_id, original, body, replays FROM dead_letter
    WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id
""")
_IDENTITIES = text("""
    SELECT id, queue, message_id, operation_id, state FROM dead_letter
    WHERE id > :after AND state <> 'announced' AND (CAST(:since AS timestamptz) IS NULL OR last_failed_at >= CAST(:since AS timestamptz))
    ORDER BY id LIMIT :limit
""")
_SIZE = text("SELECT coalesce(sum(octet_length(body)), 0) FROM dead_letter WHERE id = ANY(CAST(:ids AS text[]))")
_COUNTS = text("SELECT state, count(*) FROM dead_letter WHERE state IN ('open', 'replaying', 'parked') GROUP BY state")
_FORGOTTEN = text("""
    SELECT id FROM dead_letter WHERE state = 'replaying' AND replayed_at < now() - interval '1 hour' ORDER BY id LIMIT 1000
""")


async def items(connection: AsyncConnection, filters: Filters, limit: int) -> list[dict[str, Any]]:
    """Newest failures first, in the shape of `dlq list`."""
    where, values = filters.where()
    statement = f"SELECT {ITEM_COLUMNS} FROM dead_letter WHERE {where} ORDER BY last_failed_at DESC, id LIMIT :limit"  # noqa: S608 - fixed parts
    rows = await connection.execute(text(statement), {**values, "limit": limit})
    return [dict(row._mapping) for row in rows]


async def identities(connection: AsyncConnection, since: datetime | None, after: str, limit: int) -> list[dict[str, Any]]:
    """Which messages have a dead letter, in whatever state, by id: those after `after`."""
    rows = await connection.execute(_IDENTITIES, {"since": since, "after": after, "limit": limit})
    return [dict(row._mapping) for row in rows]


async def item(connection: AsyncConnection, letter: str) -> dict[str, Any] | None:
    """One dead letter with everything that is known of it, `history` included; None when there is none."""
    statement = f"SELECT {ITEM_COLUMNS}, {DETAIL_COLUMNS} FROM dead_letter WHERE id = :id AND state <> 'announced'"  # noqa: S608 - constants
    row = (await connection.execute(text(statement), {"id": letter})).first()
    if row is None:
        return None
    history = await connection.execute(_HISTORY, {"id": letter})
    return {
        **row._mapping,
        "original": json.loads(row.original),
        "history": [{**entry._mapping, "detail": json.loads(entry.detail)} for entry in history],
    }


async def replayables(connection: AsyncConnection, ids: Sequence[str]) -> list[Replayable]:
    """What is sent again, by id."""
    rows = await connection.execute(_REPLAYABLES, {"ids": list(ids)})
    return [
        Replayable(row.id, row.queue, row.correlation_id, row.operation_id, read_original(row.original), row.body, row.replays)
        for row in rows
    ]


async def bytes_of(connection: AsyncConnection, ids: Sequence[str]) -> int:
    """The size of all their bodies together."""
    return int((await connection.execute(_SIZE, {"ids": list(ids)})).scalar_one())


async def counts(connection: AsyncConnection) -> Mapping[str, int]:
    """How many wait for somebody, by state."""
    return {row[0]: row[1] for row in await connection.execute(_COUNTS)}


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """Replays of which nobody has heard again."""
    rows = await connection.execute(_FORGOTTEN)
    return [Finding("unanswered", row.id, "its replay has had no result for an hour", f"dlq show {row.id}") for row in rows]

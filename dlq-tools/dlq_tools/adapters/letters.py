"""Lives of dead letters, and their history.

Whoever changes a dead letter locks its row first: the consumer of proofs, the collector, an operator's act. Rows are inserted where
they are missing and then locked in a second statement, sorted by id, so that the three cannot deadlock and each sees what the other
has committed. History, campaigns and outbox come after that lock.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dlq_tools.adapters import campaigns
from dlq_tools.adapters.filters import Filters
from dlq_tools.domain import DeadLetter, HistoryEntry, ReplayEnd, State

_INSERT_MISSING = text("""
    INSERT INTO dead_letter (id)
    SELECT id FROM unnest(CAST(:ids AS text[])) AS wanted (id) ORDER BY id
    ON CONFLICT DO NOTHING
""")
_LOCK = text("""
    SELECT id, state, attempts, replays, last_failed_at, replayed_at, proved_at FROM dead_letter
    WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR UPDATE
""")
_UPDATE_LIVES = text("""
    UPDATE dead_letter AS letter
    SET state = l.state, attempts = l.attempts, replays = l.replays, replayed_at = l.replayed_at, proved_at = l.proved_at
    FROM unnest(CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:attempts AS integer[]), CAST(:replays AS integer[]),
        CAST(:replayed AS timestamptz[]), CAST(:proved AS timestamptz[])) AS l (id, state, attempts, replays, replayed_at, proved_at)
    WHERE letter.id = l.id
""")
_INSERT_HISTORY = text("""
    INSERT INTO dead_letter_history (dead_letter_id, at, what, actor, reason, detail)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[]), CAST(:words AS text[]), CAST(:actors AS text[]),
        CAST(:reasons AS text[]), CAST(:details AS text[]))
""")


class PostgresDeadLetters:
    """The repository of the consumer of proofs. Facts are HistoryEntry and ReplayEnd."""

    async def load(self, connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, DeadLetter]:
        return await lock_each(connection, keys)

    async def save(self, connection: AsyncConnection, changed: Mapping[str, DeadLetter], facts: Sequence[object]) -> None:
        if changed:
            await update_lives(connection, [changed[key] for key in sorted(changed)])
        await insert_history(connection, [fact for fact in facts if isinstance(fact, HistoryEntry)])
        await campaigns.end_replays(connection, [fact for fact in facts if isinstance(fact, ReplayEnd)])


async def lock_each(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, DeadLetter]:
    """All of them, which may repeat, locked. One that is not known yet begins here, as `announced`."""
    wanted = sorted(set(ids))
    await connection.execute(_INSERT_MISSING, {"ids": wanted})
    return {letter.id: letter for letter in await lock(connection, wanted)}


async def lock(connection: AsyncConnection, ids: Sequence[str]) -> list[DeadLetter]:
    """The known ones among them, locked, by id."""
    rows = await connection.execute(_LOCK, {"ids": list(ids)})
    return [_life(row) for row in rows]


async def lock_matching(connection: AsyncConnection, filters: Filters, limit: int) -> list[DeadLetter]:
    """The oldest that match, locked. The caller asks for one more than it takes, to know whether there are more."""
    where, values = filters.where()
    ids = f"SELECT id FROM dead_letter WHERE {where} ORDER BY last_failed_at, id LIMIT :limit"  # noqa: S608 - fixed parts
    found = (await connection.execute(text(ids), {**values, "limit": limit})).scalars().all()
    return await lock(connection, sorted(found))


async def update_lives(connection: AsyncConnection, letters: Sequence[DeadLetter]) -> None:
    """Writes what an act or a proof has changed."""
    await connection.execute(
        _UPDATE_LIVES,
        {
            "ids": [letter.id for letter in letters],
            "states": [letter.state.value for letter in letters],
            "attempts": [letter.attempts for letter in letters],
            "replays": [letter.replays for letter in letters],
            "replayed": [letter.replayed_at for letter in letters],
            "proved": [letter.proved_at for letter in letters],
        },
    )


async def insert_history(connection: AsyncConnection, entries: Sequence[HistoryEntry]) -> None:
    """Appends; what is there stays."""
    if not entries:
        return
    await connection.execute(
        _INSERT_HISTORY,
        {
            "ids": [entry.dead_letter_id for entry in entries],
            "moments": [entry.at for entry in entries],
            "words": [entry.what for entry in entries],
            "actors": [entry.actor for entry in entries],
            "reasons": [entry.reason for entry in entries],
            "details": [json.dumps(entry.detail) for entry in entries],
        },
    )


def _life(row: Any) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        state=State(row.state),
        attempts=row.attempts,
        replays=row.replays,
        failed_at=row.last_failed_at,
        replayed_at=row.replayed_at,
        proved_at=row.proved_at,
    )

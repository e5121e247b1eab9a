"""The first wall against duplicates: one row per consumer, source and message id, in the transaction of the effect.

A delivery that finds its row is skipped: its effect is committed (`handled`), waits as a row (`retrying`), or lies in the dead
letters (`dead`). Two replicas that hold the same delivery meet on the row's unique key: the second waits for the first's commit
and then finds the row, or takes over after its rollback (READ COMMITTED). Replays and due retries already have a row; they lock it
in a second statement and run only from `dead` and `retrying`, so that each runs once however often it is sent.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

MessageKey = tuple[str, str]
"""(source, message id): what CloudEvents says is unique."""

RECEIVE = text(
    """
    WITH received AS (
        INSERT INTO inbox (consumer, source, message_id)
        SELECT :consumer, m.source, m.message_id
        FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS m (source, message_id)
        ORDER BY m.source, m.message_id
        ON CONFLICT DO NOTHING
        RETURNING source, message_id
    )
    SELECT source, message_id, now() FROM received UNION ALL SELECT NULL, NULL, now()
    """
)
LOCK = text(
    """
    SELECT source, message_id, state FROM inbox
    WHERE consumer = :consumer AND (source, message_id) IN
        (SELECT m.source, m.message_id FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS m (source, message_id))
    ORDER BY source, message_id FOR UPDATE
    """
)
MARK = text(
    """
    UPDATE inbox SET state = m.state
    FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:states AS text[])) AS m (source, message_id, state)
    WHERE inbox.consumer = :consumer AND inbox.source = m.source AND inbox.message_id = m.message_id
    """
)


async def receive(connection: AsyncConnection, consumer: str, keys: Iterable[MessageKey]) -> tuple[set[MessageKey], datetime]:
    """Inserts the keys. Returns those that were new, and the database's time, which is the batch's `now`."""
    ordered = sorted(set(keys))
    rows = await connection.execute(RECEIVE, _arrays(consumer, ordered))
    new: set[MessageKey] = set()
    now: datetime | None = None
    for source, message_id, moment in rows:
        now = moment
        if message_id is not None:
            new.add((source, message_id))
    assert now is not None
    return new, now


async def lock(connection: AsyncConnection, consumer: str, keys: Iterable[MessageKey]) -> Mapping[MessageKey, str]:
    """The states of known messages, locked until the end of the transaction. Unknown ones are absent."""
    ordered = sorted(set(keys))
    rows = await connection.execute(LOCK, _arrays(consumer, ordered))
    return {(source, message_id): state for source, message_id, state in rows}


async def mark(connection: AsyncConnection, consumer: str, states: Mapping[MessageKey, str]) -> None:
    """Writes what became of messages that were not simply handled."""
    ordered = sorted(states)
    await connection.execute(MARK, {**_arrays(consumer, ordered), "states": [states[key] for key in ordered]})


def _arrays(consumer: str, keys: list[MessageKey]) -> dict[str, object]:
    return {"consumer": consumer, "sources": [source for source, _ in keys], "ids": [message_id for _, message_id in keys]}

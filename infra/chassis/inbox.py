"""The first wall against duplicates: one row per consumer, source and message id, in the transaction of the effect.

A delivery that finds its row is skipped: its effect is committed (`handled`), waits as a row (`retrying`), or lies in the dead
letters (`dead`). Two replicas that hold the same delivery meet on the row's unique key: the second waits for the first's commit
and then finds the row, or takes over after its rollback (READ COMMITTED). A due retry already has a row, and a replay
mostly; they lock it in a second statement, and have an effect only from `retrying` and `dead`. So each has one effect, however often
it is sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

MessageKey = tuple[str, str]
"""(source, message id): what CloudEvents says is unique."""
Claim = tuple[str, str]
"""(operation id, correlation id) of a command."""

# The join makes the operations wait until every message has been inserted: one order for all locks.
RECEIVE = text(
    """
    WITH message AS (
        SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:operations AS text[]), CAST(:correlations AS text[]))
            AS m (source, message_id, operation_id, correlation_id)
    ), received AS (
        INSERT INTO inbox (consumer, source, message_id)
        SELECT :consumer, source, message_id FROM message ORDER BY source, message_id
        ON CONFLICT DO NOTHING
        RETURNING source, message_id
    ), claimed AS (
        INSERT INTO operation (operation_id, correlation_id)
        SELECT operation_id, min(correlation_id) FROM message JOIN received USING (source, message_id)
        WHERE operation_id IS NOT NULL GROUP BY operation_id ORDER BY operation_id
        ON CONFLICT DO NOTHING
        RETURNING operation_id
    )
    SELECT source, message_id, NULL AS operation_id, now() AS now FROM received
    UNION ALL SELECT NULL, NULL, operation_id, now() FROM claimed
    UNION ALL SELECT NULL, NULL, NULL, now()
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


@dataclass(frozen=True, slots=True)
class Received:
    """`messages` were new. `operations` are those that they claim, and whether their rows are this transaction's own. `now` is the
    database's time, the same for the whole batch."""

    messages: set[MessageKey]
    operations: Mapping[str, bool]
    now: datetime


async def receive(connection: AsyncConnection, consumer: str, asked: Mapping[MessageKey, Claim | None]) -> Received:
    """Inserts the messages, and the operations that the new ones claim, where they do not exist yet."""
    ordered = sorted(asked)
    claims = [asked[key] or (None, None) for key in ordered]
    rows = await connection.execute(
        RECEIVE,
        {
            **_arrays(consumer, ordered),
            "operations": [operation_id for operation_id, _ in claims],
            "correlations": [correlation_id for _, correlation_id in claims],
        },
    )
    new: set[MessageKey] = set()
    own: set[str] = set()
    now: datetime | None = None
    for source, message_id, operation_id, moment in rows:
        now = moment
        if message_id is not None:
            new.add((source, message_id))
        elif operation_id is not None:
            own.add(operation_id)
    assert now is not None
    claimed = (claim for key, claim in asked.items() if claim is not None and key in new)
    return Received(new, {operation_id: operation_id in own for operation_id, _ in claimed}, now)


async def lock(connection: AsyncConnection, consumer: str, keys: Iterable[MessageKey]) -> Mapping[MessageKey, str]:
    """The states of known messages, locked until the end of the transaction. Unknown ones are absent."""
    ordered = sorted(set(keys))
    rows = await connection.execute(LOCK, _arrays(consumer, ordered))
    return {(source, message_id): state for source, message_id, state in rows}


async def mark(connection: AsyncConnection, consumer: str, states: Mapping[MessageKey, str]) -> None:
    """Writes what became of messages whose rows do not say so already."""
    ordered = sorted(states)
    await connection.execute(MARK, {**_arrays(consumer, ordered), "states": [states[key] for key in ordered]})


def _arrays(consumer: str, keys: list[MessageKey]) -> dict[str, object]:
    return {"consumer": consumer, "sources": [source for source, _ in keys], "ids": [message_id for _, message_id in keys]}

"""The operations table: claim all of a batch, then lock them in a second statement, then write back what changed."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.hot_connection import write
from infra.chassis.operations import Operation, StoredAnswer

CLAIM = text(
    """
    INSERT INTO operation (operation_id, correlation_id)
    SELECT o.id, o.correlation FROM unnest(CAST(:ids AS text[]), CAST(:correlations AS text[])) AS o (id, correlation)
    ORDER BY o.id
    ON CONFLICT DO NOTHING
    RETURNING operation_id
    """
)
# A statement of its own, after CLAIM: it sees what another replica committed while CLAIM waited for it.
LOCK = text(
    """
    SELECT operation_id, correlation_id, state, do_type, do_revision, undo_revision, do_answer_type, do_answer,
           undo_answer_type, undo_answer, do_message_id, undo_message_id, pending_do, pending_undo, dead_do, dead_undo
    FROM operation WHERE operation_id = ANY(CAST(:ids AS text[])) ORDER BY operation_id FOR UPDATE
    """
)
SAVE = write(
    """
    UPDATE operation SET
        state = o.state, do_type = o.do_type, do_revision = o.do_revision, undo_revision = o.undo_revision,
        do_answer_type = o.do_answer_type, do_answer = o.do_answer,
        undo_answer_type = o.undo_answer_type, undo_answer = o.undo_answer,
        do_message_id = o.do_message_id, undo_message_id = o.undo_message_id,
        pending_do = o.pending_do, pending_undo = o.pending_undo, dead_do = o.dead_do, dead_undo = o.dead_undo,
        decided_at = now()
    FROM unnest(
        CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:do_types AS text[]), CAST(:do_revisions AS integer[]),
        CAST(:undo_revisions AS integer[]), CAST(:do_answer_types AS text[]), CAST(:do_answers AS bytea[]),
        CAST(:undo_answer_types AS text[]), CAST(:undo_answers AS bytea[]), CAST(:do_messages AS text[]),
        CAST(:undo_messages AS text[]), CAST(:pending_dos AS bytea[]), CAST(:pending_undos AS bytea[]),
        CAST(:dead_dos AS boolean[]), CAST(:dead_undos AS boolean[])
    ) AS o (operation_id, state, do_type, do_revision, undo_revision, do_answer_type, do_answer, undo_answer_type, undo_answer,
            do_message_id, undo_message_id, pending_do, pending_undo, dead_do, dead_undo)
    WHERE operation.operation_id = o.operation_id
    """
)


async def claim(
    connection: AsyncConnection, correlations: Mapping[str, str], received: Mapping[str, bool]
) -> dict[str, Operation]:
    """Rows for all operation ids (mapped to their sagas), created where missing, locked until the transaction ends.

    `received` has the operations that were claimed together with their messages, and for each whether that made its row. A row
    that this transaction has made is its own until the commit, so only the others have to be locked and read.
    """
    asked = sorted(one for one in correlations if one not in received)
    made = {one for one, own in received.items() if own}
    if asked:
        rows = await connection.execute(CLAIM, {"ids": asked, "correlations": [correlations[one] for one in asked]})
        made |= {one for (one,) in rows}
    new = {one: Operation(id=one, correlation_id=correlations[one]) for one in made if one in correlations}
    known = [one for one in correlations if one not in new]
    return {**new, **await lock(connection, known)} if known else new


async def lock(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Operation]:
    """Existing rows, locked in order of their ids."""
    rows = await connection.execute(LOCK, {"ids": sorted(ids)})
    return {
        row.operation_id: Operation(
            id=row.operation_id,
            correlation_id=row.correlation_id,
            state=row.state,
            do_type=row.do_type,
            do_revision=row.do_revision,
            undo_revision=row.undo_revision,
            do_answer=_answer(row.do_answer_type, row.do_answer),
            undo_answer=_answer(row.undo_answer_type, row.undo_answer),
            do_message_id=row.do_message_id,
            undo_message_id=row.undo_message_id,
            pending_do=row.pending_do,
            pending_undo=row.pending_undo,
            dead_do=row.dead_do,
            dead_undo=row.dead_undo,
        )
        for row in rows
    }


async def save(connection: AsyncConnection, operations: Sequence[Operation]) -> None:
    """Writes the given rows back, all columns, in one statement."""
    ordered = sorted(operations, key=lambda operation: operation.id)
    await connection.execute(
        SAVE,
        {
            "ids": [o.id for o in ordered],
            "states": [o.state for o in ordered],
            "do_types": [o.do_type for o in ordered],
            "do_revisions": [o.do_revision for o in ordered],
            "undo_revisions": [o.undo_revision for o in ordered],
            "do_answer_types": [o.do_answer and o.do_answer.type for o in ordered],
            "do_answers": [o.do_answer and o.do_answer.data for o in ordered],
            "undo_answer_types": [o.undo_answer and o.undo_answer.type for o in ordered],
            "undo_answers": [o.undo_answer and o.undo_answer.data for o in ordered],
            "do_messages": [o.do_message_id for o in ordered],
            "undo_messages": [o.undo_message_id for o in ordered],
            "pending_dos": [o.pending_do for o in ordered],
            "pending_undos": [o.pending_undo for o in ordered],
            "dead_dos": [o.dead_do for o in ordered],
            "dead_undos": [o.dead_undo for o in ordered],
        },
    )


def _answer(wire_name: str | None, data: bytes | None) -> StoredAnswer | None:
    return StoredAnswer(wire_name, data) if wire_name is not None and data is not None else None

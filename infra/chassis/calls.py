"""Requests to systems outside: committed as an intent, made outside any transaction, brought back as an input of the loop.

    decide ──calls──> call rows 'due' + operation pending ──COMMIT──> leased ──query by key──> known: that result
                                                                        │         └─ unknown ──> perform under the same key
                                     conclude <──all over── 'answered' ◄──┘
                                                              'exhausted' ◄── budget spent: the command is a dead letter;
                                                                              outcome unknown, its key is kept

Why this is right. The key is committed before the first byte is sent, so after any crash the same request is asked for or sent
again under the same key. A call is leased for longer than a query and a request may take together; a result is written only
by the holder of the newest attempt. `refused` is written only for a definite no; a time-out leaves the outcome unknown, and an undo
is given unknown calls as well, since they may have happened.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.dead_letters import clean
from infra.chassis.service import Call, CallResult, Direction

# A call that an operator's replay wants again keeps its row and its key: what is known of it stays known.
INSERT = text(
    """
    INSERT INTO call (key, operation_id, direction, consumer, dependency, request)
    SELECT c.* FROM unnest(CAST(:keys AS text[]), CAST(:operations AS text[]), CAST(:directions AS text[]),
        CAST(:consumers AS text[]), CAST(:dependencies AS text[]), CAST(:requests AS text[])) AS c
    ON CONFLICT ON CONSTRAINT call_one_row_per_key DO UPDATE SET
        state = 'due', due_at = now(), first_at = now(), attempt = 0, tries = 0
    WHERE call.state = 'exhausted'
    """
)
OF_OPERATIONS = text(
    """
    SELECT key, operation_id, direction, dependency, request, state, outcome, response, duration_ms
    FROM call WHERE operation_id = ANY(CAST(:ids AS text[])) ORDER BY created_at, key
    """
)
LEASE = text(
    """
    UPDATE call SET attempt = attempt + 1, tries = tries + 1, due_at = now() + make_interval(secs => :lease)
    WHERE key IN (SELECT key FROM call WHERE state = 'due' AND due_at <= now() AND consumer = ANY(CAST(:consumers AS text[]))
                  ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING key, operation_id, consumer, dependency, request, sent, attempt, first_at, now() AS now
    """
)
MARK_SENT = text("UPDATE call SET sent = true WHERE key = ANY(CAST(:keys AS text[]))")
ANSWER = text(
    """
    UPDATE call SET state = 'answered', outcome = :outcome, response = :response, duration_ms = duration_ms + :duration_ms
    WHERE key = :key AND attempt = :attempt AND state = 'due'
    """
)
POSTPONE = text(
    """
    UPDATE call SET state = :state, due_at = now() + make_interval(secs => :delay), duration_ms = duration_ms + :duration_ms,
        error_class = :error_class, error = :error
    WHERE key = :key AND attempt = :attempt AND state = 'due'
    """
)
# Operations whose calls have all come to an end, and that have not been concluded yet.
OVER = text(
    """
    SELECT o.operation_id FROM operation o
    WHERE (o.pending_do IS NOT NULL OR o.pending_undo IS NOT NULL)
      AND EXISTS (SELECT 1 FROM call c WHERE c.operation_id = o.operation_id AND c.consumer = :consumer)
      AND NOT EXISTS (SELECT 1 FROM call c WHERE c.operation_id = o.operation_id AND c.state = 'due')
    ORDER BY o.operation_id LIMIT :limit
    """
)


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call as stored. `state` is due, answered or exhausted."""

    operation_id: str
    direction: Direction
    state: str
    duration_ms: int
    result: CallResult


@dataclass(frozen=True, slots=True)
class Leased:
    """A call that this process may make now. `sent` says that an earlier attempt may have reached the other side."""

    call: Call
    operation_id: str
    consumer: str
    sent: bool
    attempt: int
    first_at: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to be inserted."""

    operation_id: str
    direction: Direction
    call: Call


async def insert(connection: AsyncConnection, consumer: str, calls: Sequence[NewCall]) -> None:
    """Commits to the calls. A key that is known already keeps its result."""
    ordered = sorted(calls, key=lambda new: new.call.key)
    await connection.execute(
        INSERT,
        {
            "keys": [new.call.key for new in ordered],
            "operations": [new.operation_id for new in ordered],
            "directions": [new.direction for new in ordered],
            "consumers": [consumer] * len(ordered),
            "dependencies": [new.call.dependency for new in ordered],
            "requests": [to_json(new.call.request).decode() for new in ordered],
        },
    )


async def of_operations(connection: AsyncConnection, ids: Iterable[str]) -> Mapping[str, list[CallRow]]:
    """All calls of the operations, oldest first. The operations are locked, so no other transaction adds a call or concludes meanwhile."""
    rows = await connection.execute(OF_OPERATIONS, {"ids": sorted(ids)})
    found: dict[str, list[CallRow]] = {}
    for row in rows:
        call = Call(row.dependency, row.key, json.loads(row.request))
        result = CallResult(call, row.outcome, json.loads(row.response))
        found.setdefault(row.operation_id, []).append(
            CallRow(row.operation_id, row.direction, row.state, row.duration_ms, result)
        )
    return found


async def lease(connection: AsyncConnection, consumers: Sequence[str], *, seconds: float, limit: int) -> list[Leased]:
    """Calls that are due; no other process is given them before the lease has run out."""
    rows = await connection.execute(LEASE, {"consumers": list(consumers), "lease": seconds, "limit": limit})
    leased = [
        Leased(
            Call(row.dependency, row.key, json.loads(row.request)),
            row.operation_id,
            row.consumer,
            row.sent,
            row.attempt,
            row.first_at,
            row.now,
        )
        for row in rows
    ]
    if leased:
        await connection.execute(MARK_SENT, {"keys": [one.call.key for one in leased]})
    return leased


async def over(connection: AsyncConnection, consumer: str, limit: int) -> list[str]:
    """Operations that wait for nothing but their conclusion; a crash after the last result leaves them in this state."""
    rows = await connection.execute(OVER, {"consumer": consumer, "limit": limit})
    return [row.operation_id for row in rows]


async def answered(connection: AsyncConnection, leased: Leased, result: CallResult, duration_ms: int) -> bool:
    """Writes the result, unless a newer attempt has taken over. Returns whether it was written."""
    response: dict[str, Any] = {
        "key": leased.call.key,
        "attempt": leased.attempt,
        "outcome": result.outcome,
        "response": to_json(result.response).decode(),
        "duration_ms": duration_ms,
    }
    return bool((await connection.execute(ANSWER, response)).rowcount)


async def postponed(
    connection: AsyncConnection, leased: Leased, error: BaseException, *, delay_seconds: float | None, duration_ms: int
) -> bool:
    """Writes the failure: the call is due again after the delay, without a delay exhausted. Returns whether it was written."""
    values: dict[str, Any] = {
        "key": leased.call.key,
        "attempt": leased.attempt,
        "state": "due" if delay_seconds is not None else "exhausted",
        "delay": delay_seconds or 0.0,
        "duration_ms": duration_ms,
        "error_class": type(error).__name__,
        "error": clean(str(error))[:2000],
    }
    return bool((await connection.execute(POSTPONE, values)).rowcount)

"""Credit lines and holds in PostgreSQL, a batch at a time.

Every change of a hold happens under the lock of its line. Holds therefore need no locks or order of their own, and the
sums in the line's row are exact: no other transaction can place or end a hold of a line that we have locked.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.errors import Permanent
from infra.chassis.hot_connection import write
from infra.chassis.service import Finding
from services.credit.domain import (
    CreditLine,
    HoldCaptured,
    HoldPlaced,
    HoldReleased,
    LimitStated,
    LineKey,
)

F = TypeVar("F")

_INSERT_MISSING_LINES = text("""
    INSERT INTO credit_line (buyer_id, currency)
    SELECT buyer_id, currency
    FROM unnest(CAST(:buyers AS text[]), CAST(:currencies AS text[])) AS wanted (buyer_id, currency)
    ORDER BY buyer_id, currency
    ON CONFLICT DO NOTHING
""")

# A line is new once in its buyer's life. So missing lines are inserted only after the lock has found too few.
_LOCK_LINES = text("""
    SELECT line.buyer_id, line.currency, limit_minor, limit_sequence, held_minor, used_minor
    FROM credit_line AS line
    JOIN unnest(CAST(:buyers AS text[]), CAST(:currencies AS text[])) AS wanted (buyer_id, currency)
        ON line.buyer_id = wanted.buyer_id AND line.currency = wanted.currency
    ORDER BY line.buyer_id, line.currency
    FOR UPDATE OF line
""")

_UPDATE_LINES = write("""
    UPDATE credit_line AS line
    SET limit_minor = changed.limit_minor, limit_sequence = changed.limit_sequence,
        held_minor = changed.held_minor, used_minor = changed.used_minor
    FROM unnest(
        CAST(:buyers AS text[]), CAST(:currencies AS text[]), CAST(:limits AS bigint[]), CAST(:sequences AS bigint[]),
        CAST(:held AS bigint[]), CAST(:used AS bigint[])
    ) AS changed (buyer_id, currency, limit_minor, limit_sequence, held_minor, used_minor)
    WHERE line.buyer_id = changed.buyer_id AND line.currency = changed.currency
""")

_INSERT_HOLDS = write("""
    INSERT INTO credit_hold (operation_id, order_id, buyer_id, currency, amount_minor, placed_at)
    SELECT operation_id, order_id, buyer_id, currency, amount_minor, placed_at
    FROM unnest(
        CAST(:operations AS text[]), CAST(:orders AS text[]), CAST(:buyers AS text[]), CAST(:currencies AS text[]),
        CAST(:amounts AS bigint[]), CAST(:moments AS timestamptz[])
    ) AS placed (operation_id, order_id, buyer_id, currency, amount_minor, placed_at)
    ORDER BY operation_id
""")

_RELEASE_HOLDS = text("""
    UPDATE credit_hold AS hold
    SET state = 'released', ended_at = released.ended_at
    FROM unnest(CAST(:operations AS text[]), CAST(:moments AS timestamptz[])) AS released (operation_id, ended_at)
    WHERE hold.operation_id = released.operation_id AND hold.state = 'held'
    RETURNING hold.operation_id
""")

# Restricted to the line that the event names, because that is the one we have locked.
_CAPTURE_HOLDS = text("""
    WITH captured AS (
        UPDATE credit_hold AS hold
        SET state = 'captured', ended_at = completed.ended_at
        FROM unnest(
            CAST(:orders AS text[]), CAST(:buyers AS text[]), CAST(:currencies AS text[]),
            CAST(:moments AS timestamptz[])
        ) AS completed (order_id, buyer_id, currency, ended_at)
        WHERE hold.order_id = completed.order_id AND hold.buyer_id = completed.buyer_id
            AND hold.currency = completed.currency AND hold.state = 'held'
        RETURNING hold.buyer_id, hold.currency, hold.amount_minor
    ), moved AS (
        SELECT buyer_id, currency, CAST(sum(amount_minor) AS bigint) AS amount_minor
        FROM captured
        GROUP BY buyer_id, currency
    )
    UPDATE credit_line AS line
    SET held_minor = line.held_minor - moved.amount_minor, used_minor = line.used_minor + moved.amount_minor
    FROM moved
    WHERE line.buyer_id = moved.buyer_id AND line.currency = moved.currency
""")

_INSERT_LIMIT_CHANGES = write("""
    INSERT INTO credit_limit_change (buyer_id, currency, sequence, limit_minor, reason, stated_at)
    SELECT buyer_id, currency, sequence, limit_minor, reason, stated_at
    FROM unnest(
        CAST(:buyers AS text[]), CAST(:currencies AS text[]), CAST(:sequences AS bigint[]), CAST(:limits AS bigint[]),
        CAST(:reasons AS text[]), CAST(:moments AS timestamptz[])
    ) AS stated (buyer_id, currency, sequence, limit_minor, reason, stated_at)
    ORDER BY buyer_id, currency, sequence
""")

# One statement, and so one snapshot: lines and holds that change meanwhile cannot look as if they disagreed.
_DISAGREEING_LINES = text("""
    SELECT line.buyer_id, line.currency, line.held_minor, line.used_minor, coalesce(hold.held_minor, 0),
        coalesce(hold.used_minor, 0)
    FROM credit_line AS line
    LEFT JOIN (
        SELECT buyer_id, currency,
            CAST(sum(amount_minor) FILTER (WHERE state = 'held') AS bigint) AS held_minor,
            CAST(sum(amount_minor) FILTER (WHERE state = 'captured') AS bigint) AS used_minor
        FROM credit_hold
        GROUP BY buyer_id, currency
    ) AS hold ON hold.buyer_id = line.buyer_id AND hold.currency = line.currency
    WHERE line.held_minor <> coalesce(hold.held_minor, 0) OR line.used_minor <> coalesce(hold.used_minor, 0)
    ORDER BY line.buyer_id, line.currency
""")

_OPERATIONS_WITH_TWO_HOLDS = text("""
    SELECT operation_id, min(order_id), count(*)
    FROM credit_hold
    GROUP BY operation_id
    HAVING count(*) > 1
    ORDER BY operation_id
""")


class PostgresCreditLines:
    """Repository[LineKey, CreditLine]. A buyer never heard of gets a line without a limit."""

    async def load(self, connection: AsyncConnection, keys: Sequence[LineKey]) -> Mapping[LineKey, CreditLine]:
        wanted = sorted(set(keys))
        columns = {"buyers": [key.buyer_id for key in wanted], "currencies": [key.currency for key in wanted]}
        rows = (await connection.execute(_LOCK_LINES, columns)).all()
        if len(rows) < len(wanted):
            await connection.execute(_INSERT_MISSING_LINES, columns)
            rows = (await connection.execute(_LOCK_LINES, columns)).all()
        return {
            LineKey(buyer_id, currency): CreditLine(currency, limit_minor, limit_sequence, held_minor, used_minor)
            for buyer_id, currency, limit_minor, limit_sequence, held_minor, used_minor in rows
        }

    async def save(self, connection: AsyncConnection, changed: Mapping[LineKey, CreditLine], facts: Sequence[object]) -> None:
        """At most one statement per kind. Raises Permanent when a hold to be released is not held any more."""
        if changed:
            await _update_lines(connection, changed)
        # Placed before released: both may stand in one batch, for one operation.
        if placed := _of(facts, HoldPlaced):
            await _insert_holds(connection, placed)
        if released := _of(facts, HoldReleased):
            await _release_holds(connection, released)
        # After the lines' own update, which writes the sums as loaded; capturing moves them from there.
        if captured := _of(facts, HoldCaptured):
            await _capture_holds(connection, captured)
        if stated := _of(facts, LimitStated):
            await _insert_limit_changes(connection, stated)


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """What does not add up: a line's sums that are not those of its holds, an operation with two holds. Reads only."""
    lines = await connection.execute(_DISAGREEING_LINES)
    findings = [
        Finding(
            kind="unexplained",
            id=f"{buyer_id}/{currency}",
            detail=f"the line says held {held}, used {used}; its holds say held {held_by_holds}, used {used_by_holds}",
            command="tutti logs credit",
        )
        for buyer_id, currency, held, used, held_by_holds, used_by_holds in lines
    ]
    findings += [
        Finding(
            kind="doubled",
            id=operation_id,
            detail=f"{count} holds for one operation",
            command=f"tutti order show {order_id}",
        )
        for operation_id, order_id, count in await connection.execute(_OPERATIONS_WITH_TWO_HOLDS)
    ]
    return findings


async def _update_lines(connection: AsyncConnection, changed: Mapping[LineKey, CreditLine]) -> None:
    await connection.execute(
        _UPDATE_LINES,
        {
            "buyers": [key.buyer_id for key in changed],
            "currencies": [key.currency for key in changed],
            "limits": [line.limit_minor for line in changed.values()],
            "sequences": [line.limit_sequence for line in changed.values()],
            "held": [line.held_minor for line in changed.values()],
            "used": [line.used_minor for line in changed.values()],
        },
    )


async def _insert_holds(connection: AsyncConnection, placed: Sequence[HoldPlaced]) -> None:
    await connection.execute(
        _INSERT_HOLDS,
        {
            "operations": [hold.operation_id for hold in placed],
            "orders": [hold.order_id for hold in placed],
            "buyers": [hold.line.buyer_id for hold in placed],
            "currencies": [hold.line.currency for hold in placed],
            "amounts": [hold.amount_minor for hold in placed],
            "moments": [hold.at for hold in placed],
        },
    )


async def _release_holds(connection: AsyncConnection, released: Sequence[HoldReleased]) -> None:
    rows = await connection.execute(
        _RELEASE_HOLDS,
        {"operations": [hold.operation_id for hold in released], "moments": [hold.at for hold in released]},
    )
    # A captured hold belongs to a completed order. To take its amount from the line would take another order's hold
    # away, so a person has to look; the loop takes the batch again one by one and finds the message.
    found = len(rows.all())
    if found != len(released):
        operations = ", ".join(sorted(hold.operation_id for hold in released)[:5])
        raise Permanent(
            f"{found} of {len(released)} holds could be released ({operations}): the others are captured "
            "or were never placed; compare the order's end with its holds"
        )


async def _capture_holds(connection: AsyncConnection, captured: Sequence[HoldCaptured]) -> None:
    await connection.execute(
        _CAPTURE_HOLDS,
        {
            "orders": [hold.order_id for hold in captured],
            "buyers": [hold.line.buyer_id for hold in captured],
            "currencies": [hold.line.currency for hold in captured],
            "moments": [hold.at for hold in captured],
        },
    )


async def _insert_limit_changes(connection: AsyncConnection, stated: Sequence[LimitStated]) -> None:
    await connection.execute(
        _INSERT_LIMIT_CHANGES,
        {
            "buyers": [change.line.buyer_id for change in stated],
            "currencies": [change.line.currency for change in stated],
            "sequences": [change.sequence for change in stated],
            "limits": [change.limit_minor for change in stated],
            "reasons": [change.reason for change in stated],
            "moments": [change.at for change in stated],
        },
    )


def _of(facts: Sequence[object], kind: type[F]) -> list[F]:
    return [fact for fact in facts if isinstance(fact, kind)]

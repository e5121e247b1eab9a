"""Inputs of a saga that are rows: timers that are due, and what people ask for. The same loop handles them as messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.envelope import Envelope
from infra.chassis.service import Context, Decision, RowInput
from orchestrator.handlers import Sagas
from orchestrator.instance import Instance
from orchestrator.ports import Act, ActVerdict

# A timer that was decided and is due still was left to another replica. Long enough that those who cannot decide it cost
# little, short enough that the one who can has it before anybody asks where the saga is.
LOOK_AGAIN_SECONDS: Final = 10.0

# The lease is committed before the row is used: a row that kills the process is counted, and another replica waits.
_CLAIM_TIMERS = text("""
    UPDATE workflow_instance AS instance
    SET timer_tries = timer_tries + 1, timer_claimed_until = now() + make_interval(secs => :lease)
    FROM (
        SELECT saga_id FROM workflow_instance
        WHERE NOT finished AND next_timer_at <= now() AND (timer_claimed_until IS NULL OR timer_claimed_until <= now())
        ORDER BY next_timer_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE instance.saga_id = due.saga_id
    RETURNING instance.saga_id, instance.timer_tries, instance.document ->> 'traceparent'
""")

# Whatever was decided, no timer comes out of here due: it would be found again at once, and again, for ever.
_SETTLE_TIMERS = text("""
    UPDATE workflow_instance SET timer_tries = 0, timer_claimed_until = NULL,
        next_timer_at = CASE
            WHEN finished THEN NULL
            WHEN CAST(document ->> 'next_timer_at' AS timestamptz) > now()
            THEN CAST(document ->> 'next_timer_at' AS timestamptz)
            ELSE now() + make_interval(secs => :again) END
    WHERE saga_id = ANY(CAST(:sagas AS text[]))
""")

_CLAIM_ACTS = text("""
    UPDATE operator_act AS act
    SET tries = tries + 1, claimed_until = now() + make_interval(secs => :lease)
    FROM (
        SELECT act_id FROM operator_act
        WHERE state = 'open' AND (claimed_until IS NULL OR claimed_until <= now())
        ORDER BY requested_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS open
    WHERE act.act_id = open.act_id
    RETURNING act.act_id, act.saga_id, act.kind, act.reason, act.actor, act.tries
""")

# The verdicts were written with the decisions; what is still open here had none, and is not asked again.
_SETTLE_ACTS = text("""
    UPDATE operator_act SET state = 'refused', detail = 'it could not be decided', decided_at = now()
    WHERE act_id = ANY(CAST(:acts AS text[])) AND state = 'open'
""")


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A saga whose next moment has come; `traceparent` continues its trace."""

    traceparent: str | None


class Timers:
    """RowSource[str, Instance, DueTimer]. Claimed without locking the saga; the engine looks again under its lock."""

    name = "timers"

    def __init__(self, sagas: Sagas, lease_seconds: float) -> None:
        self._sagas = sagas
        self._lease_seconds = lease_seconds

    async def claim(self, connection: AsyncConnection, limit: int) -> Sequence[RowInput[str, DueTimer]]:
        rows = await connection.execute(_CLAIM_TIMERS, {"lease": self._lease_seconds, "limit": limit})
        return [RowInput(id=f"timer:{saga}", key=saga, payload=DueTimer(trace), tries=tries) for saga, tries, trace in rows]

    def decide(self, row: RowInput[str, DueTimer], state: Instance, context: Context) -> Decision[Instance]:
        return self._sagas.timer(state, context)

    def envelope(self, row: RowInput[str, DueTimer], now: datetime) -> Envelope:
        return Envelope(
            id=row.id,
            source="/orchestrator/timers",
            type="timer",
            time=now,
            data={},
            correlationid=row.key,
            actor="system:orchestrator",
            traceparent=row.payload.traceparent,
        )

    def give_up(self, row: RowInput[str, DueTimer], state: Instance, error: str, context: Context) -> Decision[Instance]:
        return self._sagas.give_up(state, f"its timer cannot be dealt with: {error}", context)

    async def mark_done(self, connection: AsyncConnection, rows: Sequence[RowInput[str, DueTimer]]) -> None:
        await connection.execute(_SETTLE_TIMERS, {"sagas": sorted(row.key for row in rows), "again": LOOK_AGAIN_SECONDS})


class Acts:
    """RowSource[str, Instance, Act]. Every act ends with a verdict in its row."""

    name = "acts"

    def __init__(self, sagas: Sagas, lease_seconds: float) -> None:
        self._sagas = sagas
        self._lease_seconds = lease_seconds

    async def claim(self, connection: AsyncConnection, limit: int) -> Sequence[RowInput[str, Act]]:
        rows = await connection.execute(_CLAIM_ACTS, {"lease": self._lease_seconds, "limit": limit})
        return [
            RowInput(id=act_id, key=saga, payload=Act(kind, reason, actor), tries=tries)
            for act_id, saga, kind, reason, actor, tries in rows
        ]

    def decide(self, row: RowInput[str, Act], state: Instance, context: Context) -> Decision[Instance]:
        return self._sagas.act(row.id, row.payload, state, context)

    def envelope(self, row: RowInput[str, Act], now: datetime) -> Envelope:
        return Envelope(
            id=row.id,
            source="/orchestrator/acts",
            type="act",
            time=now,
            data={},
            correlationid=row.key,
            actor=row.payload.actor,
        )

    def give_up(self, row: RowInput[str, Act], state: Instance, error: str, context: Context) -> Decision[Instance]:
        refused = ActVerdict(row.id, context.now, accepted=False, detail=f"it cannot be dealt with: {error}"[:1000])
        return self._sagas.give_up(state, f"{row.payload.kind} cannot be dealt with: {error}", context, refused)

    async def mark_done(self, connection: AsyncConnection, rows: Sequence[RowInput[str, Act]]) -> None:
        await connection.execute(_SETTLE_ACTS, {"acts": sorted(row.id for row in rows)})

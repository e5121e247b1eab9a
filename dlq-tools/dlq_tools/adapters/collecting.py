"""Failures as the collector records them: each once, however often its message comes, and a whole batch in one transaction."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dlq_tools.adapters import campaigns, letters
from dlq_tools.domain import DeadLetter, HistoryEntry, ReplayEnd, State
from dlq_tools.letters import Letter

_COLLECT = text("""
    INSERT INTO collected (key) SELECT DISTINCT key FROM unnest(CAST(:keys AS text[])) AS wanted (key) ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key
""")
# A replay carries the original's bytes but the desk's own properties: what is known of the first sending is kept.
_KEPT: Final = (
    "type", "message_id", "source", "correlation_id", "operation_id", "subject", "partner_id", "identity", "original", "body",
)  # fmt: skip
_UPDATE_LETTER = text(
    f"""
    UPDATE dead_letter SET
        state = :state, attempts = :attempts, last_failed_at = :failed_at,
        first_failed_at = least(first_failed_at, :first_failed_at),
        queue = :queue, kind = :kind, error_class = :error_class, error = :error, trace = :trace, step = :step,
        revision = :revision, service = :service, service_version = :service_version,
        group_id = :group_id, signature = :signature,
        {", ".join(f"{name} = CASE WHEN :replay > 0 AND last_failed_at IS NOT NULL THEN {name} ELSE :{name} END" for name in _KEPT)}
    WHERE id = :id
    """  # noqa: S608 - names from the tuple above
)
_PURGE_COLLECTED = text("""
    DELETE FROM collected WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM collected WHERE collected_at < now() - make_interval(days => :days) LIMIT :rows FOR UPDATE SKIP LOCKED))
""")
PURGE_ROWS_MAX: Final = 5000


async def collect(connection: AsyncConnection, failures: Sequence[Letter]) -> list[Letter]:
    """Records failures; a copy of one that is known changes nothing. Returns those that opened a dead letter."""
    new = set((await connection.execute(_COLLECT, {"keys": [failure.key for failure in failures]})).scalars())
    fresh = [failure for failure in {failure.key: failure for failure in failures}.values() if failure.key in new]
    if not fresh:
        return []
    lives = await letters.lock_each(connection, [failure.id for failure in fresh])
    opened: list[Letter] = []
    history: list[HistoryEntry] = []
    ends: list[ReplayEnd] = []
    for failure in fresh:
        before = lives[failure.id]
        after, what = before.fail(attempts=failure.attempts, replay=failure.replay, at=failure.last_failed_at)
        lives[failure.id] = after
        history.append(_entry(failure, what))
        await connection.execute(_UPDATE_LETTER, _values(failure, after))
        if failure.replay > 0:
            ends.append(ReplayEnd(failure.id, failure.replay, "failed-again"))
        if after.state is State.OPEN and before.state is not State.OPEN:
            opened.append(failure)
    await letters.insert_history(connection, history)
    await campaigns.end_replays(connection, ends)
    return opened


async def purge_collected(connection: AsyncConnection, days: int) -> None:
    """Forgets keys of failures that were recorded so many days ago: no copy comes any more."""
    await connection.execute(_PURGE_COLLECTED, {"days": days, "rows": PURGE_ROWS_MAX})


def _entry(failure: Letter, what: str) -> HistoryEntry:
    return HistoryEntry(
        dead_letter_id=failure.id,
        at=failure.last_failed_at,
        what=what,
        actor=f"service:{failure.service}" if failure.kind != "broker" else "broker",
        detail={
            "kind": failure.kind,
            "error_class": failure.error_class,
            "error": failure.error,
            "attempts": failure.attempts,
            "replay": failure.replay,
            "message_id": failure.message_id,
            "first_failed_at": failure.first_failed_at.isoformat(),
        },
    )


def _values(failure: Letter, after: DeadLetter) -> dict[str, Any]:
    signature = failure.signature
    return {
        "id": failure.id,
        "state": after.state.value,
        "attempts": after.attempts,
        "failed_at": after.failed_at,
        "first_failed_at": failure.first_failed_at,
        "queue": failure.queue,
        "type": failure.type,
        "correlation_id": failure.correlation_id,
        "operation_id": failure.operation_id,
        "subject": failure.subject,
        "partner_id": failure.partner_id,
        "kind": failure.kind,
        "error_class": failure.error_class,
        "error": failure.error,
        "trace": failure.trace,
        "step": failure.step,
        "revision": failure.revision,
        "service": failure.service,
        "service_version": failure.service_version,
        "identity": list(failure.identity),
        "group_id": signature.group,
        "signature": signature.text,
        "message_id": failure.message_id,
        "source": failure.source,
        "replay": failure.replay,
        "original": failure.original,
        "body": failure.body,
    }

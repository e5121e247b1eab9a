"""Messages that wait for another try, as rows: visible, movable, and an input of the loop of their own.

    failed (transient) ──> retry row + inbox 'retrying' ──due──> claimed (tries + 1, committed) ──> handled: row deleted
                                  ▲                                   │ failed again: due later, tries 0
                                  └───────────────────────────────────┘ budget spent: dead letter
                                                                       three tries without an end: it kills the process, dead letter

The row holds the message; it is never published again, so nothing can be lost between a queue and a timer. Claiming commits
`tries + 1` before the row is used: a row that kills the process is known by its tries, as a delivery is by its count. A claim is
a lease of a few seconds on `due_at`. The transaction that handles the row locks its inbox row, and runs it only while that says
'retrying'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from tenacity import RetryCallState, wait_random_exponential

from infra.chassis.decoding import Raw
from infra.chassis.inbox import MessageKey
from infra.chassis.settings import ServiceSettings

CLAIM = text(
    """
    UPDATE retry SET tries = tries + 1, due_at = now() + make_interval(secs => :lease)
    WHERE (consumer, source, message_id) IN (
        SELECT consumer, source, message_id FROM retry WHERE consumer = :consumer AND due_at <= now()
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING source, message_id, type, operation_id, correlation_id, raw, attempts, first_failed_at, tries
    """
)
SCHEDULE = text(
    """
    INSERT INTO retry (consumer, source, message_id, type, operation_id, correlation_id, raw, attempts, first_failed_at,
                       last_failed_at, due_at, error_class, error)
    VALUES (:consumer, :source, :message_id, :type, :operation_id, :correlation_id, :raw, :attempts, :first_failed_at,
            now(), now() + make_interval(secs => :delay), :error_class, :error)
    ON CONFLICT ON CONSTRAINT retry_one_row_per_message DO UPDATE SET
        attempts = excluded.attempts, last_failed_at = excluded.last_failed_at, due_at = excluded.due_at,
        error_class = excluded.error_class, error = excluded.error, tries = 0
    """
)
DELETE = text(
    """
    DELETE FROM retry USING unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS m (source, message_id)
    WHERE retry.consumer = :consumer AND retry.source = m.source AND retry.message_id = m.message_id
    """
)


@dataclass(frozen=True, slots=True)
class RetryRow:
    """A due retry as claimed: the message, how often it failed, and how often it was started since without an end.

    `unreadable` says why the stored message cannot be read; the body of `raw` is then the row's bytes.
    """

    source: str
    message_id: str
    raw: Raw
    attempts: int
    first_failed_at: datetime
    tries: int
    type: str = ""
    operation_id: str | None = None
    correlation_id: str | None = None
    unreadable: str | None = None

    @property
    def key(self) -> MessageKey:
        return (self.source, self.message_id)


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that will be tried again: written in the transaction of the batch in which it failed."""

    key: MessageKey
    type: str
    operation_id: str | None
    correlation_id: str | None
    raw: Raw
    attempts: int
    first_failed_at: datetime
    delay_seconds: float
    error_class: str
    error: str


async def claim(connection: AsyncConnection, consumer: str, limit: int, *, lease_seconds: float) -> list[RetryRow]:
    """Due rows; the caller commits before it uses them. A row that cannot be read is among them, and says so."""
    rows = await connection.execute(CLAIM, {"consumer": consumer, "limit": limit, "lease": lease_seconds})
    return [_claimed(row) for row in rows]


def _claimed(row: Any) -> RetryRow:
    unreadable = None
    try:
        raw = Raw.from_json(row.raw)
        if not isinstance(raw.headers, Mapping):
            raise TypeError(f"its headers are no table but {type(raw.headers).__name__}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        unreadable = f"{type(error).__name__}: {error}"
        raw = Raw(
            body=bytes(row.raw),
            content_type=None,
            content_encoding=None,
            headers={},
            message_id=row.message_id,
            type=row.type,
            sender=None,
            exchange="",
            routing_key=row.type,
        )
    return RetryRow(
        row.source,
        row.message_id,
        raw,
        row.attempts,
        row.first_failed_at,
        row.tries,
        row.type,
        row.operation_id,
        row.correlation_id,
        unreadable,
    )


async def schedule(connection: AsyncConnection, consumer: str, retries: Sequence[Retry]) -> None:
    """Writes or moves the rows. Failures are rare, so this is one statement execution per row."""
    await connection.execute(
        SCHEDULE,
        [
            {
                "consumer": consumer,
                "source": retry.key[0],
                "message_id": retry.key[1],
                "type": retry.type,
                "operation_id": retry.operation_id,
                "correlation_id": retry.correlation_id,
                "raw": retry.raw.to_json(),
                "attempts": retry.attempts,
                "first_failed_at": retry.first_failed_at,
                "delay": retry.delay_seconds,
                "error_class": retry.error_class,
                "error": retry.error[:2000],
            }
            for retry in sorted(retries, key=lambda retry: retry.key)
        ],
    )


async def delete(connection: AsyncConnection, consumer: str, keys: Sequence[MessageKey]) -> None:
    """Removes rows that were handled or became dead letters."""
    ordered = sorted(keys)
    await connection.execute(
        DELETE, {"consumer": consumer, "sources": [source for source, _ in ordered], "ids": [one for _, one in ordered]}
    )


def delay_seconds(
    settings: ServiceSettings, *, attempts: int, first: datetime, now: datetime, retry_after: float | None, attempts_max: int
) -> float | None:
    """How long to wait after this many failed attempts, by tenacity's exponential wait with full jitter.

    None when the budget of attempts or of time is spent. What a dependency asks for (Retry-After) is honoured within it.
    """
    if attempts >= attempts_max:
        return None
    if attempts_max == settings.retry_attempts_max and now - first >= timedelta(seconds=settings.retry_budget_seconds):
        return None
    wait = wait_random_exponential(multiplier=settings.retry_first_seconds, max=settings.retry_delay_seconds_max)
    # tenacity's waits look at the attempt number only; a call state needs a retrying object that is never used here.
    state = cast("RetryCallState", _Attempt(attempts))
    return max(wait(state), min(retry_after or 0.0, settings.retry_budget_seconds))


@dataclass(frozen=True, slots=True)
class _Attempt:
    attempt_number: int

"""Dead letters in PostgreSQL.

Whoever changes a dead letter locks its row first: the consumer of proofs, the collector, an operator's act. Rows are inserted where
they are missing and then locked in a second statement, sorted by id, so that the three cannot deadlock and each sees what the other
has committed. History, campaigns and outbox come after that lock.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.deadletters.record import read_original
from dlq_tools.domain import DeadLetter, HistoryEntry, ReplayEnd, State
from dlq_tools.letters import Letter
from dlq_tools.replaying import Replayable
from infra.chassis.service import Finding

ITEM_COLUMNS: Final = """id, queue, type, message_id, correlation_id, subject, kind, error_class, error, attempts,
    first_failed_at, last_failed_at, group_id AS "group", revision, state"""
DETAIL_COLUMNS: Final = """source, operation_id, partner_id, trace, step, replays, service, service_version, identity, signature,
    original, body"""

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
_INSERT_HISTORY = text("""
    INSERT INTO dead_letter_history (dead_letter_id, at, what, actor, reason, detail)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[]), CAST(:words AS text[]), CAST(:actors AS text[]),
        CAST(:reasons AS text[]), CAST(:details AS text[]))
""")
_END_REPLAYS = text("""
    UPDATE campaign_item AS item SET outcome = e.outcome
    FROM unnest(CAST(:ids AS text[]), CAST(:replays AS integer[]), CAST(:outcomes AS text[])) AS e (id, replay, outcome)
    WHERE item.dead_letter_id = e.id AND item.replay <= e.replay AND item.outcome = 'pending'
""")
_COLLECT = text("""
    INSERT INTO collected (key) SELECT DISTINCT key FROM unnest(CAST(:keys AS text[])) AS wanted (key) ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key
""")
_INSERT_CAMPAIGN = text("INSERT INTO campaign (id, actor, reason) VALUES (:id, :actor, :reason)")
_INSERT_ITEMS = text("""
    INSERT INTO campaign_item (campaign_id, dead_letter_id, replay)
    SELECT :campaign, id, replay FROM unnest(CAST(:ids AS text[]), CAST(:replays AS integer[])) AS i (id, replay) ORDER BY id
""")
_CAMPAIGN = text("""
    SELECT campaign.id, actor, reason, created_at, count(item.dead_letter_id) AS items,
        count(*) FILTER (WHERE outcome = 'resolved') AS resolved,
        count(*) FILTER (WHERE outcome = 'failed-again') AS failed_again,
        count(*) FILTER (WHERE outcome = 'pending') AS pending
    FROM campaign LEFT JOIN campaign_item AS item ON item.campaign_id = campaign.id
    WHERE CAST(:id AS text) IS NULL OR campaign.id = :id
    GROUP BY campaign.id ORDER BY created_at DESC LIMIT :limit
""")
_CAMPAIGN_ITEMS = text("""
    SELECT dead_letter_id AS id, replay, outcome FROM campaign_item WHERE campaign_id = :id ORDER BY dead_letter_id
""")
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
_PURGE_COLLECTED = text("""
    DELETE FROM collected WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM collected WHERE collected_at < now() - make_interval(days => :days) LIMIT :rows FOR UPDATE SKIP LOCKED))
""")
_FORGOTTEN = text("""
    SELECT id FROM dead_letter WHERE state = 'replaying' AND replayed_at < now() - interval '1 hour' ORDER BY id LIMIT 1000
""")

PURGE_ROWS_MAX: Final = 5000


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant. None means any; `ids`, where given, restricts to these."""

    ids: tuple[str, ...] | None = None
    queue: str | None = None
    type: str | None = None
    group: str | None = None
    state: str | None = None
    since: datetime | None = None
    correlation_id: str | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """A condition made of fixed parts, and its values."""
        conditions, values = ["state <> 'announced'"], {}
        for name, condition in _CONDITIONS.items():
            value = getattr(self, name)
            if value is not None:
                conditions.append(condition)
                values[name] = list(value) if name == "ids" else value
        return " AND ".join(conditions), values


_CONDITIONS: Final[Mapping[str, str]] = {
    "ids": "id = ANY(CAST(:ids AS text[]))",
    "queue": "queue = :queue",
    "type": "type = :type",
    "group": "group_id = :group",
    "state": "state = :state",
    "since": "last_failed_at >= :since",
    "correlation_id": "correlation_id = :correlation_id",
}


class PostgresDeadLetters:
    """The repository of the consumer of proofs. Facts are HistoryEntry and ReplayEnd."""

    async def load(self, connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, DeadLetter]:
        ids = sorted(set(keys))
        await connection.execute(_INSERT_MISSING, {"ids": ids})
        return {letter.id: letter for letter in await lock(connection, ids)}

    async def save(self, connection: AsyncConnection, changed: Mapping[str, DeadLetter], facts: Sequence[object]) -> None:
        if changed:
            await update_lives(connection, [changed[key] for key in sorted(changed)])
        await insert_history(connection, [fact for fact in facts if isinstance(fact, HistoryEntry)])
        await end_replays(connection, [fact for fact in facts if isinstance(fact, ReplayEnd)])


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


async def collect(connection: AsyncConnection, letters: Sequence[Letter]) -> list[tuple[Letter, DeadLetter]]:
    """Records failures; a copy of one that is known changes nothing. Returns those that opened a dead letter, with its new life."""
    new = set((await connection.execute(_COLLECT, {"keys": [letter.key for letter in letters]})).scalars())
    fresh = [letter for letter in {letter.key: letter for letter in letters}.values() if letter.key in new]
    if not fresh:
        return []
    lives = dict(await PostgresDeadLetters().load(connection, [letter.id for letter in fresh]))
    opened: list[tuple[Letter, DeadLetter]] = []
    history: list[HistoryEntry] = []
    ends: list[ReplayEnd] = []
    for letter in fresh:
        before = lives[letter.id]
        after, what = before.fail(attempts=letter.attempts, replay=letter.replay, at=letter.last_failed_at)
        lives[letter.id] = after
        history.append(_entry(letter, what))
        await connection.execute(_UPDATE_LETTER, _values(letter, after))
        if letter.replay > 0:
            ends.append(ReplayEnd(letter.id, letter.replay, "failed-again"))
        if after.state is State.OPEN and before.state is not State.OPEN:
            opened.append((letter, after))
    await insert_history(connection, history)
    await end_replays(connection, ends)
    return opened


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


async def end_replays(connection: AsyncConnection, ends: Sequence[ReplayEnd]) -> None:
    """Notes the result with every campaign that waits for it. One dead letter's ends are applied in order, each on its own."""
    rounds: list[dict[str, ReplayEnd]] = []
    for end in ends:
        free = next((one for one in rounds if end.dead_letter_id not in one), None)
        if free is None:
            rounds.append(free := {})
        free[end.dead_letter_id] = end
    for batch in rounds:
        values = list(batch.values())
        await connection.execute(
            _END_REPLAYS,
            {
                "ids": [end.dead_letter_id for end in values],
                "replays": [end.replay for end in values],
                "outcomes": [end.outcome for end in values],
            },
        )


async def insert_campaign(
    connection: AsyncConnection, campaign: str, actor: str, reason: str, letters: Sequence[DeadLetter]
) -> None:
    """The frozen set, each item with the number of the replay that it waits for."""
    await connection.execute(_INSERT_CAMPAIGN, {"id": campaign, "actor": actor, "reason": reason})
    values = {
        "campaign": campaign,
        "ids": [letter.id for letter in letters],
        "replays": [letter.replays for letter in letters],
    }
    await connection.execute(_INSERT_ITEMS, values)


async def campaigns(connection: AsyncConnection, campaign: str | None, limit: int) -> list[dict[str, Any]]:
    """Newest first, with their figures; `running` while an item waits for its result."""
    rows = await connection.execute(_CAMPAIGN, {"id": campaign, "limit": limit})
    return [
        {
            "campaign": row.id,
            "items": row.items,
            "resolved": row.resolved,
            "failed_again": row.failed_again,
            "pending": row.pending,
            "state": "running" if row.pending else "finished",
            "reason": row.reason,
            "actor": row.actor,
            "created_at": row.created_at,
        }
        for row in rows
    ]


async def campaign_items(connection: AsyncConnection, campaign: str) -> list[dict[str, Any]]:
    rows = await connection.execute(_CAMPAIGN_ITEMS, {"id": campaign})
    return [dict(row._mapping) for row in rows]


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


async def purge_collected(connection: AsyncConnection, days: int) -> None:
    await connection.execute(_PURGE_COLLECTED, {"days": days, "rows": PURGE_ROWS_MAX})


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """Replays of which nobody has heard again."""
    rows = await connection.execute(_FORGOTTEN)
    return [Finding("unanswered", row.id, "its replay has had no result for an hour", f"dlq show {row.id}") for row in rows]


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


def _entry(letter: Letter, what: str) -> HistoryEntry:
    return HistoryEntry(
        dead_letter_id=letter.id,
        at=letter.last_failed_at,
        what=what,
        actor=f"service:{letter.service}" if letter.kind != "broker" else "broker",
        detail={
            "kind": letter.kind,
            "error_class": letter.error_class,
            "error": letter.error,
            "attempts": letter.attempts,
            "replay": letter.replay,
            "message_id": letter.message_id,
            "first_failed_at": letter.first_failed_at.isoformat(),
        },
    )


def _values(letter: Letter, after: DeadLetter) -> dict[str, Any]:
    signature = letter.signature
    return {
        "id": letter.id,
        "state": after.state.value,
        "attempts": after.attempts,
        "failed_at": after.failed_at,
        "first_failed_at": letter.first_failed_at,
        "queue": letter.queue,
        "type": letter.type,
        "correlation_id": letter.correlation_id,
        "operation_id": letter.operation_id,
        "subject": letter.subject,
        "partner_id": letter.partner_id,
        "kind": letter.kind,
        "error_class": letter.error_class,
        "error": letter.error,
        "trace": letter.trace,
        "step": letter.step,
        "revision": letter.revision,
        "service": letter.service,
        "service_version": letter.service_version,
        "identity": list(letter.identity),
        "group_id": signature.group,
        "signature": signature.text,
        "message_id": letter.message_id,
        "source": letter.source,
        "replay": letter.replay,
        "original": letter.original,
        "body": letter.body,
    }

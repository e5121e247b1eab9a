"""Sagas in PostgreSQL, a batch at a time; their history; and the definitions that they are pinned to."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import structlog
from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.hot_connection import write
from infra.chassis.service import Finding
from orchestrator.catalogue import Catalogue
from orchestrator.definition import load
from orchestrator.instance import AT_REST, Instance
from orchestrator.ports import ActVerdict, HistoryRow
from orchestrator.source import DefinitionError

F = TypeVar("F")
log = structlog.get_logger()

# What is inserted here is this transaction's own. What another transaction inserts at this moment is in neither part: the
# insert waits for it and finds it there, too late for the snapshot of this statement.
_LOCK_OR_INSERT = text("""
    WITH known AS (
        SELECT saga_id, CAST(document AS text) AS document FROM workflow_instance
        WHERE saga_id = ANY(CAST(:sagas AS text[])) ORDER BY saga_id FOR UPDATE
    ), made AS (
        INSERT INTO workflow_instance (saga_id)
        SELECT saga_id FROM unnest(CAST(:sagas AS text[])) AS wanted (saga_id)
        WHERE saga_id NOT IN (SELECT saga_id FROM known) ORDER BY saga_id
        ON CONFLICT DO NOTHING
        RETURNING saga_id
    )
    SELECT saga_id, document FROM known UNION ALL SELECT saga_id, '{}' FROM made
""")

# The row of the saga is the lock: an answer, a timer and an operator's act for one saga queue up here, and each
# sees what the one before it has left.
_LOCK = text("""
    SELECT saga_id, CAST(document AS text) FROM workflow_instance
    WHERE saga_id = ANY(CAST(:sagas AS text[])) ORDER BY saga_id FOR UPDATE
""")

# An indexed column that changes with every answer would make every update touch all indexes. So a timer that lies before the
# one now wanted is left where it is: it fires for nothing, the engine finds nothing due, and settling moves it on.
_UPDATE = write("""
    UPDATE workflow_instance AS instance
    SET state = changed.state, finished = changed.finished,
        next_timer_at = CASE
            WHEN changed.finished OR instance.next_timer_at IS NULL OR instance.next_timer_at <= now()
                OR changed.next_timer_at < instance.next_timer_at
            THEN changed.next_timer_at ELSE instance.next_timer_at END,
        workflow = changed.workflow, version = changed.version, subject = changed.subject, partner = changed.partner,
        owner = changed.owner, started_at = changed.started_at, finished_at = changed.finished_at,
        document = CAST(changed.document AS json)
    FROM unnest(
        CAST(:sagas AS text[]), CAST(:states AS text[]), CAST(:finished AS boolean[]), CAST(:timers AS timestamptz[]),
        CAST(:workflows AS text[]), CAST(:versions AS integer[]), CAST(:subjects AS text[]), CAST(:partners AS text[]),
        CAST(:owners AS text[]), CAST(:started AS timestamptz[]), CAST(:ended AS timestamptz[]), CAST(:documents AS text[])
    ) AS changed (
        saga_id, state, finished, next_timer_at, workflow, version, subject, partner, owner, started_at, finished_at, document
    )
    WHERE instance.saga_id = changed.saga_id
""")

# WITH ORDINALITY: the position of a line is the order in which things happened.
_INSERT_HISTORY = write("""
    INSERT INTO workflow_history (saga_id, at, kind, step, message_id, detail)
    SELECT saga_id, at, kind, step, message_id, CAST(detail AS json)
    FROM unnest(
        CAST(:sagas AS text[]), CAST(:moments AS timestamptz[]), CAST(:kinds AS text[]), CAST(:steps AS text[]),
        CAST(:messages AS text[]), CAST(:details AS text[])
    ) WITH ORDINALITY AS line (saga_id, at, kind, step, message_id, detail, number)
    ORDER BY number
""")

_DECIDE_ACTS = text("""
    UPDATE operator_act AS act
    SET state = CASE WHEN decided.accepted THEN 'accepted' ELSE 'refused' END, detail = decided.detail, decided_at = decided.at
    FROM unnest(
        CAST(:acts AS text[]), CAST(:accepted AS boolean[]), CAST(:details AS text[]), CAST(:moments AS timestamptz[])
    ) AS decided (act_id, accepted, detail, at)
    -- A verdict stands: a batch taken again after a lost COMMIT reply must not turn it round.
    WHERE act.act_id = decided.act_id AND act.state = 'open'
""")

_PUBLISH = text("""
    INSERT INTO workflow_definition (workflow, version, content_hash, document)
    SELECT workflow, version, content_hash, document
    FROM unnest(
        CAST(:workflows AS text[]), CAST(:versions AS integer[]), CAST(:hashes AS text[]), CAST(:documents AS text[])
    ) AS said (workflow, version, content_hash, document)
    ORDER BY workflow, version
    ON CONFLICT DO NOTHING
""")

_DEFINITIONS = text("SELECT workflow, version, content_hash, document FROM workflow_definition ORDER BY workflow, version")

# The document too: a timer that nobody here can decide is moved on again and again, and its own moment stays behind.
_OVERDUE = text("""
    SELECT saga_id, state, due FROM (
        SELECT saga_id, state, LEAST(next_timer_at, CAST(document ->> 'next_timer_at' AS timestamptz)) AS due
        FROM workflow_instance WHERE NOT finished
    ) AS unfinished
    WHERE due < now() - interval '5 minutes' ORDER BY due LIMIT 1000
""")


class PostgresSagas:
    """Repository[str, Instance]. A saga never heard of is absent.

    Before the first use the definitions of the files are published. What the database has under a name and version is
    what that version says, whatever a file says now: sagas are running on it.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._published = False

    async def load(self, connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, Instance]:
        if not self._published:
            await self._publish(connection)
            self._published = True
        wanted = set(keys)
        found: dict[str, str] = dict((await connection.execute(_LOCK_OR_INSERT, {"sagas": sorted(wanted)})).all())
        if missed := sorted(wanted - found.keys()):
            found |= dict((await connection.execute(_LOCK, {"sagas": missed})).all())
        instances = {
            saga: Instance(saga) if document == "{}" else Instance.from_bytes(document) for saga, document in found.items()
        }
        pinned = {(one.workflow, one.version) for one in instances.values() if one.workflow}
        if any(version not in self._catalogue for version in pinned):
            await self._learn(connection)
        return instances

    async def save(self, connection: AsyncConnection, changed: Mapping[str, Instance], facts: Sequence[object]) -> None:
        """At most one statement per kind."""
        if changed:
            await _update(connection, list(changed.values()))
        if lines := _of(facts, HistoryRow):
            await _insert_history(connection, lines)
        if verdicts := _of(facts, ActVerdict):
            await _decide_acts(connection, verdicts)

    async def _publish(self, connection: AsyncConnection) -> None:
        workflows = sorted(self._catalogue, key=lambda workflow: (workflow.name, workflow.version))
        await connection.execute(
            _PUBLISH,
            {
                "workflows": [workflow.name for workflow in workflows],
                "versions": [workflow.version for workflow in workflows],
                "hashes": [workflow.content_hash for workflow in workflows],
                "documents": [workflow.source for workflow in workflows],
            },
        )
        mine = {(workflow.name, workflow.version): workflow.content_hash for workflow in workflows}
        for name, version, content_hash, document in await connection.execute(_DEFINITIONS):
            if mine.get((name, version), content_hash) != content_hash:
                log.error(
                    "definition_was_published_with_other_content",
                    workflow=name,
                    version=version,
                    remedy="give the changed definition the next version number; the published one stays in use",
                )
                self._add(name, version, document)

    async def _learn(self, connection: AsyncConnection) -> None:
        for name, version, _, document in await connection.execute(_DEFINITIONS):
            if (name, version) not in self._catalogue:
                self._add(name, version, document)

    def _add(self, name: str, version: int, document: str) -> None:
        try:
            self._catalogue.add(load(document, f"{name}/v{version}.yaml (published)"))
        except DefinitionError as error:
            # A newer replica may have published words that this one has not learnt: its sagas are left to it.
            log.error("definition_not_understood", workflow=name, version=version, findings=str(error)[:2000])


async def reconcile(connection: AsyncConnection) -> list[Finding]:
    """Sagas whose timer should have fired long ago. Reads only."""
    return [
        Finding(
            kind="unanswered",
            id=saga,
            detail=f"is {state} and should have been looked at by {due:%Y-%m-%dT%H:%M:%SZ}",
            command=f"tutti saga show {saga}",
        )
        for saga, state, due in await connection.execute(_OVERDUE)
    ]


async def _update(connection: AsyncConnection, instances: Sequence[Instance]) -> None:
    columns: dict[str, list[Any]] = {
        "sagas": [one.id for one in instances],
        "states": [one.state.value for one in instances],
        "finished": [one.state in AT_REST for one in instances],
        "timers": [one.next_timer_at for one in instances],
        "workflows": [one.workflow for one in instances],
        "versions": [one.version for one in instances],
        "subjects": [one.subject for one in instances],
        "partners": [one.partner for one in instances],
        "owners": [one.stuck.owner if one.stuck else None for one in instances],
        "started": [one.started_at for one in instances],
        "ended": [one.finished_at for one in instances],
        "documents": [one.to_bytes().decode() for one in instances],
    }
    await connection.execute(_UPDATE, columns)


async def _insert_history(connection: AsyncConnection, rows: Sequence[HistoryRow]) -> None:
    await connection.execute(
        _INSERT_HISTORY,
        {
            "sagas": [row.saga_id for row in rows],
            "moments": [row.at for row in rows],
            "kinds": [row.line.kind for row in rows],
            "steps": [row.line.step for row in rows],
            "messages": [row.line.message_id for row in rows],
            "details": [to_json(row.line.detail).decode() for row in rows],
        },
    )


async def _decide_acts(connection: AsyncConnection, verdicts: Sequence[ActVerdict]) -> None:
    await connection.execute(
        _DECIDE_ACTS,
        {
            "acts": [verdict.act_id for verdict in verdicts],
            "accepted": [verdict.accepted for verdict in verdicts],
            "details": [verdict.detail for verdict in verdicts],
            "moments": [verdict.at for verdict in verdicts],
        },
    )


def _of(facts: Sequence[object], kind: type[F]) -> list[F]:
    return [fact for fact in facts if isinstance(fact, kind)]

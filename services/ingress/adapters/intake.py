"""Key, order and stored answer in one statement, for a whole batch of requests.

    asked ──> claimed (keys, sorted) ──> created (orders, sorted)         the outbox rows follow, before the commit
                 │ taken                    │ name taken
                 ▼                          ▼
              compare the stored          withdraw the key again,
              fingerprint                 tell the existing order

A key that another transaction is inserting at this moment makes the insert wait for that transaction, at most
`patience`: after its commit the key is taken, after its rollback it is ours. The stored answers are read in a second
statement, because the snapshot of the first is older than the wait. Keys come before orders and both are sorted, so
that two batches cannot wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingress.domain import Accepted, Duplicate, InProgress, KeyReused, NaturalKey, Outcome, Replayed
from services.ingress.intake import Application

ROUTE: Final = "POST /v1/orders"

# The sorts make each insert wait until everything below it has been read; so the lock timeout is set before any lock
# is asked for.
_STORE = text("""
    WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', :patience, true)),
    asked AS MATERIALIZED (
        SELECT asked.*
        FROM patience, unnest(
            CAST(:partners AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS bytea[]), CAST(:answers AS bytea[]),
            CAST(:orders AS text[]), CAST(:correlations AS text[]), CAST(:numbers AS text[]), CAST(:buyers AS text[]),
            CAST(:revisions AS integer[]), CAST(:moments AS timestamptz[]), CAST(:expected AS timestamptz[])
        ) AS asked (partner_id, key, fingerprint, answer, order_id, correlation_id, order_number, buyer_id, revision,
            accepted_at, expected_by)
    ),
    claimed AS (
        INSERT INTO idempotency_key (partner_id, route, key, fingerprint, order_id, correlation_id, answer)
        SELECT partner_id, :route, key, fingerprint, order_id, correlation_id, answer
        FROM asked ORDER BY partner_id, key
        ON CONFLICT DO NOTHING
        RETURNING order_id
    ),
    created AS (
        INSERT INTO partner_order (
            order_id, partner_id, correlation_id, order_number, buyer_id, revision, accepted_at, expected_by)
        SELECT order_id, partner_id, correlation_id, order_number, buyer_id, revision, accepted_at, expected_by
        FROM asked JOIN claimed USING (order_id)
        ORDER BY partner_id, order_number, buyer_id, revision
        ON CONFLICT DO NOTHING
        RETURNING order_id
    )
    SELECT claimed.order_id, created.order_id IS NOT NULL AS created FROM claimed LEFT JOIN created USING (order_id)
""")

_STORED = text("""
    SELECT stored.partner_id, stored.key, stored.fingerprint, stored.order_id, stored.correlation_id, stored.answer
    FROM idempotency_key AS stored
    JOIN unnest(CAST(:partners AS text[]), CAST(:keys AS text[])) AS asked (partner_id, key)
        ON stored.partner_id = asked.partner_id AND stored.route = :route AND stored.key = asked.key
""")

_WITHDRAW = text("""
    DELETE FROM idempotency_key AS stored
    USING unnest(CAST(:partners AS text[]), CAST(:keys AS text[])) AS asked (partner_id, key)
    WHERE stored.partner_id = asked.partner_id AND stored.route = :route AND stored.key = asked.key
""")

_EXISTING = text("""
    SELECT known.partner_id, known.order_number, known.buyer_id, known.revision, known.order_id, known.correlation_id
    FROM partner_order AS known
    JOIN unnest(
        CAST(:partners AS text[]), CAST(:numbers AS text[]), CAST(:buyers AS text[]), CAST(:revisions AS integer[])
    ) AS asked (partner_id, order_number, buyer_id, revision) USING (partner_id, order_number, buyer_id, revision)
""")

_PURGE = text("""
    DELETE FROM idempotency_key WHERE ctid IN (
        SELECT ctid FROM idempotency_key WHERE created_at < now() - make_interval(days => :days) LIMIT :rows
    )
""")


async def store(connection: AsyncConnection, applications: Sequence[Application], *, patience_ms: int) -> Sequence[Outcome]:
    """One outcome per application, in their order. One statement where all are new, up to four otherwise.

    Raises the driver's lock timeout when a key or an order is being handled elsewhere for longer than `patience_ms`;
    the transaction has then to be rolled back.
    """
    rows = await connection.execute(_STORE, _columns(applications) | {"patience": f"{patience_ms}ms"})
    created = {order_id: bool(is_new) for order_id, is_new in rows}
    outcomes: dict[int, Outcome] = {}
    taken: list[int] = []
    unnamed: list[int] = []
    for index, application in enumerate(applications):
        order = application.order
        if created.get(order.order_id):
            outcomes[index] = Accepted(order.order_id, order.correlation_id, application.answer)
        else:
            (unnamed if order.order_id in created else taken).append(index)
    if unnamed:
        outcomes |= await _duplicates(connection, {index: applications[index] for index in unnamed})
    if taken:
        outcomes |= await _stored(connection, {index: applications[index] for index in taken})
    return [outcomes[index] for index in range(len(applications))]


async def existing_orders(connection: AsyncConnection, names: Sequence[NaturalKey]) -> Mapping[NaturalKey, tuple[str, str]]:
    """Order id and correlation id of those names that are taken."""
    rows = await connection.execute(_EXISTING, _name_columns(names))
    return {NaturalKey(*name): (order_id, correlation_id) for *name, order_id, correlation_id in rows}


async def purge_keys(connection: AsyncConnection, *, days: int, rows_max: int) -> int:
    """Forgets keys older than `days`, at most `rows_max`, says how many. A repetition then meets the order's name."""
    result = await connection.execute(_PURGE, {"days": days, "rows": rows_max})
    return int(result.rowcount)


async def _duplicates(connection: AsyncConnection, asked: Mapping[int, Application]) -> Mapping[int, Outcome]:
    # A refused request leaves no key behind: the order's name refuses its repetition just as well.
    await connection.execute(_WITHDRAW, _key_columns(list(asked.values())))
    known = await existing_orders(connection, [application.order.name for application in asked.values()])
    return {
        index: Duplicate(*known[application.order.name]) if application.order.name in known else InProgress()
        for index, application in asked.items()
    }


async def _stored(connection: AsyncConnection, asked: Mapping[int, Application]) -> Mapping[int, Outcome]:
    rows = await connection.execute(_STORED, _key_columns(list(asked.values())))
    stored = {(partner_id, key): rest for partner_id, key, *rest in rows}
    outcomes: dict[int, Outcome] = {}
    for index, application in asked.items():
        found = stored.get((application.order.partner_id, application.key))
        if found is None:
            # Withdrawn or purged since our insert met it: the partner's next attempt will find the key free.
            outcomes[index] = InProgress()
            continue
        fingerprint, order_id, correlation_id, answer = found
        same = bytes(fingerprint) == application.fingerprint
        outcomes[index] = Replayed(order_id, correlation_id, bytes(answer)) if same else KeyReused()
    return outcomes


def _columns(applications: Sequence[Application]) -> dict[str, Any]:
    orders = [application.order for application in applications]
    return {
        **_key_columns(applications),
        **_name_columns([order.name for order in orders]),
        "fingerprints": [application.fingerprint for application in applications],
        "answers": [application.answer for application in applications],
        "orders": [order.order_id for order in orders],
        "correlations": [order.correlation_id for order in orders],
        "moments": [order.accepted_at for order in orders],
        "expected": [order.expected_by for order in orders],
    }


def _key_columns(applications: Sequence[Application]) -> dict[str, Any]:
    return {
        "partners": [application.order.partner_id for application in applications],
        "keys": [application.key for application in applications],
        "route": ROUTE,
    }


def _name_columns(names: Sequence[NaturalKey]) -> dict[str, Any]:
    return {
        "partners": [name.partner_id for name in names],
        "numbers": [name.order_number for name in names],
        "buyers": [name.buyer_id for name in names],
        "revisions": [name.revision for name in names],
    }

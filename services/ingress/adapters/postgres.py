"""Orders as partners see them, in PostgreSQL: read one by one for HTTP, loaded and saved in batches for the loop."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import to_json
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import Money, Reason
from services.ingress.adapters.intake import existing_orders
from services.ingress.domain import NaturalKey, Order, Parcel, Step, Submission

_REASONS: Final = TypeAdapter(tuple[Reason, ...])
_PARCELS: Final = TypeAdapter(tuple[Parcel, ...])
_STEPS: Final = TypeAdapter(tuple[Step, ...])

_FIND = text("SELECT * FROM partner_order WHERE order_id = :order_id AND partner_id = :partner_id")
# A statement is planned once for all values, so it has only the conditions that are asked for.
_PAGE: Final = "SELECT * FROM partner_order WHERE {} ORDER BY order_id DESC LIMIT :rows"
_CONDITIONS: Final = {
    "partner_id": "partner_id = :partner_id",
    "after": 'order_id < :after COLLATE "C"',
    "order_number": "order_number = :order_number",
    "status": "status = :status",
}
_FINISHED = text("""
    SELECT * FROM partner_order WHERE order_id = ANY(CAST(:order_ids AS text[])) AND finished_at IS NOT NULL
""")
# The order may have moved on since it was read: what has ended keeps its end, what unwinds does not run again.
_REMEMBER = text("""
    UPDATE partner_order
    SET steps = :steps,
        status = CASE
            WHEN finished_at IS NOT NULL THEN status
            WHEN status IN ('compensating', 'stuck')
                AND CAST(:status AS text) NOT IN ('compensating', 'stuck') THEN status
            ELSE CAST(:status AS text) END,
        stage = CASE WHEN finished_at IS NULL THEN CAST(:stage AS text) ELSE stage END,
        expected_by = CASE WHEN finished_at IS NULL THEN CAST(:expected_by AS timestamptz) ELSE expected_by END
    WHERE order_id = :order_id AND (finished_at IS NULL OR CAST(:finished AS boolean))
""")
_LOCK = text("""
    SELECT * FROM partner_order WHERE order_id = ANY(CAST(:order_ids AS text[])) ORDER BY order_id FOR UPDATE
""")
_UPDATE = text("""
    UPDATE partner_order AS known
    SET status = changed.status, stage = changed.stage, finished_at = changed.finished_at,
        total_minor = changed.total_minor, total_currency = changed.total_currency, reasons = changed.reasons,
        shipments = changed.shipments
    FROM unnest(
        CAST(:order_ids AS text[]), CAST(:statuses AS text[]), CAST(:stages AS text[]), CAST(:moments AS timestamptz[]),
        CAST(:totals AS bigint[]), CAST(:currencies AS text[]), CAST(:reasons AS text[]), CAST(:shipments AS text[])
    ) AS changed (order_id, status, stage, finished_at, total_minor, total_currency, reasons, shipments)
    WHERE known.order_id = changed.order_id
""")
_BROKER_USERS = text("SELECT partner_id, broker_users FROM partner WHERE partner_id = ANY(CAST(:partner_ids AS text[]))")
_CREATE = text("""
    INSERT INTO partner_order (
        order_id, partner_id, correlation_id, order_number, buyer_id, revision, accepted_at, expected_by)
    SELECT * FROM unnest(
        CAST(:order_ids AS text[]), CAST(:partners AS text[]), CAST(:correlations AS text[]), CAST(:numbers AS text[]),
        CAST(:buyers AS text[]), CAST(:revisions AS integer[]), CAST(:moments AS timestamptz[]),
        CAST(:expected AS timestamptz[])
    ) AS new (order_id, partner_id, correlation_id, order_number, buyer_id, revision, accepted_at, expected_by)
    ORDER BY partner_id, order_number, buyer_id, revision
""")


async def find_order(connection: AsyncConnection, partner_id: str, order_id: str) -> Order | None:
    """None for an id that does not exist and for one of another partner: the query knows no difference."""
    row = (await connection.execute(_FIND, {"order_id": order_id, "partner_id": partner_id})).first()
    return _order(row) if row else None


async def page_of_orders(
    connection: AsyncConnection,
    partner_id: str,
    *,
    order_number: str | None,
    status: str | None,
    after: str | None,
    limit: int,
) -> Sequence[Order]:
    """The partner's orders, newest first, those older than the order `after`. At most `limit`."""
    filters = {"partner_id": partner_id, "order_number": order_number, "status": status, "after": after}
    given = {name: value for name, value in filters.items() if value is not None}
    statement = text(_PAGE.format(" AND ".join(_CONDITIONS[name] for name in given)))
    return [_order(row) for row in await connection.execute(statement, {**given, "rows": limit})]


async def finished_orders(connection: AsyncConnection, order_ids: Sequence[str]) -> Sequence[Order]:
    """Those of the given orders that have ended."""
    return [_order(row) for row in await connection.execute(_FINISHED, {"order_ids": list(order_ids)})]


async def remember_progress(connection: AsyncConnection, order: Order) -> None:
    """Keeps what the orchestrator said, for the time when it cannot be asked. An order that has ended keeps its end."""
    await connection.execute(
        _REMEMBER,
        {
            "order_id": order.order_id,
            "steps": _STEPS.dump_json(order.steps).decode(),
            "status": order.status,
            "stage": order.stage,
            "expected_by": order.expected_by,
            "finished": order.finished,
        },
    )


class PostgresOrders:
    """Repository for `ingress.events`: order ids have an Order or None, names have a Submission."""

    async def load(
        self, connection: AsyncConnection, keys: Sequence[str | NaturalKey]
    ) -> Mapping[str | NaturalKey, Order | Submission | None]:
        order_ids = sorted({key for key in keys if isinstance(key, str)})
        names = sorted({key for key in keys if isinstance(key, NaturalKey)})
        found: dict[str | NaturalKey, Order | Submission | None] = dict.fromkeys(order_ids)
        if order_ids:
            rows = await connection.execute(_LOCK, {"order_ids": order_ids})
            found |= {row.order_id: _order(row) for row in rows}
        if names:
            for name, submission in (await _submissions(connection, names)).items():
                found[name] = submission
        return found

    async def save(
        self,
        connection: AsyncConnection,
        changed: Mapping[str | NaturalKey, Order | Submission | None],
        facts: Sequence[object],
    ) -> None:
        """Raises the driver's unique violation when an order of the same name was created meanwhile over HTTP.

        A name that is free cannot be locked, so the constraint decides. The loop then takes the batch again one by
        one, and finds the name taken when it loads.
        """
        ended = [order for order in changed.values() if isinstance(order, Order)]
        if ended:
            await connection.execute(_UPDATE, _end_columns(ended))
        created = [fact for fact in facts if isinstance(fact, Order)]
        if created:
            await connection.execute(_CREATE, _new_columns(created))


async def _submissions(connection: AsyncConnection, names: Sequence[NaturalKey]) -> Mapping[NaturalKey, Submission]:
    rows = await connection.execute(_BROKER_USERS, {"partner_ids": sorted({name.partner_id for name in names})})
    users = {partner_id: frozenset(broker_users) for partner_id, broker_users in rows}
    taken = await existing_orders(connection, names)
    return {
        name: Submission(users.get(name.partner_id, frozenset()), taken[name][0] if name in taken else None) for name in names
    }


def _end_columns(orders: Sequence[Order]) -> dict[str, Any]:
    return {
        "order_ids": [order.order_id for order in orders],
        "statuses": [order.status for order in orders],
        "stages": [order.stage for order in orders],
        "moments": [order.finished_at for order in orders],
        "totals": [order.total.amount_minor if order.total else None for order in orders],
        "currencies": [order.total.currency if order.total else None for order in orders],
        "reasons": [to_json(order.reasons).decode() for order in orders],
        "shipments": [_PARCELS.dump_json(order.shipments).decode() for order in orders],
    }


def _new_columns(orders: Sequence[Order]) -> dict[str, Any]:
    return {
        "order_ids": [order.order_id for order in orders],
        "partners": [order.partner_id for order in orders],
        "correlations": [order.correlation_id for order in orders],
        "numbers": [order.name.order_number for order in orders],
        "buyers": [order.name.buyer_id for order in orders],
        "revisions": [order.name.revision for order in orders],
        "moments": [order.accepted_at for order in orders],
        "expected": [order.expected_by for order in orders],
    }


def _order(row: Row[Any]) -> Order:
    return Order(
        order_id=row.order_id,
        name=NaturalKey(row.partner_id, row.order_number, row.buyer_id, row.revision),
        correlation_id=row.correlation_id,
        accepted_at=row.accepted_at,
        status=row.status,
        stage=row.stage,
        expected_by=row.expected_by,
        finished_at=row.finished_at,
        total=None if row.total_minor is None else Money(amount_minor=row.total_minor, currency=row.total_currency),
        reasons=() if row.reasons == "[]" else _REASONS.validate_json(row.reasons),
        shipments=() if row.shipments == "[]" else _PARCELS.validate_json(row.shipments),
        steps=() if row.steps == "[]" else _STEPS.validate_json(row.steps),
    )

"""Walls that stand when everything before them has failed: unique keys of the domain tables, and the lock of the relay's sweeper."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.relay import SWEEP
from infra.chassis.schema import upgrade
from tests.support.ledger_bench import connect

SECOND_EFFECTS = {
    "credit": """
        INSERT INTO credit.credit_hold (operation_id, order_id, buyer_id, currency, amount_minor, placed_at)
        VALUES ('saga:reserve-credit', $1, 'C-1', 'EUR', 100, now())
    """,
    "inventory": """
        INSERT INTO inventory.reservation (operation_id, order_id, sku, warehouse, quantity)
        VALUES ('saga:reserve-stock', $1, 'P-1', 'W-HAM', 1)
    """,
    "fulfillment": """
        INSERT INTO fulfillment.parcel (operation_id, order_id, warehouse, carrier, external, state, tracking)
        VALUES ('saga:ship', $1, 'W-HAM', 'own-fleet', false, 'booked', 'T-1')
    """,
}


@pytest.mark.parametrize("service", sorted(SECOND_EFFECTS))
async def test_a_second_effect_of_one_operation_is_refused_by_its_table(database_url: str, service: str) -> None:
    await upgrade(database_url, service, f"services.{service}")
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(SECOND_EFFECTS[service], "ord_1")

        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(SECOND_EFFECTS[service], "ord_1")
    finally:
        await connection.close()


LEFT_BEHIND = text("""
    INSERT INTO outbox (message_id, exchange, routing_key, type, correlation_id, content_type, body, created_at)
    SELECT 'm-' || n, 'events', 'credit.credit-released.v1', 'credit.credit-released.v1', 'saga', 'application/json', '', now() - interval '1 min'
    FROM generate_series(1, 20) AS n
""")
SWEEP_VALUES = {"lease": 60.0, "age": 1.0, "held": [], "limit": 10}
OVERLAP_SECONDS = 0.5


async def test_two_sweepers_at_the_same_moment_take_different_rows(database_url: str) -> None:
    await upgrade(database_url, "credit", "services.credit")
    engine = connect(database_url)
    try:
        async with engine.begin() as connection:
            await connection.execute(LEFT_BEHIND)
        async with engine.connect() as first, engine.connect() as second:
            taken = await _swept(first)
            # The first has not committed yet. The second either passes its rows over, or waits for them and then takes them as well.
            meanwhile = asyncio.create_task(_swept(second))
            await asyncio.wait({meanwhile}, timeout=OVERLAP_SECONDS)
            await first.commit()
            taken_meanwhile = await meanwhile
            await second.commit()
    finally:
        await engine.dispose()

    assert (len(taken), len(taken_meanwhile)) == (10, 10)
    assert not taken & taken_meanwhile


async def _swept(connection: AsyncConnection) -> set[str]:
    return {row.message_id for row in await connection.execute(SWEEP, SWEEP_VALUES)}

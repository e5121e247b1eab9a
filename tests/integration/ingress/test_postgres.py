"""The orders that ingress knows, in PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.hot_connection import hot_transaction
from services.ingress.adapters.partners import create_partner
from services.ingress.adapters.postgres import PostgresOrders
from services.ingress.domain import NaturalKey, Order
from tests.support.schemas import migrated
from tests.support.suites.repository import LockingPromises, RepositoryPromises

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDERS = PostgresOrders()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "ingress", "services.ingress") as engine:
        async with engine.begin() as connection:
            await create_partner(connection, "acme")
        yield engine


def order(order_id: str) -> Order:
    return Order(order_id, NaturalKey("acme", order_id, "C-1", 0), correlation_id=order_id, accepted_at=NOW)


class TestOrders(LockingPromises):
    """An order is created with its facts; an id never heard of is nobody's order."""

    repository = ORDERS

    def keys(self, count: int, mark: str) -> list[str]:
        return [f"ord_{mark}-{number:02}" for number in range(count)]

    def changed(self, states: Mapping[str, Order | None]) -> dict[str, Order]:
        return {key: replace(one or order(key), status="cancelled", finished_at=NOW) for key, one in states.items()}

    async def stored(self, engine: AsyncEngine, keys: Sequence[str]) -> None:
        async with hot_transaction(engine) as connection:
            known = await ORDERS.load(connection, keys)
            await ORDERS.save(connection, {}, [order(key) for key in keys if known[key] is None])


class TestNames(RepositoryPromises):
    """A name that is free cannot be locked: its constraint decides."""

    repository = ORDERS

    def keys(self, count: int, mark: str) -> list[NaturalKey]:
        return [NaturalKey("acme", f"{mark}-{number}", "C-1", 0) for number in range(count)]

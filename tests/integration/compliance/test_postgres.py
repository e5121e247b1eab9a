from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from infra.chassis.schema import async_url, upgrade
from services.compliance.adapters.list_source import ListSource
from services.compliance.adapters.postgres import PostgresScreenings
from services.compliance.domain import Outcome
from services.compliance.screening import ScreeningRecord
from services.compliance.settings import SAMPLE_LISTS

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LISTS = ListSource(SAMPLE_LISTS, SAMPLE_LISTS)
SCREENINGS = PostgresScreenings(LISTS.current)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    await upgrade(database_url, "compliance", "services.compliance")
    engine = create_async_engine(async_url(database_url), connect_args={"server_settings": {"search_path": "compliance"}})
    yield engine
    await engine.dispose()


def record(operation: str, verdict: Outcome = Outcome.CLEARED, score: int | None = None) -> ScreeningRecord:
    return ScreeningRecord(operation, "ord_1", LISTS.current().version, verdict, score, NOW)


async def test_every_order_of_a_batch_sees_the_lists_in_force(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        states = await SCREENINGS.load(connection, ["in-force", "in-force"])

    assert states == {"in-force": LISTS.current()}


async def test_screenings_stay_on_record_with_and_without_a_score(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await SCREENINGS.save(connection, {}, [])
        await SCREENINGS.save(connection, {}, [record("s2:screen"), record("s1:screen", Outcome.BLOCKED, 97)])
        rows = (await connection.execute(text("SELECT * FROM screening ORDER BY operation_id"))).all()

    version = LISTS.current().version
    assert [tuple(row) for row in rows] == [
        ("s1:screen", "ord_1", version, "blocked", 97, NOW),
        ("s2:screen", "ord_1", version, "cleared", None, NOW),
    ]


async def test_a_second_screening_for_one_operation_is_forbidden_by_name(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError, match="screening_one_per_operation"):
        async with engine.begin() as connection:
            await SCREENINGS.save(connection, {}, [record("s1:screen"), record("s1:screen")])

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.outbox import new_id
from services.compliance.adapters.list_source import ListSource
from services.compliance.adapters.postgres import PostgresScreenings
from services.compliance.domain import Outcome
from services.compliance.screening import ScreeningRecord
from services.compliance.settings import SAMPLE_LISTS
from tests.support.schemas import migrated
from tests.support.suites.repository import RepositoryPromises

pytest_plugins = ["tests.support.servers"]
pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LISTS = ListSource(SAMPLE_LISTS, SAMPLE_LISTS)
SCREENINGS = PostgresScreenings(LISTS.current)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "compliance", "services.compliance") as engine:
        yield engine


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


class TestScreenings(RepositoryPromises):
    repository = SCREENINGS

    def keys(self, count: int, mark: str) -> list[str]:
        return [f"{mark}-{number}" for number in range(count)]

    def facts(self, keys: Sequence[str]) -> list[ScreeningRecord]:
        return [record(new_id()) for _ in keys]

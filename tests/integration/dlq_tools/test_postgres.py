"""Dead letters in PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from dlq_tools.adapters.letters import PostgresDeadLetters
from dlq_tools.domain import DeadLetter, HistoryEntry, ReplayEnd
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.schemas import migrated
from tests.support.suites.repository import InsertingPromises

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with migrated(database_url, "deadletters", "dlq_tools") as engine:
        yield engine


class TestDeadLetters(InsertingPromises):
    repository = PostgresDeadLetters()

    def keys(self, count: int, mark: str) -> list[str]:
        return [f"dl_{mark}-{number:02}" for number in range(count)]

    def changed(self, states: Mapping[str, DeadLetter]) -> dict[str, DeadLetter]:
        # As a proof does that comes before its failure: the letter is only announced yet.
        return {key: replace(one, proved_at=NOW) for key, one in states.items()}

    def facts(self, keys: Sequence[str]) -> list[HistoryEntry | ReplayEnd]:
        return [*(HistoryEntry(key, NOW, "resolved", "tester") for key in keys), *(ReplayEnd(key, 1, "resolved") for key in keys)]

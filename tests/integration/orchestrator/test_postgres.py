"""Sagas in PostgreSQL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.adapters.postgres import PostgresSagas
from orchestrator.catalogue import Catalogue
from orchestrator.definition import load_all
from orchestrator.engine import History
from orchestrator.instance import Instance, State
from orchestrator.ports import HistoryRow
from tests.support.suites.repository import InsertingPromises

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class TestProcesses(InsertingPromises):
    repository = PostgresSagas(Catalogue(load_all()))

    def keys(self, count: int, mark: str) -> list[str]:
        return [f"{mark}-{number:02}" for number in range(count)]

    def changed(self, states: Mapping[str, Instance]) -> dict[str, Instance]:
        return {key: replace(one, state=State.CANCELLED, finished_at=NOW) for key, one in states.items()}

    def facts(self, keys: Sequence[str]) -> list[HistoryRow]:
        return [HistoryRow(key, NOW, History("started")) for key in keys]

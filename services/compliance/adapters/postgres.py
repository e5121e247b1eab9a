"""The record of screenings in PostgreSQL, and the lists in force as the state that decisions see."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.hot_connection import write
from services.compliance.domain import ScreeningLists
from services.compliance.screening import ScreeningRecord

_INSERT_SCREENINGS = write("""
    INSERT INTO screening (operation_id, order_id, list_version, verdict, best_score, screened_at)
    SELECT operation_id, order_id, list_version, verdict, best_score, screened_at
    FROM unnest(
        CAST(:operations AS text[]), CAST(:orders AS text[]), CAST(:versions AS text[]), CAST(:verdicts AS text[]),
        CAST(:scores AS smallint[]), CAST(:moments AS timestamptz[])
    ) AS screened (operation_id, order_id, list_version, verdict, best_score, screened_at)
    ORDER BY operation_id
""")


class PostgresScreenings:
    """Repository[str, ScreeningLists] with one key: the lists in force. They are the same for a whole batch.

    Nothing is locked, since no screening changes what another one sees.
    """

    def __init__(self, current: Callable[[], ScreeningLists]) -> None:
        self._current = current

    async def load(self, connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, ScreeningLists]:
        return dict.fromkeys(keys, self._current())

    async def save(self, connection: AsyncConnection, changed: Mapping[str, ScreeningLists], facts: Sequence[object]) -> None:
        assert not changed
        records = [fact for fact in facts if isinstance(fact, ScreeningRecord)]
        assert len(records) == len(facts)
        if not records:
            return
        await connection.execute(
            _INSERT_SCREENINGS,
            {
                "operations": [record.operation_id for record in records],
                "orders": [record.order_id for record in records],
                "versions": [record.list_version for record in records],
                "verdicts": [record.verdict.value for record in records],
                "scores": [record.best_score for record in records],
                "moments": [record.at for record in records],
            },
        )

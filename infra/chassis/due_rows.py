"""The loop's inputs that are no deliveries: due retries, operations whose calls are over, and the rows of the consumer's sources.

Retries and rows are claimed before they are used, so that a crash is counted. So are conclusions that a crash has left behind, as
suspects. All of them come after the messages of a turn, and rows of sources wait while answers may still be in the queue (backlog.py).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis import calls, retries
from infra.chassis.backlog import Backlog
from infra.chassis.committing import Committing
from infra.chassis.crash_points import crash_point
from infra.chassis.hot_connection import single_statements
from infra.chassis.inputs import Inputs, SourceRow
from infra.chassis.patience import Patience
from infra.chassis.retries import RetryRow
from infra.chassis.service import RowSource
from infra.chassis.suspects import Suspects
from infra.chassis.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one look has found. `left_behind` are operations whose calls are over without this process having heard of it."""

    retries: Sequence[RetryRow] = ()
    concluding: Sequence[str] = ()
    left_behind: Sequence[str] = ()
    rows: Sequence[SourceRow] = ()


class DueRows:
    """Looks for what is due, each kind at its own pace, and commits it. `waiting` says how many deliveries have come and not been
    handled."""

    def __init__(
        self,
        workplace: Workplace,
        engine: AsyncEngine,
        patience: Patience,
        committing: Committing,
        suspects: Suspects,
        backlog: Backlog,
        waiting: Callable[[], int],
    ) -> None:
        self._workplace = workplace
        self._settings = workplace.settings
        self._engine = engine
        self._patience = patience
        self._committing = committing
        self._suspects = suspects
        self._backlog = backlog
        self._waiting = waiting
        self._next_retries = 0.0
        self._next_left_behind = 0.0
        self._next_rows = 0.0
        self.concluding: set[str] = set()
        """Ids of operations: this process has heard that their calls are over."""

    def look(self) -> None:
        """Rows of sources are looked for with the next turn."""
        self._next_rows = 0.0

    def pause_seconds(self) -> float:
        """How long there is nothing to look for."""
        due = [self._next_retries]
        if self._workplace.external:
            due.append(self._next_left_behind)
        if self._workplace.consumer.sources:
            due.append(self._next_rows)
        return max(min(due) - time.monotonic(), 0.0)

    async def turn(self) -> None:
        """Handles what is due now."""
        claimed = await self._claim(time.monotonic())
        if claimed.rows and self._backlog.notice_pause(time.monotonic()):
            # They were claimed before the pause and would be decided with the time after it. Left alone, they are due again when
            # their lease ends.
            claimed = replace(claimed, rows=())
        await self._handle_fresh(claimed)
        await self._handle_suspects(claimed)

    async def _claim(self, now: float) -> Claimed:
        retried: Sequence[RetryRow] = ()
        if now >= self._next_retries:
            self._next_retries = now + self._settings.retry_poll_seconds
            retried = await self._patience.run(self._claim_retries)
        concluding = sorted(self.concluding)[: self._settings.batch_size_max]
        self.concluding.difference_update(concluding)
        left_behind: Sequence[str] = ()
        if self._workplace.external and now >= self._next_left_behind:
            self._next_left_behind = now + self._settings.calls_over_poll_seconds
            found = await self._patience.run(self._find_left_behind)
            # What this process has heard of was not left behind by a crash.
            left_behind = [one for one in found if one not in concluding and one not in self.concluding]
        return Claimed(retried, concluding, left_behind, await self._claim_rows(now))

    async def _claim_rows(self, now: float) -> Sequence[SourceRow]:
        if not self._workplace.consumer.sources or now < self._next_rows:
            return ()
        # While rows have to wait they are not claimed, and not looked for more often than otherwise.
        paused = self._backlog.notice_pause(time.monotonic())
        # By the moment at which this turn began: what an outage has taken since then is no time in which answers were read.
        rows = await self._claim_sources() if not paused and self._backlog.is_read(now, self._waiting()) else []
        # A full claim means that more is due: look again at once.
        full = len(rows) >= self._settings.batch_size_max
        self._next_rows = now if full else now + self._settings.row_poll_seconds
        return rows

    async def _handle_fresh(self, claimed: Claimed) -> None:
        """Handles in one transaction what is claimed for the first time."""
        fresh_retries = [row for row in claimed.retries if not self._is_suspect(row.tries)]
        fresh_rows = tuple(one for one in claimed.rows if not self._is_suspect(one.row.tries))
        if fresh_retries or claimed.concluding or fresh_rows:
            crash_point(self._workplace.service, "after-claim")
            arrivals = tuple(self._committing.admission.admit_retry(row) for row in fresh_retries)
            await self._committing.commit(Inputs(arrivals, tuple(claimed.concluding), fresh_rows))

    async def _handle_suspects(self, claimed: Claimed) -> None:
        """Handles one by one what was begun before and not finished, since it may have ended the process. A claim raises the tries of
        innocent neighbours as well; alone, the culprit is counted by itself."""
        for retry in claimed.retries:
            if self._is_suspect(retry.tries):
                await self._handle_suspect_retry(retry)
        for operation_id in claimed.left_behind:
            await self._handle_left_behind(operation_id)
        for one in claimed.rows:
            if self._is_suspect(one.row.tries):
                await self._handle_suspect_row(one)

    def _is_suspect(self, tries: int) -> bool:
        return tries >= self._settings.suspect_deliveries_min

    async def _handle_suspect_retry(self, row: RetryRow) -> None:
        # The number of its failures is part of the name: a failure that could be written down begins a new count.
        async with self._suspects.counted_row("\n".join(("retry", *row.key, str(row.attempts)))) as tries:
            arrival = self._committing.admission.admit_retry(row)
            if tries > self._settings.suspect_tries_max:
                arrival.crash(f"the process ended {tries - 1} times while it handled this retry; see its log of that time")
            await self._committing.commit(Inputs(arrivals=(arrival,)))

    async def _handle_left_behind(self, operation_id: str) -> None:
        async with self._suspects.counted_row(f"{_CONCLUDING}\n{operation_id}") as tries:
            crashed = tries > self._settings.suspect_tries_max
            await self._committing.commit(Inputs(concluding=(operation_id,), crashed=crashed))

    async def _handle_suspect_row(self, one: SourceRow) -> None:
        async with self._suspects.counted_row(f"{one.source.name}\n{one.row.id}") as tries:
            await self._committing.commit(Inputs(rows=(replace(one, row=replace(one.row, tries=tries)),)))

    async def _claim_retries(self) -> list[RetryRow]:
        async with single_statements(self._engine) as connection:
            return await retries.claim(
                connection,
                self._workplace.queue,
                self._settings.batch_size_max,
                lease_seconds=self._settings.retry_lease_seconds,
            )

    async def _find_left_behind(self) -> list[str]:
        async with single_statements(self._engine) as connection:
            return await calls.over(connection, self._workplace.queue, self._settings.batch_size_max)

    async def _claim_sources(self) -> list[SourceRow]:
        """Claims from each source in a transaction with a patience of its own. Otherwise an outage at the second source would lose what
        the first has claimed."""
        claimed: list[SourceRow] = []
        for source in self._workplace.consumer.sources:
            claimed += await self._patience.run(partial(self._claim_source, source))
        return claimed

    async def _claim_source(self, source: RowSource[Any, Any, Any]) -> list[SourceRow]:
        async with single_statements(self._engine) as connection:
            return [SourceRow(source, row) for row in await source.claim(connection, self._settings.batch_size_max)]


# The tries of conclusions are stored under this name. Another word would begin every count anew.
_CONCLUDING: Final = "settle"

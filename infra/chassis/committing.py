"""Commits inputs together. Where the data of one of them are at fault, commits one by one until the culprit is found.

transaction ──commit──> after the commit: relay, calls, `Consumer.committed`
    │ momentary, outage: again (patience.py)
    │ data: each alone ──its own fault──> a message: failed with the cause in a transaction of its own
                                          a row: given up (giving_up.py)
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.batch import BatchResult, BatchTransaction
from infra.chassis.crash_points import crash_point
from infra.chassis.errors import Failure
from infra.chassis.giving_up import cause_of, refused, refusing
from infra.chassis.hot_connection import hot_transaction
from infra.chassis.inputs import Inputs
from infra.chassis.metrics import BATCH_SIZE, BATCHES, TROUBLE
from infra.chassis.patience import Patience
from infra.chassis.workplace import Workplace

log = structlog.get_logger()


class Committing:
    """The transactions of one loop. `after_commit` is told of each as soon as it is committed; what it raises ends the loop."""

    def __init__(
        self, workplace: Workplace, engine: AsyncEngine, patience: Patience, after_commit: Callable[[BatchResult], None]
    ) -> None:
        self._workplace = workplace
        self._engine = engine
        self._patience = patience
        self._after_commit = after_commit
        self._batch = BatchTransaction(workplace)
        self._labels = (workplace.service, workplace.queue)
        self.admission = self._batch.admission
        self.seconds = 0.0
        """How long the last transaction took."""

    async def commit(self, inputs: Inputs) -> None:
        """Returns when every input has left its trace in the database. During an outage that takes as long as the outage."""
        try:
            result = await self._patience.run(lambda: self.transaction(inputs))
        except Exception as error:
            TROUBLE.labels(*self._labels, "one-by-one").inc()
            log.warning("batch_failed", queue=self._workplace.queue, inputs=len(inputs), exc_info=error)
            for one in inputs.singly():
                await self._commit_alone(one)
        else:
            # Out of reach of the retries: what is committed is not tried again because somebody who hears of it raises.
            self._after_commit(result)

    async def _commit_alone(self, one: Inputs) -> None:
        try:
            result = await self._patience.run(lambda: self.transaction(one))
        except Exception as error:  # noqa: BLE001 - as above: now it is known whose data it is
            failure = cause_of(error)
            if not one.arrivals:
                self._log_row("row_failed", one, error)
                await self._give_up(one, failure)
                return
            one.arrivals[0].failure = failure
            result = await self._patience.run(lambda: self.transaction(one))
        self._after_commit(result)

    async def _give_up(self, one: Inputs, failure: Failure) -> None:
        # A conclusion that is refused needs no states, and loading them may be what fails. A row's `give_up` does need its state.
        workplace = self._workplace
        batch = BatchTransaction(workplace.consuming(refusing(workplace.consumer, failure))) if one.concluding else self._batch
        try:
            result = await self._patience.run(lambda: self.transaction(refused(one, failure), batch))
        except Exception as error:  # noqa: BLE001 - even this cannot be stored: the row is due again when its lease ends, and it is said each time
            self._log_row("row_not_given_up", one, error)
        else:
            self._after_commit(result)

    def _log_row(self, event: str, one: Inputs, error: Exception) -> None:
        log.error(
            event,
            queue=self._workplace.queue,
            operations=list(one.concluding),
            rows=[row.name for row in one.rows],
            exc_info=error,
        )

    async def transaction(self, inputs: Inputs, batch: BatchTransaction | None = None) -> BatchResult:
        """One try. Raises what the database raises, also where it stays unknown whether it has committed."""
        began = time.perf_counter()
        service = self._workplace.service
        async with hot_transaction(self._engine, lambda: crash_point(service, "before-commit")) as connection:
            result = await (batch or self._batch).handle(connection, inputs)
        self.seconds = time.perf_counter() - began
        BATCHES.labels(*self._labels).observe(self.seconds)
        BATCH_SIZE.labels(*self._labels).observe(len(inputs))
        crash_point(service, "after-commit")
        return result

"""Decides one row of a source: a due timer, an operator's act. If that raises, the row is given up visibly, since no dead letter can hold a row."""

import random

from infra.chassis.batch.deciding import encoded
from infra.chassis.batch.work import Work
from infra.chassis.errors import Permanent
from infra.chassis.inputs import SourceRow
from infra.chassis.outbox import new_id
from infra.chassis.service import Context
from infra.chassis.workplace import Workplace


class RowDeciding:
    """The decisions of a consumer's sources."""

    def __init__(self, workplace: Workplace) -> None:
        self._service = workplace.service
        self._tries_max = workplace.settings.suspect_tries_max

    def take(self, taken: SourceRow, work: Work) -> None:
        """Decides the row; where that raises, or has ended the process too often, its source gives it up."""
        source, row = taken.source, taken.row
        envelope = source.envelope(row, work.now)
        context = Context(work.now, envelope, new_id, random.random)
        state = work.states[row.key]
        outcome = "handled"
        try:
            if row.tries > self._tries_max:
                raise Permanent(f"{taken.name} has ended the process {row.tries - 1} times")
            decision = source.decide(row, state, context)
            rows = encoded(self._service, envelope, decision, None, None, work)
        except Exception as error:  # noqa: BLE001 - as in Deciding.take
            decision = source.give_up(row, state, f"{type(error).__name__}: {error}", context)
            rows = encoded(self._service, envelope, decision, None, None, work)
            outcome = "given-up"
        work.replace(row.key, decision.state)
        work.facts += decision.facts
        work.rows += rows
        work.outcomes.append((source.name, outcome))

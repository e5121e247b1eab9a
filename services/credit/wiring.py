"""The complete answer to "what does credit react to"."""

from contracts.credit.v1 import ReleaseCredit, ReserveCredit
from contracts.credit.v2 import LimitChanged
from contracts.orders.v1 import OrderCompleted
from infra.chassis.runtime import Service
from infra.chassis.service import Consumer, on, undo
from services.credit.adapters.postgres import PostgresCreditLines, reconcile
from services.credit.handlers import (
    capture_hold,
    change_limit,
    line_of,
    line_of_limit,
    line_of_order,
    release_credit,
    reserve_credit,
)
from services.credit.settings import Settings

SETTINGS = Settings


def build(settings: Settings) -> Service:
    lines = PostgresCreditLines()
    return Service(
        name="credit",
        consumers=(
            Consumer(
                queue="credit.commands",
                repository=lines,
                routes=(
                    on(ReserveCredit, reserve_credit, key=line_of),
                    undo(ReleaseCredit, release_credit, of=ReserveCredit, key=line_of),
                ),
            ),
            Consumer(
                queue="credit.events",
                repository=lines,
                routes=(
                    on(LimitChanged, change_limit, key=line_of_limit),
                    on(OrderCompleted, capture_hold, key=line_of_order),
                ),
            ),
        ),
        reconcile=reconcile,
    )

"""The complete answer to "what does ingress react to"."""

from datetime import timedelta
from functools import partial

from contracts.orders.v1 import OrderCancelled, OrderCompleted, OrderFailed, OrderRefused, OrderSubmitted
from infra.chassis.runtime import Beside, Runtime, Service
from infra.chassis.service import Consumer, on
from services.ingress.adapters.postgres import PostgresOrders
from services.ingress.finishes import Finishes
from services.ingress.handlers import (
    accept_submission,
    cancel_order,
    complete_order,
    fail_order,
    name_of,
    refuse_order,
)
from services.ingress.http.face import PartnerFace
from services.ingress.settings import Settings

SETTINGS = Settings


def build(settings: Settings) -> Service:
    finishes = Finishes(poll_seconds=settings.finish_poll_seconds, waiters_max=settings.waiters_max)
    expected = timedelta(seconds=settings.order_expected_seconds)

    def beside(runtime: Runtime) -> Beside:
        face = PartnerFace(runtime, settings, finishes)
        return Beside(http=face.router(), background=(partial(face.run, runtime.stopping),), close=face.close)

    return Service(
        name="ingress",
        consumers=(
            Consumer(
                queue="ingress.events",
                repository=PostgresOrders(),
                routes=(
                    on(OrderSubmitted, accept_submission(expected), key=name_of),
                    on(OrderCompleted, complete_order, key=lambda event: event.order_id),
                    on(OrderRefused, refuse_order, key=lambda event: event.order_id),
                    on(OrderCancelled, cancel_order, key=lambda event: event.order_id),
                    on(OrderFailed, fail_order, key=lambda event: event.order_id),
                ),
                committed=finishes.committed,
            ),
        ),
        beside=beside,
    )

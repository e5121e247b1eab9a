"""The complete answer to "what does ingress react to"."""

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from contracts.orders.v1 import OrderCancelled, OrderCompleted, OrderFailed, OrderRefused, OrderSubmitted
from infra.chassis.service import Consumer, Service, on
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

if TYPE_CHECKING:
    from infra.chassis.process import Runtime

SETTINGS = Settings


def build(settings: Settings) -> Service:
    finishes = Finishes(poll_seconds=settings.finish_poll_seconds, waiters_max=settings.waiters_max)
    expected = timedelta(seconds=settings.order_expected_seconds)

    @cache
    def face(runtime: "Runtime") -> PartnerFace:
        # One for the routes and the background work of a process.
        return PartnerFace(runtime, settings, finishes)

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
            ),
        ),
        http=lambda runtime: face(runtime).router(),
        background=(lambda runtime: face(runtime).run(runtime.stopping),),
        closing=(lambda runtime: face(runtime).close(),),
    )

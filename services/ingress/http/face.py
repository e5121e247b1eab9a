"""Puts the partner's side together for one running process: its routes and the work that goes on beside them."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from fastapi import APIRouter
from starlette.routing import Route

from infra.chassis.runtime import Runtime
from services.ingress.acceptance import Acceptance
from services.ingress.adapters.database import Unavailable, available
from services.ingress.adapters.intake import purge_keys
from services.ingress.adapters.orchestrator import Orchestrator
from services.ingress.adapters.partners import find_account, touch_keys
from services.ingress.adapters.postgres import finished_orders
from services.ingress.domain import Order
from services.ingress.finishes import Finishes
from services.ingress.http import openapi
from services.ingress.http.application import PartnerApplication
from services.ingress.http.cancelling import Cancelling
from services.ingress.http.credentials import Credentials
from services.ingress.http.documents import describe, explain
from services.ingress.http.orders import Orders
from services.ingress.http.overload import Overload
from services.ingress.keys import Account
from services.ingress.settings import Settings

log = structlog.get_logger()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PartnerFace:
    """One per process. `finishes` is told of the ends that the consumer of the same process writes down."""

    def __init__(
        self, runtime: Runtime, settings: Settings, finishes: Finishes, *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._settings = settings
        self._engine = runtime.engine
        # A read is one statement: without a transaction around it, it is one round trip instead of three.
        self._reader = runtime.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._finishes = finishes
        self._overload = Overload(settings)
        self._credentials = Credentials(
            self._account,
            settings.api_key_pepper.get_secret_value().encode(),
            cache_seconds=settings.api_key_cache_seconds,
            cache_size_max=settings.api_key_cache_size_max,
            now=now,
        )
        self._orchestrator = Orchestrator(
            settings.orchestrator_url,
            settings.orchestrator_token.get_secret_value(),
            timeout_seconds=settings.orchestrator_timeout_seconds,
            pause_seconds=settings.orchestrator_pause_seconds,
        )
        self._orders = Orders(
            settings=settings,
            reader=self._reader,
            acceptance=Acceptance(runtime, settings),
            finishes=finishes,
            orchestrator=self._orchestrator,
            overload=self._overload,
            now=now,
        )

    def application(self) -> PartnerApplication:
        cancelling = Cancelling(self._orders)
        routes = [
            Route("/v1/orders", self._orders.collection, methods=["GET", "POST"]),
            Route("/v1/orders/{order_id}", self._orders.one, methods=["GET"]),
            Route("/v1/orders/{order_id}/cancel", cancelling.cancel, methods=["POST"]),
            Route(openapi.PATH, describe, methods=["GET"]),
            Route("/problems/{code}", explain, methods=["GET"]),
        ]
        return PartnerApplication(
            routes,
            self._credentials,
            public_paths=frozenset({openapi.PATH}),
            anonymous_per_minute=self._settings.anonymous_requests_per_minute,
            retry_after_seconds=self._settings.retry_after_seconds,
        )

    def router(self) -> APIRouter:
        """One route for every path: to be included last, after the chassis' own paths."""
        router = APIRouter()
        router.add_route("/{path:path}", self.application(), include_in_schema=False)  # type: ignore[arg-type]  # an ASGI application
        return router

    async def run(self, stopping: asyncio.Event) -> None:
        """The work beside the requests. When the process stops, waiting requests are answered as at their time-out."""
        work = [
            asyncio.create_task(self._finishes.run(self._ended)),
            asyncio.create_task(self._overload.run(self._reader)),
            asyncio.create_task(self._keep_house()),
        ]
        stopped = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._finishes.release()
            for task in (*work, stopped):
                task.cancel()
        for task in done:
            # Work ends by itself only through a programming error, which must not stay unheard.
            task.result()

    async def close(self) -> None:
        await self._orchestrator.close()

    async def _keep_house(self) -> None:
        """Forgets old idempotency keys and notes which API keys are in use, once per purge interval."""
        while True:
            try:
                async with available():
                    await self._purge()
                    if used := self._credentials.take_used():
                        async with self._reader.connect() as connection:
                            await touch_keys(connection, sorted(used))
            except Unavailable as error:
                log.warning("housekeeping_postponed", exc_info=error)
            await asyncio.sleep(self._settings.purge_interval_seconds)

    async def _purge(self) -> None:
        rows_max = self._settings.purge_rows_max
        while True:
            async with self._engine.begin() as connection:
                purged = await purge_keys(connection, days=self._settings.idempotency_retention_days, rows_max=rows_max)
            if purged < rows_max:
                return

    async def _account(self, key_id: str) -> Account | None:
        async with available(), self._reader.connect() as connection:
            return await find_account(connection, key_id)

    async def _ended(self, order_ids: Sequence[str]) -> Sequence[Order]:
        try:
            async with available(), self._reader.connect() as connection:
                return await finished_orders(connection, order_ids)
        except Unavailable as error:
            log.warning("waiting_orders_not_read", exc_info=error)
            return ()

"""A service and what runs it: `Service` says what there is, `Runtime` is one of them at work in this process.

Both stand here because each names the other: the routes and the background work of a service are made for the runtime in which
they run. The vocabulary of decisions (service.py) knows neither.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.broker.publisher import Publisher, PublisherSettings
from infra.chassis import housekeeping, port, reconciliation
from infra.chassis.caller import Caller
from infra.chassis.consumption import Consumption, ConsumptionSettings
from infra.chassis.database import create_engine
from infra.chassis.loop import Loop
from infra.chassis.relay import OutboxRelay
from infra.chassis.rest import rest
from infra.chassis.service import Consumer, Dependency
from infra.chassis.settings import ServiceSettings
from infra.chassis.unit import Unit, unit_of_work
from infra.chassis.workplace import Workplace

if TYPE_CHECKING:
    from fastapi import APIRouter

TURN_SECONDS_MAX: Final = 60.0
# A dead letter carries the untouched body, which may be as large as the broker took it, and up to two 16 KiB headers.
DEAD_LETTER_BODY_BYTES_MAX: Final = 32 * 1024 * 1024
DEAD_LETTER_HEADER_BYTES_MAX: Final = 64 * 1024
VERSION: Final = version("tutti")


@dataclass(frozen=True, slots=True)
class Beside:
    """What a service runs beside its consumers, made once for its runtime.

    `http` adds routes to the service's port. `background` are coroutines that run as long as the process; one that raises ends it.
    `close` is called after everything else has stopped, to close what the service itself has opened.
    """

    http: "APIRouter | None" = None
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    close: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """The complete answer to "what does this service react to".

    `dependencies` are the systems outside that its calls name. `reconcile` checks that the service's own money or stock adds up.
    """

    name: str
    consumers: tuple[Consumer, ...]
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)
    beside: "Callable[[Runtime], Beside]" = lambda _: Beside()
    reconcile: Callable[[AsyncConnection], Any] | None = None


class Runtime:
    """What a service's HTTP routes and background work may use: its database, a transaction with outbox, its settings."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.log = structlog.get_logger().bind(service=service.name)
        self.engine: AsyncEngine = create_engine(settings, service.name)
        self.publisher = Publisher(
            settings.broker_url.get_secret_value(),
            name=f"{service.name} publisher",
            settings=PublisherSettings(
                timeout_seconds=settings.publish_timeout_seconds,
                header_bytes_max=DEAD_LETTER_HEADER_BYTES_MAX,
                body_bytes_max=DEAD_LETTER_BODY_BYTES_MAX,
            ),
        )
        self.relay = OutboxRelay(service.name, self.engine, self.publisher, settings)
        self._on_calls = asyncio.Event()
        self.loops = tuple(
            Loop(
                Workplace(service.name, VERSION, consumer, settings, external=bool(service.dependencies)),
                self.engine,
                self.relay,
                self._on_calls,
            )
            for consumer in service.consumers
        )
        self.consumption = Consumption(
            service.name,
            settings.broker_url.get_secret_value(),
            {loop.queue: loop.offer for loop in self.loops},
            ConsumptionSettings(prefetch_count=settings.prefetch_count),
            on_lost=self._lost,
            on_back=self._back,
        )
        self.caller = (
            Caller(service.name, self.engine, settings, service.dependencies, self.loops, self._on_calls)
            if service.dependencies
            else None
        )
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the process is asked to stop; background work ends soon after."""
        return self._stopping

    def unit(self) -> AbstractAsyncContextManager[Unit]:
        """One transaction; what it sends is committed with it and published after."""
        return unit_of_work(self.service.name, self.engine, self.relay)

    def _lost(self) -> None:
        for loop in self.loops:
            loop.backlog.lost()

    def _back(self) -> None:
        task = asyncio.get_running_loop().create_task(self.measure_backlog())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def measure_backlog(self) -> None:
        """Asks the broker how much waits in each queue; rows wait until that much has been read."""
        for loop in self.loops:
            try:
                ready, _ = await self.consumption.depth(loop.queue)
            except ConnectionError:
                # The watchdog asks again; until then rows wait.
                continue
            loop.backlog.measured(ready, time.monotonic())

    async def watch(self) -> None:
        """The watchdog: a missing consumer is subscribed again, an unmeasured backlog measured."""
        while not await rest(self._stopping, self.settings.watchdog_interval_seconds):
            for loop in self.loops:
                if self._stopping.is_set():
                    return
                await self.consumption.watch(loop.queue)
            if any(not loop.backlog.connected and self.consumption.up[loop.queue] for loop in self.loops):
                await self.measure_backlog()

    async def keep_house(self) -> None:
        """Purges what has outlived its retention, a bounded number of rows at a time."""
        while not await rest(self._stopping, self.settings.purge_interval_seconds):
            await housekeeping.purge(self.engine, self.settings)

    def live(self) -> port.Health:
        """Fails only when a loop does not turn any more: then a restart helps."""
        late = [
            f"the loop of {loop.queue} has not turned for {int(time.monotonic() - loop.backlog.turned_at)} s; restart this process"
            for loop in self.loops
            if time.monotonic() - loop.backlog.turned_at > TURN_SECONDS_MAX
        ]
        return port.Health(tuple(late))

    async def ready(self) -> port.Health:
        """Fails while database, broker or an expected consumer is missing."""
        problems = [
            f"no consumer on {queue}; the watchdog is subscribing again" for queue, up in self.consumption.up.items() if not up
        ]
        if not self.publisher.ready:
            problems.append(
                "the broker cannot be reached for publishing; messages wait in the outbox. `tutti status` shows the broker"
            )
        try:
            async with asyncio.timeout(2), self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except Exception as error:  # noqa: BLE001 - whatever the driver raises, the answer is the same
            problems.append(f"the database cannot be reached ({type(error).__name__}). `tutti status` shows the database")
        if self._stopping.is_set():
            problems.append("stopping")
        return port.Health(tuple(problems))

    async def reconcile(self) -> dict[str, Any]:
        """The facts of the last day."""
        since = datetime.now(UTC) - timedelta(days=1)
        found = await reconciliation.facts(self.service.name, self.engine, self.service.reconcile, since)
        return {
            **found,
            "depths": {loop.queue: (await self.consumption.depth(loop.queue))[0] for loop in self.loops},
        }

    def begin_stop(self) -> None:
        self._stopping.set()

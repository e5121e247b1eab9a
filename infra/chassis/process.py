"""Runs services: connects, starts loops, relay, watchdog and port, and stops them in the one order that loses nothing.

A process hosts one service by design and may host several (three processes are the fastest layout on two cores). Each service keeps
its own database role, broker user, connections and port, so that hosting changes nothing but the process they run in.
"""

import asyncio
import gc
import importlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import structlog
import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.broker.publisher import Publisher, PublisherSettings
from infra.chassis import housekeeping, logs, port, reconciliation
from infra.chassis.caller import Caller
from infra.chassis.consumption import Consumption
from infra.chassis.database import create_engine
from infra.chassis.loop import Loop
from infra.chassis.relay import OutboxRelay
from infra.chassis.service import Service
from infra.chassis.settings import ServiceSettings
from infra.chassis.unit import Unit, unit_of_work

TURN_SECONDS_MAX: Final = 60.0
CLOSE_SECONDS_MAX: Final = 2.0
GC_ALLOCATIONS: Final = 50_000
# A dead letter carries the untouched body, which may be as large as the broker took it, and up to two 16 KiB headers.
DEAD_LETTER_BODY_BYTES_MAX: Final = 32 * 1024 * 1024
DEAD_LETTER_HEADER_BYTES_MAX: Final = 64 * 1024
VERSION: Final = version("tutti")


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
                service=service.name,
                version=VERSION,
                consumer=consumer,
                settings=settings,
                engine=self.engine,
                relay=self.relay,
                external=bool(service.dependencies),
                on_calls=self._on_calls,
            )
            for consumer in service.consumers
        )
        self.consumption = Consumption(
            service.name,
            settings.broker_url.get_secret_value(),
            {loop.consumer.queue: loop.offer for loop in self.loops},
            settings.prefetch_count,
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
            loop.lost()

    def _back(self) -> None:
        task = asyncio.get_running_loop().create_task(self._measure_backlog())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure_backlog(self) -> None:
        for loop in self.loops:
            try:
                ready, _ = await self.consumption.depth(loop.consumer.queue)
            except ConnectionError:
                # The watchdog asks again; until then rows wait.
                continue
            loop.backlog(ready)

    async def watch(self) -> None:
        """The watchdog: a missing consumer is subscribed again, an unmeasured backlog measured."""
        while not self._stopping.is_set():
            await self._wait(self.settings.watchdog_interval_seconds)
            for loop in self.loops:
                if self._stopping.is_set():
                    return
                await self.consumption.watch(loop.consumer.queue)
            if any(not loop.connected and self.consumption.up[loop.consumer.queue] for loop in self.loops):
                await self._measure_backlog()

    async def keep_house(self) -> None:
        """Purges what has outlived its retention, a bounded number of rows at a time."""
        while not self._stopping.is_set():
            await self._wait(self.settings.purge_interval_seconds)
            await housekeeping.purge(self.engine, self.settings)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def live(self) -> port.Health:
        """Fails only when a loop does not turn any more: then a restart helps."""
        late = [
            f"the loop of {loop.consumer.queue} has not turned for {int(time.monotonic() - loop.turned_at)} s; restart this process"
            for loop in self.loops
            if time.monotonic() - loop.turned_at > TURN_SECONDS_MAX
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
            "depths": {loop.consumer.queue: (await self.consumption.depth(loop.consumer.queue))[0] for loop in self.loops},
        }

    def begin_stop(self) -> None:
        self._stopping.set()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has one of its own."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


async def _serve(runtime: Runtime) -> tuple[_Server, asyncio.Task[None]]:
    app = port.application(f"tutti {runtime.service.name}")
    app.include_router(
        port.routes(
            live=runtime.live,
            ready=runtime.ready,
            engine=runtime.engine,
            token=runtime.settings.operator_token,
            reconcile=runtime.reconcile,
        )
    )
    if runtime.service.http is not None:
        app.include_router(runtime.service.http(runtime))
    if runtime.service.install is not None:
        runtime.service.install(app, runtime)
    config = uvicorn.Config(
        app,
        host=runtime.settings.http_host,
        port=runtime.settings.http_port,
        log_level="warning",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(runtime.settings.shutdown_seconds),
        backlog=1024,
    )
    server = _Server(config)
    return server, asyncio.create_task(server.serve(), name=f"{runtime.service.name} port")


@asynccontextmanager
async def running(service: Service, settings: ServiceSettings) -> AsyncGenerator[Runtime]:
    """A service at work, in this event loop. Leaving the block stops it: consumers first, then loops, relay, connections."""
    runtime = Runtime(service, settings)
    await runtime.publisher.connect()
    server, serving = await _serve(runtime)
    loops = [_start(runtime, loop.run(), f"{service.name} {loop.consumer.queue}") for loop in runtime.loops]
    others = [_start(runtime, runtime.relay.run(), f"{service.name} relay")]
    if runtime.caller is not None:
        others.append(_start(runtime, runtime.caller.run(), f"{service.name} calls"))
    keepers = [
        _start(runtime, runtime.watch(), f"{service.name} watchdog"),
        _start(runtime, runtime.keep_house(), f"{service.name} housekeeping"),
    ]
    keepers += [_start(runtime, work(runtime), f"{service.name} background") for work in service.background]
    if runtime.loops:
        await runtime.consumption.start()
        await runtime._measure_backlog()
    runtime.log.info("started", port=settings.http_port, version=VERSION)
    try:
        yield runtime
    finally:
        await _stop(runtime, server, serving, loops, others, keepers)


def _start(runtime: Runtime, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(lambda ended: _die_of_bugs(runtime, ended))
    return task


def _die_of_bugs(runtime: Runtime, task: asyncio.Task[Any]) -> None:
    """A task of the chassis that ends by itself is a bug: half a service is worse than none, the supervisor restarts it.

    A library that cancels its own futures can end a task as "cancelled" although nobody asked it to stop: that is an end, too.
    """
    error = None if task.cancelled() else task.exception()
    if runtime.stopping.is_set() or (error is None and not task.cancelled()):
        return
    structlog.get_logger().critical("task_failed", task=task.get_name(), cancelled=task.cancelled(), exc_info=error)
    # A second signal would end the process without a clean stop; begin_stop makes this the only one.
    runtime.begin_stop()
    os.kill(os.getpid(), signal.SIGTERM)


async def _stop(
    runtime: Runtime,
    server: _Server,
    serving: asyncio.Task[None],
    loops: Sequence[asyncio.Task[Any]],
    others: Sequence[asyncio.Task[Any]],
    keepers: Sequence[asyncio.Task[Any]],
) -> None:
    seconds = runtime.settings.shutdown_seconds
    runtime.begin_stop()
    await runtime.consumption.cancel()
    for loop in runtime.loops:
        loop.stop()
    if loops:
        await asyncio.wait(loops, timeout=seconds)
    server.should_exit = True
    await asyncio.wait([serving], timeout=seconds)
    if runtime.caller is not None:
        runtime.caller.stop()
    await _within(seconds / 3, runtime.relay.drain)
    runtime.relay.stop()
    await asyncio.wait([*others, *keepers], timeout=seconds / 3)
    for task in (*loops, *others, *keepers, serving):
        task.cancel()
    await runtime.consumption.close()
    await runtime.publisher.close()
    await runtime.engine.dispose()
    for close in runtime.service.closing:
        await _within(CLOSE_SECONDS_MAX, partial(close, runtime))
    runtime.log.info("stopped")


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work()
    except TimeoutError:
        structlog.get_logger().warning("stop_incomplete", note="the rest is in the outbox and goes out after the next start")


def build(package: str) -> tuple[Service, ServiceSettings]:
    """A service from its package, such as `services.credit`: its wiring module has SETTINGS (the class) and `build`."""
    wiring = importlib.import_module(f"{package}.wiring")
    settings = wiring.SETTINGS()
    return wiring.build(settings), settings


async def host(packages: Sequence[str]) -> None:
    """Runs the services until SIGTERM or SIGINT; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await _host(list(packages), stop)


async def _host(packages: list[str], stop: asyncio.Event) -> None:
    if not packages:
        await stop.wait()
        return
    service, settings = build(packages[0])
    async with running(service, settings):
        await _host(packages[1:], stop)


def main(*packages: str) -> None:
    """The whole of a service's `__main__`."""
    # Messages live for one batch and are freed by their reference counts; the cycle collector's default, a run every 700
    # allocations, finds nothing in them. What this gains was not told from the machine's noise.
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    logs.configure(packages[0].rsplit(".", 1)[-1] if len(packages) == 1 else "host")
    asyncio.run(host(packages))

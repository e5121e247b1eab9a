"""Runs services: connects, starts loops, relay, watchdog and port, and stops them in the one order that loses nothing.

A process hosts one service by design and may host several (three processes are the fastest layout on two cores). Each service keeps
its own database role, broker user, connections and port, so that hosting changes nothing but the process they run in.
"""

import asyncio
import gc
import importlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import structlog
import uvicorn

from infra.chassis import logs, port
from infra.chassis.runtime import VERSION, Beside, Runtime, Service
from infra.chassis.settings import ServiceSettings

CLOSE_SECONDS_MAX: Final = 2.0
GC_ALLOCATIONS: Final = 50_000


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, since `host` handles the signals of the process."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


async def _serve(runtime: Runtime, beside: Beside) -> tuple[_Server, asyncio.Task[None]]:
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
    if beside.http is not None:
        app.include_router(beside.http)
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
    beside = service.beside(runtime)
    server, serving = await _serve(runtime, beside)
    loops = [_start(runtime, loop.run(), f"{service.name} {loop.queue}") for loop in runtime.loops]
    others = [_start(runtime, runtime.relay.run(), f"{service.name} relay")]
    if runtime.caller is not None:
        others.append(_start(runtime, runtime.caller.run(), f"{service.name} calls"))
    keepers = [
        _start(runtime, runtime.watch(), f"{service.name} watchdog"),
        _start(runtime, runtime.keep_house(), f"{service.name} housekeeping"),
    ]
    keepers += [_start(runtime, work(), f"{service.name} background") for work in beside.background]
    if runtime.loops:
        await runtime.consumption.start()
        await runtime.measure_backlog()
    runtime.log.info("started", port=settings.http_port, version=VERSION)
    try:
        yield runtime
    finally:
        await _stop(runtime, beside, server, serving, loops, others, keepers)


def _start(runtime: Runtime, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(lambda ended: _die_of_bugs(runtime, ended))
    return task


def _die_of_bugs(runtime: Runtime, task: asyncio.Task[Any]) -> None:
    """Ends the process when one of its tasks has failed. Half a service is worse than no service, and the supervisor restarts it.

    A library that cancels its own futures can end a task as "cancelled" without a stop; that is a failure, too. A task that returns,
    such as background work that is over, ends nothing.
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
    beside: Beside,
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
    if beside.close is not None:
        await _within(CLOSE_SECONDS_MAX, beside.close)
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
    # allocations, finds nothing in them. What this gains could not be told from the machine's noise.
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    logs.configure(packages[0].rsplit(".", 1)[-1] if len(packages) == 1 else "host")
    asyncio.run(host(packages))

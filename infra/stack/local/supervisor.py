"""Starts processes in dependency order, keeps them running, stops them in reverse, and says how they are."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx2

from infra.chassis.rest import rest
from infra.stack.local.home import Home, LocalError, ProcessIdentity, port_is_free, port_owner, write_json
from infra.stack.local.logs import LogFile, Output, Print
from infra.stack.local.process import ProcessSpec, begin

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
STEADY_SECONDS = 30.0  # Up for this long, a process counts as healthy and its backoff starts again.
STARTS_BEFORE_GIVING_UP = 3  # Only for a process that was never ready; any other is restarted for ever.
READY_POLL_SECONDS = 0.1
KILL_SECONDS = 5.0
OUTPUT_SECONDS = 2.0


class State(StrEnum):
    """Of one process."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StartFailed(LocalError):
    """A process did not become ready; the message has its last lines."""


@dataclass(slots=True)
class _Supervised:
    spec: ProcessSpec
    output: Output
    state: State = State.WAITING
    restarts: int = 0
    child: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None


class Supervisor:
    """Owns its processes from `start` to `stop`; every change of state goes to the home's status file.

    `show` gets a line for each line of output and each event; both are in the home's logs anyway.
    """

    def __init__(self, home: Home, show: Print | None = None) -> None:
        self._home = home
        self._show = show
        self._events = LogFile(home.logs, "supervisor")
        self._processes: dict[str, _Supervised] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._us = ProcessIdentity.of(os.getpid())
        self._complete = False
        self._write_status()

    async def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Starts these and returns when all are ready. May be called again, for more that depend on these.

        Raises StartFailed when one cannot be made ready, and LocalError for a dependency that nobody
        declared.
        """
        _in_order([*(process.spec for process in self._processes.values()), *specs])
        added = [_Supervised(spec, Output(self._home.logs, spec.name, self._show)) for spec in specs]
        self._processes.update({process.spec.name: process for process in added})
        for process in added:
            self._keepers[process.spec.name] = asyncio.create_task(self._keep(process))
        ready = [asyncio.create_task(self._until_ready(process)) for process in added]
        try:
            await asyncio.gather(*ready)
        finally:
            for task in ready:
                task.cancel()

    def declare_up(self) -> None:
        """Everything that belongs to the stack is started; from now on it counts as up or degraded."""
        self._complete = True
        self._write_status()

    async def stop(self) -> None:
        """Stops dependents before what they depend on; kills what does not stop in time. May be repeated."""
        self._stopping.set()
        for group in reversed(_in_order([process.spec for process in self._processes.values()])):
            await asyncio.gather(*(self._end(self._processes[spec.name]) for spec in group))
        self._write_status()

    def status(self) -> dict[str, Any]:
        """The document of `tutti status --json`, and with it the supervisor's own identity."""
        rows = [
            {
                "name": role,
                "pid": process.child.pid if process.child else None,
                "state": str(process.state),
                "restarts": process.restarts,
                "port": process.spec.ports.get(role),
            }
            for process in self._processes.values()
            for role in process.spec.listed_as
        ]
        return {
            "state": self._overall(),
            "processes": rows,
            "supervisor": {"pid": self._us.pid, "started_at": self._us.started_at},
        }

    def _overall(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        if not self._complete:
            return "starting"
        ready = all(process.state is State.READY for process in self._processes.values())
        return "up" if ready else "degraded"

    async def _keep(self, process: _Supervised) -> None:
        for name in process.spec.depends_on:
            await self._processes[name].ready.wait()
        backoff = FIRST_BACKOFF_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = await self._run_once(process)
            if self._stopping.is_set():
                return
            process.restarts += 1
            if not process.ready.is_set() and process.restarts >= STARTS_BEFORE_GIVING_UP:
                process.failure = reason
                self._enter(process, State.FAILED)
                return
            self._enter(process, State.RESTARTING)
            if time.monotonic() - began >= STEADY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.say(f"{process.spec.name} {reason}; starting it again in {backoff:g} s")
            if not await rest(self._stopping, backoff):
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    async def _run_once(self, process: _Supervised) -> str:
        """From start to end of one incarnation. Returns how it ended, for people."""
        if not process.restarts:
            self._enter(process, State.STARTING)
        try:
            child, lines = await begin(process.spec, self._home.path)
        except OSError as error:
            return f"cannot be started: {error}"
        process.child = child
        self._write_status()
        following = asyncio.create_task(process.output.follow(lines))
        waiting = asyncio.create_task(self._wait_for_readiness(process))
        try:
            await asyncio.wait({waiting, ended := asyncio.create_task(child.wait())}, return_when="FIRST_COMPLETED")
            late = waiting.done() and not waiting.result()
            if late and not self._stopping.is_set():
                child.kill()
            code = await ended
        finally:
            waiting.cancel()
            if child.returncode is None:
                child.kill()
                await child.wait()
            process.child = None
            # A grandchild may keep the pipe open; its lines are not worth waiting for.
            await asyncio.wait({following}, timeout=OUTPUT_SECONDS)
            following.cancel()
        if late:
            return f"was not ready within {process.spec.ready_seconds:g} s"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    async def _wait_for_readiness(self, process: _Supervised) -> bool:
        try:
            async with asyncio.timeout(process.spec.ready_seconds):
                await _until_probe_succeeds(process.spec)
        except TimeoutError:
            return False
        if not self._stopping.is_set():
            self._enter(process, State.READY)
            process.ready.set()
        return True

    async def _until_ready(self, process: _Supervised) -> None:
        keeper = self._keepers[process.spec.name]
        ready = asyncio.create_task(process.ready.wait())
        try:
            await asyncio.wait({ready, keeper}, return_when="FIRST_COMPLETED")
        finally:
            ready.cancel()
        if process.failure is not None:
            raise StartFailed(self._explain(process))
        if keeper.done() and not keeper.cancelled():
            keeper.result()  # An error of ours must not look like success.

    def _explain(self, process: _Supervised) -> str:
        """A process that listens on its port now, when it is dead, is the likely cause."""
        taken = "".join(
            f"\n  Port {port} of {role} is taken by {port_owner(port)}; end that process and try again."
            for role, port in process.spec.ports.items()
            if not port_is_free(port)
        )
        lines = "".join(f"\n  {line}" for line in process.output.last_lines)
        log = self._home.logs / f"{process.spec.name}.log"
        return f"{process.spec.name} {process.failure}.{taken} Its last lines (all: {log}):{lines}"

    async def _end(self, process: _Supervised) -> None:
        keeper = self._keepers[process.spec.name]
        if process.state is State.STOPPED:
            return
        self._enter(process, State.STOPPING)
        child = process.child
        if child is not None:
            _signal(child, process.spec.stop_signal)
        else:  # It waits for a dependency, pauses between two incarnations, or has failed.
            keeper.cancel()
        done, _ = await asyncio.wait({keeper}, timeout=process.spec.stop_seconds)
        if not done:
            self.say(f"{process.spec.name} did not stop within {process.spec.stop_seconds:g} s; killing it")
            if process.child is not None:
                _signal(process.child, signal.SIGKILL)
            await asyncio.wait({keeper}, timeout=KILL_SECONDS)
            keeper.cancel()
        process.output.close()
        self._enter(process, State.STOPPED)

    def _enter(self, process: _Supervised, state: State) -> None:
        process.state = state
        self._write_status()

    def _write_status(self) -> None:
        write_json(self._home.status_file, self.status())

    def say(self, text: str) -> None:
        """Tells the user something: in supervisor.log, and on the terminal if there is one."""
        self._events.write(text.encode())
        if self._show is not None:
            self._show(text)


async def _until_probe_succeeds(spec: ProcessSpec) -> None:
    """Asks again and again: another process cannot set an event of ours. The caller sets the deadline."""
    while True:
        with contextlib.suppress(OSError, ValueError, httpx2.HTTPError):
            if await spec.ready():
                return
        await asyncio.sleep(READY_POLL_SECONDS)


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _in_order(specs: Iterable[ProcessSpec]) -> list[list[ProcessSpec]]:
    """Groups, each depending only on earlier ones. Raises LocalError for an unknown name or a circle."""
    remaining = {spec.name: spec for spec in specs}
    placed: set[str] = set()
    groups: list[list[ProcessSpec]] = []
    while remaining:
        group = [spec for spec in remaining.values() if placed.issuperset(spec.depends_on)]
        if not group:
            raise LocalError(f"these processes wait for each other or for an unknown one: {', '.join(remaining)}")
        groups.append(group)
        placed |= {spec.name for spec in group}
        for spec in group:
            del remaining[spec.name]
    return groups

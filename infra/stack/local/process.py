"""One operating-system process of the private stack: what to run, and how it is begun."""

import asyncio
import contextlib
import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx2

# Each process that a supervisor starts carries the home's path in this variable, and so do its children.
# That is how leftovers of a supervisor that was killed are found, whatever process is their parent by then.
MARKER = "TUTTI_SUPERVISED_FOR"

Ready = Callable[[], Awaitable[bool]]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class SystemUser:
    """The user as whom a process runs, when it is not our own."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "SystemUser":
        """Raises KeyError when the system has no such user."""
        entry = pwd.getpwnam(name)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What the supervisor has to know of a process.

    `roles` are the names that the process is listed under, several when services share it; its own name
    when empty. `ports` gives each role's port. `env` is added to the supervisor's own environment, less the
    variables that begin with one of `env_without`. `ready` answers True once the process does its work;
    while it cannot be reached it answers False, or raises OSError or httpx2.HTTPError.
    """

    name: str
    argv: tuple[str, ...]
    ready: Ready
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    env_without: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    directory: Path | None = None
    user: SystemUser | None = None
    inherited_descriptors: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    ready_seconds: float = 60.0

    @property
    def listed_as(self) -> tuple[str, ...]:
        return self.roles or (self.name,)


def answers_at(url: str) -> Ready:
    """Ready when a GET of this URL answers 200."""

    async def ready() -> bool:
        async with httpx2.AsyncClient(timeout=2.0, trust_env=False) as client:
            return (await client.get(url)).status_code == 200

    return ready


def adopt_orphans() -> None:
    """Makes this process the parent of descendants that lost theirs, so that `reap` can free them.

    Otherwise they fall to process 1, which in a container often never frees them. Only Linux can do this.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap() -> None:
    """Frees every child that has ended. Only for a process that no longer waits for any of its children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


async def begin(spec: ProcessSpec, home: Path) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
    """Starts the process in a session of its own; returns it and its output and errors. Raises OSError.

    Own session: Ctrl-C on the terminal reaches the supervisor only, which then stops everything in order.
    """
    user = spec.user
    kept = {name: value for name, value in os.environ.items() if not name.startswith(spec.env_without)}
    process = await asyncio.create_subprocess_exec(
        *spec.argv,
        env={**kept, **spec.env, MARKER: str(home)},
        cwd=spec.directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=spec.inherited_descriptors,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
        preexec_fn=end_with_parent(spec.stop_signal),
    )
    if process.stdout is None:
        raise OSError("no pipe for the output")
    return process, process.stdout


def end_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """To be called in the child: the kernel signals it when its parent dies, even by SIGKILL.

    subprocess calls it after the change of user, which matters: that change would clear the setting.
    Elsewhere than on Linux the next `up` or `down` finds the leftovers by their marker.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # It died before the request.
            os._exit(1)

    return ask_kernel

"""The private stack as a whole: run it here or in the background, ask how it is, end it, empty it."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.stack.local.home import Home, LocalError, ProcessIdentity, read_json
from infra.stack.local.leftovers import end_leftovers
from infra.stack.local.logs import Print
from infra.stack.local.process import adopt_orphans, reap
from infra.stack.local.supervisor import StartFailed, Supervisor

BringUp = Callable[[Supervisor], Awaitable[None]]

# The sum of what the supervisor itself allows its processes, and a little more.
DOWN_SECONDS = 90.0
POLL_SECONDS = 0.05
FOLLOW_POLL_SECONDS = 0.2


class NotStopped(LocalError):
    """Processes survived everything that was tried."""


def supervise(home: Home, bring_up: BringUp, show: Print | None = None) -> None:
    """Runs the stack in the foreground until SIGTERM or SIGINT, then stops it in order.

    `bring_up` starts everything through the supervisor it is given, in as many steps as it needs, and
    returns. Processes that an earlier, killed supervisor left behind are ended first. Raises AlreadyRunning,
    StartFailed, and what `bring_up` raises; by then everything that was started has been stopped again.
    """
    adopt_orphans()
    with home.supervised_by_us():
        if remaining := end_leftovers(home):
            raise NotStopped(_remaining(remaining))
        try:
            asyncio.run(_supervise(home, bring_up, show))
        finally:
            remaining = end_leftovers(home)
            reap()
            home.status_file.unlink(missing_ok=True)
        if remaining:
            raise NotStopped(_remaining(remaining))


async def _supervise(home: Home, bring_up: BringUp, show: Print | None) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop.set)
    supervisor = Supervisor(home, show)
    bringing_up = asyncio.ensure_future(bring_up(supervisor))
    asked = asyncio.create_task(asked_to_stop.wait())
    try:
        await asyncio.wait({bringing_up, asked}, return_when="FIRST_COMPLETED")
        if bringing_up.done():
            bringing_up.result()
            supervisor.declare_up()
            await asked
    finally:
        asked.cancel()
        bringing_up.cancel()
        await asyncio.wait({bringing_up})
        await supervisor.stop()


@dataclass(frozen=True, slots=True)
class Detached:
    """A supervisor in the background that is up. A parent that outlives it has to wait for `process`."""

    process: subprocess.Popen[bytes]


def start_detached(home: Home, argv: Sequence[str], deadline_seconds: float, env: Mapping[str, str] | None = None) -> Detached:
    """Starts `argv`, which must supervise this home in the foreground, and returns when the stack is up.

    It runs in a session of its own and outlives its starter. Raises StartFailed with the last lines of its
    output when it ends or takes longer than the deadline; it is stopped then.
    """
    log = home.logs / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=env)
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        if status(home)["state"] == "up" and _supervisor_pid(home) == process.pid:
            return Detached(process)
        if process.poll() is not None:
            raise StartFailed(f"the stack did not start:\n{_tail(log)}")
        time.sleep(POLL_SECONDS)
    process.terminate()
    try:
        process.wait(DOWN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    down(home)
    raise StartFailed(f"the stack was not up within {deadline_seconds:g} s:\n{_tail(log)}")


def status(home: Home) -> dict[str, Any]:
    """The document of `tutti status --json`. Needs nothing but the home, so it works whatever is broken."""
    document = read_json(home.status_file)
    supervisor = document.pop("supervisor", None)
    if supervisor is None or ProcessIdentity(**supervisor).process() is None:
        return {"state": "down", "processes": []}
    return document


def down(home: Home) -> None:
    """Ends the stack of this home, also one that was started elsewhere or killed in part; nothing of it is left.

    Nothing happens when it is down already. Raises NotStopped, naming what survived.
    """
    supervisor = home.supervisor()
    process = supervisor.process() if supervisor else None
    if process is not None:
        process.terminate()
        try:
            process.wait(DOWN_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(DOWN_SECONDS)
    if remaining := end_leftovers(home):
        raise NotStopped(_remaining(remaining))
    home.supervisor_file.unlink(missing_ok=True)
    home.status_file.unlink(missing_ok=True)


def reset(home: Home) -> None:
    """Ends the stack and empties its home: data, ports, secrets, addresses, logs. The directory stays."""
    down(home)
    for path in home.path.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def log_names(home: Home) -> list[str]:
    """Whose logs there are."""
    return sorted(path.stem for path in home.logs.glob("*.log"))


def log_lines(home: Home, name: str, last: int = 200, follow: bool = False) -> Iterator[str]:
    """The last lines of one process's log; with `follow` then each new line, until the caller stops asking.

    Raises LocalError when there is no such log, saying which there are.
    """
    path = home.logs / f"{name}.log"
    if not path.is_file():
        raise LocalError(f"no log of {name}; there are: {', '.join(log_names(home)) or 'none'}")
    with path.open(errors="replace") as file:
        yield from file.read().splitlines()[-last:]
        inode = os.fstat(file.fileno()).st_ino
        position = file.tell()
    rest = ""
    while follow:
        with path.open(errors="replace") as file:
            now = os.fstat(file.fileno())
            if now.st_ino != inode:  # The file was full and a new one was begun.
                inode, position = now.st_ino, 0
            file.seek(position)
            *lines, rest = (rest + file.read()).split("\n")
            position = file.tell()
        yield from lines
        time.sleep(FOLLOW_POLL_SECONDS)


def _supervisor_pid(home: Home) -> int | None:
    supervisor = home.supervisor()
    return supervisor.pid if supervisor else None


def _tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _remaining(processes: list[psutil.Process]) -> str:
    return "these processes do not end: " + ", ".join(f"{process.pid} ({process.name()})" for process in processes)

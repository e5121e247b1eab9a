"""Finds and ends processes of a home that outlived their supervisor."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from infra.stack.local.home import Home
from infra.stack.local.process import MARKER

TERM_SECONDS = 3.0
KILL_SECONDS = 10.0
POLL_SECONDS = 0.05


def leftovers(home: Home) -> list[psutil.Process]:
    """Live processes that a supervisor of this home started, directly or through others; never the caller.

    Those of other users are seen by root only, but they exist only where root started them.
    """
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs(process, home)]


def end_leftovers(home: Home) -> list[psutil.Process]:
    """Asks them to stop, then kills what is left. Returns what still lives after that: nothing, normally."""
    for process in leftovers(home):
        _ask_to_stop(process)
    # Looked up again each time: what was asked to stop may leave children behind, and those count as well.
    for process in _after(home, TERM_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return _after(home, KILL_SECONDS)


def _after(home: Home, seconds: float) -> list[psutil.Process]:
    """What is left when the time is up; returns earlier when nothing is left."""
    deadline = time.monotonic() + seconds
    while (remaining := leftovers(home)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return remaining


def _belongs(process: psutil.Process, home: Home) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.name() == "postgres":
            # It overwrites its environment to show a title there, but never leaves its data directory.
            return Path(process.cwd()) == home.path / "postgresql" / "data"
        return process.environ().get(MARKER) == str(home.path)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _ask_to_stop(process: psutil.Process) -> None:
    """SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients to leave."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)

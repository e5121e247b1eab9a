"""The two servers that everything else needs, and how to have only those.

`python -m infra.stack.local.servers --home DIR` runs them in the foreground until SIGTERM. `start_servers` does the
same in a process of its own, so that they are looked after whichever event loop the caller runs; and it gives
fault tests what they need: the real pids, kills, and waiting for what comes after.

Servers that TUTTI_DATABASE_URL and TUTTI_BROKER_URL name are used as they are: neither started nor watched.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from infra.stack.local.home import Home, LocalError, TakenPort, open_home
from infra.stack.local.logs import Terminal
from infra.stack.local.postgresql import prepare_postgresql
from infra.stack.local.process import ProcessSpec
from infra.stack.local.rabbitmq import prepare_rabbitmq
from infra.stack.local.stack import Detached, down, start_detached, status, supervise
from infra.stack.local.supervisor import Supervisor

# A download of 35 MB may be part of it.
START_SECONDS = 900.0
RESTART_SECONDS = 60.0
POLL_SECONDS = 0.02
DEFAULT_MANAGEMENT_PORT = 15672


@dataclass(frozen=True, slots=True)
class PreparedServer:
    """A server's administrator URL and its origin; `process` is None when it is not ours to run."""

    url: str
    origin: str
    process: ProcessSpec | None
    management_url: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedServers:
    """Both, ready to be started. `taken_ports` are to be told to the user."""

    database: PreparedServer
    broker: PreparedServer
    taken_ports: tuple[TakenPort, ...]

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        """Those that we run; the services depend on their names."""
        return tuple(server.process for server in (self.database, self.broker) if server.process is not None)

    @property
    def addresses(self) -> dict[str, str]:
        """The administrators' URLs under the keys of addresses.json."""
        management = self.broker.management_url or ""
        return {"broker": self.broker.url, "management": management, "database": self.database.url}


async def prepare_servers(home: Home) -> PreparedServers:
    """Finds or gets both at the same time and prepares their data; neither runs yet. May take a download.

    Raises LocalError with the remedy when one is not to be had.
    """
    taken: list[TakenPort] = []
    database, broker = await asyncio.gather(
        asyncio.to_thread(_prepare_database, home, taken), asyncio.to_thread(_prepare_broker, home, taken)
    )
    return PreparedServers(database, broker, tuple(taken))


def _prepare_database(home: Home, taken: list[TakenPort]) -> PreparedServer:
    if given := os.environ.get("TUTTI_DATABASE_URL"):
        return PreparedServer(given, "TUTTI_DATABASE_URL", None)
    private = prepare_postgresql(home, taken)
    return PreparedServer(private.url, str(private.programs), private.process)


def _prepare_broker(home: Home, taken: list[TakenPort]) -> PreparedServer:
    if given := os.environ.get("TUTTI_BROKER_URL"):
        management = os.environ.get("TUTTI_MANAGEMENT_URL") or management_url_of(given)
        return PreparedServer(given, "TUTTI_BROKER_URL", None, management)
    private = prepare_rabbitmq(home, taken)
    return PreparedServer(private.url, str(private.programs), private.process, private.management_url)


def management_url_of(broker_url: str) -> str:
    """Where a broker's management API usually is: same host and user, port 15672."""
    parts = urlsplit(broker_url)
    credentials, _, _ = parts.netloc.rpartition("@")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"http://{credentials}{'@' if credentials else ''}{host}:{DEFAULT_MANAGEMENT_PORT}"


@dataclass(frozen=True, slots=True)
class Servers:
    """A running private pair, with the administrators' URLs. Data survive `stop` and the next start."""

    home: Home
    broker_admin_url: str
    management_url: str
    database_admin_url: str
    detached: Detached

    @property
    def broker_pid(self) -> int | None:
        """Of the Erlang machine itself; None between two incarnations."""
        return self._pid("broker")

    @property
    def database_pid(self) -> int | None:
        """Of the postmaster; None between two incarnations."""
        return self._pid("database")

    async def restart_broker(self, *, kill: bool = True) -> None:
        """Kills the broker, or without `kill` asks it to stop, and returns when the supervisor has another one ready."""
        await self._restart("broker", signal.SIGKILL if kill else signal.SIGTERM)

    async def restart_database(self, *, kill: bool = True) -> None:
        """Ends the database and returns when the next one is ready.

        `kill` kills the postmaster, otherwise it shuts down immediately; both make the next one recover.
        """
        await self._restart("database", signal.SIGKILL if kill else signal.SIGQUIT)

    async def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Waits until the process's row of the status satisfies `holds`; TimeoutError after a minute."""
        async with asyncio.timeout(RESTART_SECONDS):
            while True:
                if holds(self._row(name)):
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """Ends both. May be repeated."""
        await asyncio.to_thread(down, self.home)
        await asyncio.to_thread(self.detached.process.wait)

    async def _restart(self, name: str, number: signal.Signals) -> None:
        await self.until(name, lambda row: row["state"] == "ready")
        before = self._row(name)
        with contextlib.suppress(psutil.NoSuchProcess):  # It may crash by itself at this moment.
            psutil.Process(before["pid"]).send_signal(number)
        await self.until(name, lambda row: row["state"] == "ready" and row["restarts"] > before["restarts"])

    def _pid(self, name: str) -> int | None:
        pid: int | None = self._row(name)["pid"]
        return pid

    def _row(self, name: str) -> dict[str, Any]:
        for row in status(self.home)["processes"]:
            if row["name"] == name:
                return dict(row)
        raise LocalError(f"the servers in {self.home.path} are down")


async def start_servers(home: Path) -> Servers:
    """Starts a private pair below `home` and returns when both are ready: some seconds, or a download more.

    Raises LocalError (StartFailed) with the reason otherwise.
    """
    opened = open_home(home)
    argv = [sys.executable, "-m", "infra.stack.local.servers", "--quiet", "--home", str(opened.path)]
    private = {name: value for name, value in os.environ.items() if not name.startswith(GIVEN_SERVERS)}
    detached = await asyncio.to_thread(start_detached, opened, argv, START_SECONDS, private)
    addresses = opened.addresses()
    return Servers(opened, addresses["broker"], addresses["management"], addresses["database"], detached)


GIVEN_SERVERS = ("TUTTI_DATABASE_URL", "TUTTI_BROKER_URL", "TUTTI_MANAGEMENT_URL")


def main() -> int:
    """Exit code 0 after a stop that was asked for, 1 with the reason on stderr otherwise."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.local.servers")
    parser.add_argument("--home", type=Path, required=True, help="directory for data, logs and addresses.json")
    parser.add_argument("--quiet", action="store_true", help="output goes to the log files only")
    arguments = parser.parse_args()
    show = None if arguments.quiet else Terminal()
    began = time.monotonic()

    async def bring_up(supervisor: Supervisor) -> None:
        prepared = await prepare_servers(home)
        for note in prepared.taken_ports:
            supervisor.say(str(note))
        await supervisor.start(prepared.processes)
        home.write_addresses(prepared.addresses)
        for server in (prepared.database, prepared.broker):
            supervisor.say(server.origin)
        supervisor.say(f"up after {time.monotonic() - began:.1f} s; addresses: {home.addresses_file}")

    try:
        home = open_home(arguments.home)
        supervise(home, bring_up, show)
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

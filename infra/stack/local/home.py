"""Where one private stack keeps its state: directories, ports, secrets, addresses, the supervisor's lock."""

import fcntl
import hashlib
import json
import os
import random
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.terminal.addresses import ADDRESSES_FILE, home_path, read_addresses
from infra.terminal.failures import Failure

# Below the range from which Linux hands out ports for outgoing connections (32768 and up), so that a
# remembered port is not taken by some short-lived client while the stack is down.
CHOSEN_PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 200
# psutil derives start times from the boot time, which moves a little when the clock is corrected.
START_TIME_TOLERANCE_SECONDS = 2.0


class LocalError(Failure):
    """Something about this machine that the user can put right; the message says what and how."""


class AlreadyRunning(LocalError):
    """Another supervisor holds this home."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A pid that cannot be mistaken for a later process with the same number."""

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Raises psutil.NoSuchProcess when there is no such process."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The running process, or None when it ended or its number belongs to another process now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) <= START_TIME_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True, slots=True)
class TakenPort:
    """A remembered port that somebody else listens on; `instead` is used until the next start."""

    name: str
    port: int
    owner: "PortOwner"
    instead: int

    def __str__(self) -> str:
        return (
            f"port {self.port}, which {self.name} used so far, is taken by {self.owner}; {self.name} uses"
            f" {self.instead} this time. To have it back, end that process and run: tutti down && tutti up"
        )


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one private stack. Everything the stack writes is below it, except caches."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def addresses_file(self) -> Path:
        return self.path / ADDRESSES_FILE

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def supervisor_file(self) -> Path:
        return self.path / "supervisor.json"

    @property
    def short_name(self) -> str:
        """Eight characters that differ between homes; part of names that must not clash on one machine."""
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()[:8]

    def directory(self, name: str) -> Path:
        """A directory below the home, created with mode 0700 when missing."""
        path = self.path / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def secret(self, name: str) -> str:
        """A random password for this name: made on first use, the same ever after; lower-case hexadecimal."""
        with self._exclusive():
            known = read_json(self.path / "secrets.json")
            if name not in known:
                known[name] = secrets.token_hex(16)
                write_json(self.path / "secrets.json", known)
            return str(known[name])

    def port(self, name: str, taken: list[TakenPort] | None = None) -> int:
        """A port of 127.0.0.1 for this name, the one of last time if it is still free.

        When somebody else took that one, another is chosen for this time, and `taken` gets a note.
        """
        with self._exclusive():
            known = read_json(self.path / "ports.json")
            remembered = known.get(name)
            if remembered is not None and port_is_free(remembered):
                return int(remembered)
            chosen = choose_port(excluded=set(known.values()))
            if remembered is None:
                known[name] = chosen
                write_json(self.path / "ports.json", known)
            elif taken is not None:
                taken.append(TakenPort(name, remembered, port_owner(remembered), chosen))
            return chosen

    def known_ports(self) -> dict[str, int]:
        """The remembered ports by name."""
        return read_json(self.path / "ports.json")

    def addresses(self) -> dict[str, Any]:
        """What addresses.json says; empty when there is none yet."""
        return dict(read_addresses(self.path).document)

    def write_addresses(self, addresses: Mapping[str, Any]) -> None:
        """Replaces addresses.json (mode 0600) in one step: readers see the old or the new document, whole."""
        write_json(self.addresses_file, addresses)

    def supervisor(self) -> ProcessIdentity | None:
        """The live supervisor of this home. A pid file that a dead one left behind does not count."""
        said = self.recorded_supervisor()
        return said if said is not None and said.process() is not None else None

    def recorded_supervisor(self) -> ProcessIdentity | None:
        """What the pid file says, true or stale."""
        document = read_json(self.supervisor_file)
        return ProcessIdentity(document["pid"], document["started_at"]) if document else None

    @contextmanager
    def supervised_by_us(self) -> Iterator[None]:
        """Holds the home for this process. Raises AlreadyRunning when another one does.

        The lock is the kernel's, so it ends with its holder however that dies; the file beside it only tells
        others whom to ask. A stale file therefore needs no repair, it is overwritten.
        """
        lock = os.open(self.path / "supervisor.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self.recorded_supervisor()
                who = f"process {holder.pid}" if holder else "another process"
                raise AlreadyRunning(
                    f"{self.path} is in use by {who}. To end it: tutti down;"
                    " to run a second stack beside it: set TUTTI_HOME to another directory"
                ) from None
            us = ProcessIdentity.of(os.getpid())
            write_json(self.supervisor_file, {"pid": us.pid, "started_at": us.started_at})
            try:
                yield
            finally:
                self.supervisor_file.unlink(missing_ok=True)
        finally:
            os.close(lock)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Held for a read and a write of small files only, hence without a deadline."""
        lock = os.open(self.path / "home.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def open_home(path: Path | None = None) -> Home:
    """The home at `path`, otherwise where `home_path` says; created (mode 0700) when missing.

    Raises LocalError when it cannot be written to.
    """
    resolved = (path or home_path()).expanduser().resolve()
    try:
        resolved.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = Home(resolved)
        home.directory("logs")
    except OSError as error:
        raise LocalError(f"cannot write to {resolved}: {error.strerror}. Set TUTTI_HOME to another directory") from error
    return home


def read_json(path: Path) -> dict[str, Any]:
    """The document in the file; empty when there is no file. Ours are replaced whole, never half written."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes with mode 0600 and replaces the file in one step."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=1)
    new.replace(path)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: connections that a former server left in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def choose_port(excluded: set[int]) -> int:
    """A free port. Random rather than next-free: two stacks that start together must not choose the same."""
    for port in random.sample(CHOSEN_PORTS, PORT_ATTEMPTS):
        if port not in excluded and port_is_free(port):
            return port
    raise LocalError(f"no free port found between {CHOSEN_PORTS.start} and {CHOSEN_PORTS.stop} on 127.0.0.1")


@dataclass(frozen=True, slots=True)
class PortOwner:
    """Who listens on a port, as far as this user may know."""

    pid: int | None
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else self.command


def port_owner(port: int) -> PortOwner:
    """The process that listens on this port of this machine."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,)
            if listens and connection.pid:
                return PortOwner(connection.pid, " ".join(psutil.Process(connection.pid).cmdline())[:80])
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return PortOwner(None, "a process that this user may not look at")

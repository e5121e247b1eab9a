"""A whole platform: started as a user would, in a home of its own, stopped without a trace."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from infra.stack.local import stack
from infra.stack.local.home import Home, open_home
from tests.support.guard import guarded

UP_SECONDS_MAX = 180.0
REQUEST_SECONDS_MAX = 40.0


@dataclass(frozen=True, slots=True)
class Platform:
    """A running platform: its home and the document of addresses.json."""

    home: Home
    addresses: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """For commands that are to work on this platform."""
        return {**clean_environment(), "TUTTI_HOME": str(self.home.path)}

    def partner(self, name: str = "acme") -> httpx2.AsyncClient:
        """An HTTP client with the partner's key."""
        key = self.addresses["partners"][name]["api_key"]
        return httpx2.AsyncClient(
            base_url=self.addresses["ingress"],
            headers={"Authorization": f"Bearer {key}"},
            timeout=REQUEST_SECONDS_MAX,
            trust_env=False,
        )

    def pid(self, name: str) -> int:
        """The pid of a process or service as `tutti status` shows it. Raises LookupError."""
        for row in stack.status(self.home)["processes"]:
            if row["name"] == name and row["pid"]:
                return int(row["pid"])
        raise LookupError(f"{name} is not running")

    async def run(self, *argv: str, stdin: str | None = None) -> tuple[int, str, str]:
        """A command such as `tutti`, `reconcile` or `dlq`, `list`: (exit code, stdout, stderr)."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / argv[0]), *argv[1:],
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self.environment,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() if stdin else None), 120)
        return process.returncode or 0, out.decode(), err.decode()


def clean_environment() -> dict[str, str]:
    """The environment without settings that would point elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TUTTI_")}


@contextmanager
def started(path: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Platform]:
    """A platform for the length of the block. TUTTI_... settings for its services may be given in `env`."""
    home = open_home(path)
    with guarded(path):
        detached = stack.start_detached(
            home,
            [sys.executable, "-m", "infra.stack.cli.main", "up", *flags],
            UP_SECONDS_MAX,
            env={**clean_environment(), **(env or {}), "TUTTI_HOME": str(path)},
        )
        try:
            yield Platform(home, home.addresses())
        finally:
            stack.down(home)
            detached.process.wait(timeout=60)

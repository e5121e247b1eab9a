"""`make demo`: a company at work, in two minutes: real orders, a guided break and repair, a process killed, and the proof."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from infra.stack.demo.story import Story, StoryFailed
from infra.stack.local import stack
from infra.stack.local.home import Home, open_home
from infra.terminal.failures import Failure

UP_SECONDS_MAX = 240.0
DOWN_SECONDS_MAX = 60.0

console = Console()


def main() -> int:
    keep = os.environ.get("KEEP", "") not in ("", "0")
    began = time.monotonic()
    try:
        with _home(keep) as home, _running(home, keep):
            console.print(f"up after {time.monotonic() - began:.0f} s\n")
            asyncio.run(Story(home, console).tell())
            console.print(f"\nThe demo took {time.monotonic() - began:.0f} s.")
            if keep:
                _say_how_to_go_on(home)
    except (Failure, StoryFailed) as error:
        console.print(f"\n[red]The demo failed:[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 130
    return 0


@contextmanager
def _home(keep: bool) -> Iterator[Home]:
    """The project's home; a home of its own while the project's stack is running, so that the two do not disturb each other."""
    home = open_home()
    if stack.status(home)["state"] == "down":
        yield home
        return
    console.print(f"A stack is running in {home.path}; the demo takes a home of its own.")
    if keep:
        yield open_home(Path(tempfile.mkdtemp(prefix="tutti-demo-")))
        return
    with tempfile.TemporaryDirectory(prefix="tutti-demo-") as directory:
        yield open_home(Path(directory))


@contextmanager
def _running(home: Home, keep: bool) -> Iterator[None]:
    console.print("starting PostgreSQL, RabbitMQ and eight services (the first time, RabbitMQ is fetched and unpacked)")
    environment = {**os.environ, "TUTTI_HOME": str(home.path)}
    with console.status("starting"):
        started = stack.start_detached(
            home, [sys.executable, "-m", "infra.stack.cli.main", "up"], UP_SECONDS_MAX, env=environment
        )
    done = False
    try:
        yield
        done = True
    finally:
        if not (keep and done):
            stack.down(home)
            try:
                started.process.wait(DOWN_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                started.process.kill()


def _say_how_to_go_on(home: Home) -> None:
    found = home.addresses()
    console.print("\nIt is still running (KEEP=1). Go on with:")
    if home.path != open_home().path:
        console.print(f"  export TUTTI_HOME={home.path}", soft_wrap=True, highlight=False)
    console.print("  source .venv/bin/activate", highlight=False)
    console.print(
        "  tutti saga list; tutti order submit docs/examples/order.json --wait 10; dlq list; tutti reconcile", highlight=False
    )
    console.print(
        f"  curl -H 'Authorization: Bearer {found['partners']['acme']['api_key']}' {found['ingress']}/v1/orders",
        soft_wrap=True,
        highlight=False,
    )
    console.print("  tutti down", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

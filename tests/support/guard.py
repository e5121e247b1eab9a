"""Ends what tests have started when their own process can no longer do it: it was killed, or a test was over time.

    pytest ── pipe ──> guard, a process of a session of its own
       └── starts the stack of a home, which outlives its starter

The pipe closes with its last writer, however that one ended. A test that is over time ends its process at once (pytest-timeout), and
so does a second Ctrl-C; without the guard a broker, a database and all services would run on for ever.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.local.home import open_home
from infra.stack.local.stack import down

TREE = Path(__file__).parents[2]
OVER = b"over"
# A supervisor that was just begun has not yet said in its home who it is.
BEGINNING_SECONDS = 3.0
END_SECONDS = 30.0


@contextmanager
def guarded(home: Path) -> Iterator[None]:
    """For the length of the block, which starts a stack in this home and stops it again."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.support.guard", str(home)], stdin=subprocess.PIPE, cwd=TREE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.communicate(OVER, timeout=END_SECONDS)


def main() -> None:
    """Waits for the end of the block, or of the process that was in it."""
    if sys.stdin.buffer.read() != OVER:
        time.sleep(BEGINNING_SECONDS)
        down(open_home(Path(sys.argv[1])))


if __name__ == "__main__":
    main()

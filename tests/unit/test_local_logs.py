"""Output of supervised processes: bounded on disk and in memory, readable while it grows."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.local.home import Home, open_home
from infra.stack.local.logs import LogFile, lines_of
from infra.stack.local.stack import log_lines


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "home")


def test_a_log_file_does_not_grow_beyond_its_bound(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "service", largest_bytes=100)
    for number in range(50):
        log.write(b"line %04d" % number)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200
    assert (tmp_path / "service.log").read_text().endswith("line 0049\n")


def test_following_a_log_shows_what_is_written_later(home: Home) -> None:
    log = LogFile(home.logs, "service", largest_bytes=30)
    log.write(b"before")
    lines = log_lines(home, "service", follow=True)
    assert next(lines) == "before"
    for number in range(5):
        log.write(b"after %d" % number)
    assert next(lines) in {f"after {number}" for number in range(5)}
    log.close()


def test_output_that_nobody_reads_any_more_does_not_stop_the_stack(home: Home) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from infra.stack.local.logs import Terminal; t = Terminal(); t('one'); t('two'); raise SystemExit(7)"
    with os.fdopen(writing, "wb") as closed_pipe:
        ran = subprocess.run([sys.executable, "-c", code], stdout=closed_pipe, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (7, b"")


@pytest.mark.asyncio
async def test_a_line_without_end_comes_in_pieces() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"x" * 300_000 + b"\nlast")
    stream.feed_eof()
    lines = [line async for line in lines_of(stream)]
    assert lines[-1] == b"last"
    assert b"".join(lines[:-1]) == b"x" * 300_000
    assert max(map(len, lines)) < 200_000

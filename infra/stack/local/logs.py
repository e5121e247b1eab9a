"""Output of supervised processes: a file for each, bounded in size, and prefixed lines on the terminal."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

LARGEST_FILE_BYTES = 10 * 1024 * 1024
LONGEST_LINE_BYTES = 64 * 1024
REMEMBERED_LINES = 20

Print = Callable[[str], None]


class Terminal:
    """Prints lines until nobody reads them any more; then keeps quiet, because the stack goes on."""

    def __init__(self) -> None:
        self._open = True

    def __call__(self, text: str) -> None:
        if not self._open:
            return
        try:
            print(text, flush=True)
        except OSError:
            self._open = False
            # Otherwise the interpreter would fail to flush what is left, and turn the exit code into 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LogFile:
    """`NAME.log`; when it is full it becomes `NAME.log.1`, replacing the one before."""

    def __init__(self, directory: Path, name: str, largest_bytes: int = LARGEST_FILE_BYTES) -> None:
        self._path = directory / f"{name}.log"
        self._largest_bytes = largest_bytes
        self._file = self._open()

    def write(self, line: bytes) -> None:
        if self._file.tell() + len(line) > self._largest_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._open()
        self._file.write(line + b"\n")

    def close(self) -> None:
        self._file.close()

    def _open(self) -> BinaryIO:
        # Unbuffered: `tutti logs -f` reads the file, and a killed supervisor must not take lines with it.
        return self._path.open("ab", buffering=0)


class Output:
    """Where the lines of one process go; remembers the last ones for the message when it fails."""

    def __init__(self, directory: Path, name: str, show: Print | None) -> None:
        self._file = LogFile(directory, name)
        self._prefix = f"{name:<14} | "
        self._show = show
        self.last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Reads until the process and everyone who inherited its output has closed it."""
        async for line in lines_of(stream):
            self._file.write(line)
            text = line.decode(errors="replace")
            self.last_lines.append(text)
            if self._show is not None:
                self._show(self._prefix + text)

    def close(self) -> None:
        self._file.close()


async def lines_of(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their end. One that is too long comes in pieces, so that memory stays bounded."""
    rest = b""
    while chunk := await stream.read(LONGEST_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LONGEST_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest

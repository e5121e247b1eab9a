"""A TCP proxy that tests put before a server, to hold answers back, to fall silent and to cut connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from yarl import URL

CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Forwards both ways. `accepted` counts the connections that clients have made so far."""

    def __init__(self, host: str, port: int) -> None:
        self.accepted = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        self.release()

    def in_front_of(self, url: str) -> str:
        """The same URL with the proxy's address."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return str(URL(url).with_host(host).with_port(port))

    def hold_answers(self) -> None:
        """From now on what the server says waits here; what it is told still arrives."""
        self._answers_flow.clear()

    def fall_silent(self) -> None:
        """From now on nothing passes, on open and on new connections; nobody is told."""
        self._requests_flow.clear()
        self._answers_flow.clear()

    def release(self) -> None:
        """Lets everything pass again, what has waited first."""
        self._requests_flow.set()
        self._answers_flow.set()

    async def cut(self) -> None:
        """Ends all connections, without what still waits here. New ones are accepted."""
        links = set(self._links)
        for link in links:
            link.cancel()
        if links:
            await asyncio.wait(links)

    async def stop_listening(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, server_writer, self._requests_flow))
                both.create_task(_pump(server_reader, writer, self._answers_flow))
        except* (OSError, _Ended):
            pass
        except* asyncio.CancelledError:
            # `cut` wants the link to end, and nobody awaits its result.
            pass
        finally:
            self._links.discard(link)
            for side in (writer, server_writer):
                if side is not None:
                    side.transport.abort()


class _Ended(Exception):
    """One side has closed, so the other one is closed too."""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await flow.wait()
        writer.write(data)
        await writer.drain()
    raise _Ended


@asynccontextmanager
async def proxy_before(url: str) -> AsyncIterator[TcpProxy]:
    """A proxy before the server of this URL."""
    target = URL(url)
    assert target.host is not None
    assert target.port is not None
    proxy = TcpProxy(target.host, target.port)
    await proxy.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            await proxy.stop_listening()

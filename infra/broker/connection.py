"""Keeps one connection to the broker: connects, notices its end, connects again."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import aiormq
import structlog
from yarl import URL

log = structlog.get_logger(__name__)


class BrokerUnreachable(ConnectionError):
    """There is no connection to the broker, or it ended before the answer."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    startup_seconds: float = 30.0
    attempt_seconds: float = 10.0
    close_seconds: float = 5.0
    heartbeat_seconds: int = 10
    reconnect_seconds: float = 1.0
    """Up to as much again is added at random, so that processes do not come back in step."""


class KeptConnection:
    """aio-pika's robust connection without its fixed interval and without its hold on channels."""

    def __init__(self, url: str, *, name: str, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._url = URL(url).update_query(heartbeat=str(settings.heartbeat_seconds), name=name)
        self._connection: aiormq.Connection | None = None
        self._connected = asyncio.Event()
        self._dropped = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._last_failure = "not connected yet"

    @property
    def ready(self) -> bool:
        return self._connection is not None and not self._connection.is_closed

    async def wait_until_ready(self) -> None:
        await self._connected.wait()

    def current(self) -> aiormq.Connection:
        """The open connection. Raises BrokerUnreachable, at once, while there is no connection."""
        if self._connection is None or self._connection.is_closed:
            raise BrokerUnreachable(f"no connection to the broker: {self._last_failure}")
        return self._connection

    def drop(self) -> None:
        """Gives up a connection that is open and does not answer; a new one follows."""
        self._dropped.set()

    async def start(self) -> None:
        """Connects, and stays connected until `stop`. Raises BrokerUnreachable after `startup_seconds`."""
        assert self._keeper is None, "already started"
        self._keeper = asyncio.create_task(self._keep(), name="kept-connection")
        try:
            async with asyncio.timeout(self._settings.startup_seconds):
                await self._connected.wait()
        except TimeoutError as error:
            await self.stop()
            raise BrokerUnreachable(
                f"no broker at {self._url.host}:{self._url.port} within {self._settings.startup_seconds} s; "
                f"the last failure was: {self._last_failure}"
            ) from error
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Closes the connection. Repeating it changes nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.attempt_seconds):
                    with library_failures():
                        connection = await aiormq.connect(self._url)
            except (BrokerUnreachable, TimeoutError) as error:
                self._last_failure = str(error) or "no answer"
                log.warning("broker-not-reached", reason=self._last_failure)
            else:
                await self._hold(connection)
                log.warning("broker-connection-ended", reason=self._last_failure)
            jitter = random.random()
            await asyncio.sleep(self._settings.reconnect_seconds * (1 + jitter))

    async def _hold(self, connection: aiormq.Connection) -> None:
        """Returns when the connection has ended, by itself or because it was dropped."""
        self._dropped.clear()
        self._connection = connection
        self._connected.set()
        ended = connection.closing
        dropped = asyncio.create_task(self._dropped.wait())
        try:
            await asyncio.wait({ended, dropped}, return_when=asyncio.FIRST_COMPLETED)
            self._last_failure = _words(ended) if ended.done() else "it did not answer and was dropped"
        finally:
            self._connected.clear()
            self._connection = None
            dropped.cancel()
            with suppress(BrokerUnreachable, TimeoutError):
                async with asyncio.timeout(self._settings.close_seconds):
                    with library_failures():
                        await connection.close()


@contextmanager
def library_failures() -> Iterator[None]:
    """Turns what aiormq raises into BrokerUnreachable, including its CancelledError, which is not ours.

    aiormq cancels its own tasks when a channel or connection dies, and the CancelledError reaches the code
    that awaits them. A wish to cancel *us* shows in `cancelling()`, and only that goes on.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerUnreachable("the connection ended") from error
    except (aiormq.AMQPError, aiormq.ChannelInvalidStateError, OSError, RuntimeError) as error:
        raise BrokerUnreachable(str(error) or type(error).__name__) from error
    except Exception as error:
        # aiormq rejects whatever waits with a bare Exception when it knows no reason for the end.
        if type(error) is not Exception:
            raise
        raise BrokerUnreachable("the connection ended without a reason") from error


def _words(ended: asyncio.Future[None]) -> str:
    error = None if ended.cancelled() else ended.exception()
    return str(error) or type(error).__name__ if error else "closed"

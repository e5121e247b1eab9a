"""Moves every dead letter from its broker queue into the database, and only then acknowledges it.

    credit.commands.dead ──┐
    ingress.events.dead ───┤ one channel ──> batch ──> one transaction (failures, history, news for the orchestrator) ──> acknowledge
    ... ───────────────────┘                     └─ some row's data are at fault: one by one, the culprit without its record

Acknowledging "multiple" takes everything on the channel up to a tag, from all queues: therefore tags are taken strictly in order,
without a gap. A crash between commit and acknowledgement brings the messages again, and their keys are known then. Nothing is parsed
but headers, by functions that accept anything (letters.py).
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from sqlalchemy.exc import SQLAlchemyError
from yarl import URL

from contracts.deadletters.record import unknown_original
from contracts.deadletters.v1 import DeadLetterOpened
from contracts.message import owner_of
from contracts.registry import FAILURE_DESK, queues
from dlq_tools.adapters import collecting, reading
from dlq_tools.domain import State
from dlq_tools.intake import Intake
from dlq_tools.letters import Letter, read
from dlq_tools.metrics import COLLECTED, WAITING
from dlq_tools.settings import Settings
from infra.broker import lenient_frames
from infra.broker.connection import BrokerUnreachable, library_failures
from infra.broker.topology import DEAD_SUFFIX
from infra.chassis.metrics import CONSUMER_UP
from infra.chassis.patience import Patience
from infra.chassis.rest import rest
from infra.chassis.runtime import Runtime

HEARTBEAT_SECONDS: Final = 10
CONNECT_SECONDS_MAX: Final = 10.0
CLOSE_SECONDS_MAX: Final = 5.0
PROBE_SECONDS_MAX: Final = 5.0


async def collect_dead_letters(runtime: Runtime, settings: Settings) -> None:
    """Runs until the process stops; survives restarts of broker and database."""
    lenient_frames.install()
    collector = Collector(runtime, settings)
    while not runtime.stopping.is_set():
        try:
            await collector.session()
        except (BrokerUnreachable, TimeoutError) as error:
            runtime.log.warning("collector_disconnected", reason=str(error)[:300] or "no answer in time")
        finally:
            collector.mark(False)
        # Added at random, so that processes do not come back in step.
        await rest(runtime.stopping, settings.collector_reconnect_seconds * (1 + random.random()))


async def keep_house(runtime: Runtime, settings: Settings) -> None:
    """Tells Prometheus what waits, and forgets keys of collected messages when no copy can come any more."""
    next_purge = time.monotonic()
    while not runtime.stopping.is_set():
        try:
            async with runtime.engine.begin() as connection:
                waiting = await reading.counts(connection)
                if time.monotonic() >= next_purge:
                    await collecting.purge_collected(connection, settings.collected_retention_days)
                    next_purge = time.monotonic() + settings.purge_interval_seconds
            for state in (State.OPEN, State.REPLAYING, State.PARKED):
                WAITING.labels(state.value).set(waiting.get(state.value, 0))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            runtime.log.warning("dead_letters_not_counted", error=str(error)[:300])
        await rest(runtime.stopping, settings.measure_interval_seconds)


class Collector:
    """Collects over one connection at a time. Its queues count for the process' readiness."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._queues = queues()
        self._patience = Patience(FAILURE_DESK, "*" + DEAD_SUFFIX, runtime.stopping)
        self.mark(False)

    def mark(self, up: bool) -> None:
        """Says whether every dead queue has a consumer of ours."""
        for queue in self._queues:
            self._runtime.consumption.up[queue + DEAD_SUFFIX] = up
            CONSUMER_UP.labels(FAILURE_DESK, queue + DEAD_SUFFIX).set(up)

    async def session(self) -> None:
        """Connects and collects until the process stops. Raises BrokerUnreachable or TimeoutError when the connection has ended."""
        url = URL(self._settings.broker_url.get_secret_value()).update_query(heartbeat=str(HEARTBEAT_SECONDS))
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            with library_failures():
                connection = await aio_pika.connect(url, client_properties={"connection_name": "deadletters collector"})
        intake = Intake()
        try:
            connection.close_callbacks.add(intake.end)
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                with library_failures():
                    channel = await self._subscribe(connection, intake)
            self.mark(True)
            await self._collect(connection, channel, intake)
        finally:
            await _close(connection)

    async def _subscribe(self, connection: AbstractConnection, intake: Intake) -> AbstractChannel:
        channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(intake.end)
        await channel.set_qos(prefetch_count=self._settings.collector_prefetch_count)
        for queue in self._queues:
            dead = await channel.get_queue(queue + DEAD_SUFFIX, ensure=False)
            await dead.consume(partial(intake.take, queue))
        return channel

    async def _collect(self, connection: AbstractConnection, channel: AbstractChannel, intake: Intake) -> None:
        next_probe = time.monotonic() + self._settings.watchdog_interval_seconds
        while not self._runtime.stopping.is_set():
            batch = intake.next_batch(self._settings.collector_batch_size_max, self._settings.collector_batch_bytes_max)
            if batch:
                await self._store([read(found, datetime.now(UTC)) for found, _ in batch])
                await self._acknowledge(channel, batch[-1][1])
            elif intake.ended:
                raise BrokerUnreachable(intake.reason)
            elif time.monotonic() >= next_probe:
                await self._probe(connection)
                next_probe = time.monotonic() + self._settings.watchdog_interval_seconds
            else:
                await self._stop_or_arrival(intake, next_probe - time.monotonic())

    async def _acknowledge(self, channel: AbstractChannel, tag: int) -> None:
        """Acknowledges the delivery and all before it."""
        with library_failures():
            underlay = await channel.get_underlay_channel()
            await underlay.basic_ack(tag, multiple=True)

    async def _stop_or_arrival(self, intake: Intake, seconds: float) -> None:
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        arrival = asyncio.create_task(intake.wake.wait())
        try:
            await asyncio.wait({stopping, arrival}, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            arrival.cancel()

    async def _probe(self, connection: AbstractConnection) -> None:
        """Connected is not the same as consuming: the broker may have cancelled a consumer without closing anything."""
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            with library_failures():
                channel = await connection.channel(publisher_confirms=False)
                for queue in self._queues:
                    declared = await channel.declare_queue(queue + DEAD_SUFFIX, passive=True)
                    if not declared.declaration_result.consumer_count:
                        raise BrokerUnreachable(f"{queue}{DEAD_SUFFIX} has lost its consumer")
                await channel.close()

    async def _store(self, letters: Sequence[Letter]) -> None:
        """Commits them, however long the database is away; nothing is acknowledged before.

        Raises CancelledError when the process stops during an outage: what was not stored stays in its queue.
        """
        try:
            await self._commit(letters)
            return
        except SQLAlchemyError as error:
            self._runtime.log.error("dead_letters_one_by_one", letters=len(letters), error=str(error)[:500])
        for letter in letters:
            try:
                await self._commit([letter])
            except SQLAlchemyError as error:
                await self._commit([_bare(letter, error)])

    async def _commit(self, letters: Sequence[Letter]) -> None:
        """Raises SQLAlchemyError only when the data are at fault."""
        await self._patience.run(lambda: self._transaction(letters))

    async def _transaction(self, letters: Sequence[Letter]) -> None:
        async with self._runtime.unit() as unit:
            for letter in await collecting.collect(unit.connection, letters):
                if _is_news(letter):
                    unit.send(
                        DeadLetterOpened(
                            dead_letter_id=letter.id,
                            queue=letter.queue,
                            type=letter.type,
                            operation_id=letter.operation_id and letter.operation_id[:200],
                            error_class=letter.error_class,
                            error=letter.error,
                        ),
                        correlation_id=letter.correlation_id,
                        partner_id=letter.partner_id,
                    )
        for letter in letters:
            COLLECTED.labels(letter.queue, letter.kind).inc()


def _is_news(letter: Letter) -> bool:
    """Whether its process is told. Letters about the desk's own news are not news, or one bad one would breed others for ever."""
    return bool(letter.correlation_id) and letter.correlation_id.isprintable() and owner_of(letter.type) != FAILURE_DESK


def _bare(letter: Letter, error: Exception) -> Letter:
    """The bytes and where they were, without a record that no row can take."""
    return replace(
        letter, type="", message_id="", source=None, correlation_id="", operation_id=None, subject="", partner_id=None,
        identity=(), error_class="UnstorableFailure", error=f"its record could not be stored: {type(error).__name__}", trace="",
        service_version="", original=unknown_original("its record could not be stored"),
    )  # fmt: skip


async def _close(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            with library_failures():
                await connection.close()
    except (BrokerUnreachable, TimeoutError):
        return

"""The publisher against a real broker: each way to lose a channel or a connection.

These tests also pin what the publisher uses of aiormq below its public interface.
"""

import asyncio
from collections import Counter
from dataclasses import replace

import aiormq
import pytest

from infra.broker.publisher import Outcome
from tests.integration.broker.publishing import (
    ENDLESS,
    FAULT_SECONDS,
    SHORT,
    connected,
    contents,
    ids,
    ids_of,
    message,
    outcomes,
    proxied,
    until_channels,
    until_not_ready,
    until_queued,
)
from tests.support.servers import TestBroker, store_queue_names

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]


async def test_what_is_in_flight_when_the_connection_is_cut_is_unknown_and_goes_out_again_afterwards(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message() for _ in range(20)]
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        proxy.hold_answers()
        publishing = asyncio.create_task(publisher.publish(batch))
        await until_queued(channel, 20)
        async with asyncio.timeout(FAULT_SECONDS):
            await proxy.cut()
            first = await publishing
        proxy.release()
        async with asyncio.timeout(FAULT_SECONDS):
            await publisher.wait_until_ready()
        second = await publisher.publish(batch)

    assert outcomes(first) == [Outcome.UNKNOWN] * 20
    assert outcomes(second) == [Outcome.CONFIRMED] * 20
    assert ids_of(await contents(channel)) == ids(batch) * 2


async def test_a_connection_that_is_cut_while_its_channel_opens_is_no_cancellation(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        proxy.hold_answers()
        publishing = asyncio.create_task(publisher.publish([message()]))
        async with asyncio.timeout(FAULT_SECONDS):
            await until_channels(broker, 2)
            await proxy.cut()
            receipts = await publishing

    assert outcomes(receipts) == [Outcome.UNKNOWN]


async def test_comes_back_after_the_broker_has_closed_the_connection(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    async with connected(broker.url, ENDLESS) as publisher:
        await publisher.publish([message("nobody")])
        await broker.close_connections()
        await until_not_ready(publisher)
        async with asyncio.timeout(FAULT_SECONDS):
            lost = await publisher.publish([message()])
            await publisher.wait_until_ready()
            back = await publisher.publish([message("nobody")])

    assert outcomes(lost) == [Outcome.UNKNOWN]
    assert "CONNECTION_FORCED" in lost[0].reason
    assert outcomes(back) == [Outcome.UNROUTABLE]


async def test_answers_at_once_while_there_is_no_connection(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await proxy.stop_listening()
        await until_not_ready(publisher)
        async with asyncio.timeout(FAULT_SECONDS):
            receipts = await publisher.publish([message(), message()])

    assert outcomes(receipts) == [Outcome.UNKNOWN] * 2
    assert "no connection" in receipts[0].reason


async def test_lets_others_run_while_there_is_no_connection(broker: TestBroker) -> None:
    async with proxied(broker.url, ENDLESS) as (proxy, publisher):
        await proxy.stop_listening()
        await until_not_ready(publisher)
        others = asyncio.Event()
        asyncio.get_running_loop().call_soon(others.set)

        await publisher.publish([message()])

        assert others.is_set()


async def test_under_a_memory_alarm_the_first_batch_is_unknown_and_nothing_more_is_sent(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    first, second, third = [[message() for _ in range(3)] for _ in range(3)]
    async with proxied(broker.url, SHORT) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        async with broker.memory_alarm():
            blocked = [await publisher.publish(batch) for batch in (first, second, second, third)]
        async with asyncio.timeout(FAULT_SECONDS):
            while outcomes(again := await publisher.publish(first)) != [Outcome.CONFIRMED] * 3:
                assert outcomes(again) == [Outcome.UNKNOWN] * 3

        assert [outcomes(each) for each in blocked] == [[Outcome.UNKNOWN] * 3] * 4
        assert proxy.accepted == 1
    # Once out of the socket, after the alarm, and once again; the other batches never left us.
    arrived = Counter(ids_of(await contents(channel)))
    assert arrived.keys() == set(ids(first))
    assert min(arrived.values()) >= 2


async def test_a_broker_that_falls_silent_loses_channel_and_connection_and_is_found_again(
    broker: TestBroker, channel: aiormq.abc.AbstractChannel
) -> None:
    batch = [message() for _ in range(3)]
    async with proxied(broker.url, SHORT) as (proxy, publisher):
        await publisher.publish([message("nobody")])
        proxy.fall_silent()
        unanswered = await publisher.publish(batch)
        unopened = await publisher.publish(batch)
        await proxy.cut()
        proxy.release()
        async with asyncio.timeout(FAULT_SECONDS):
            await publisher.wait_until_ready()
            back = await publisher.publish(batch)

        assert proxy.accepted > 1
    assert outcomes(unanswered) == outcomes(unopened) == [Outcome.UNKNOWN] * 3
    assert "no answer" in unanswered[0].reason
    assert "does not open a channel" in unopened[0].reason
    assert outcomes(back) == [Outcome.CONFIRMED] * 3


async def test_survives_the_broker_being_killed(broker: TestBroker, channel: aiormq.abc.AbstractChannel) -> None:
    if broker.servers.private is None:
        pytest.skip("the servers of TUTTI_TEST_HOME are not ours to kill")
    batch = [message() for _ in range(50)]
    settings = replace(ENDLESS, timeout_seconds=5.0)
    async with connected(broker.url, settings) as publisher:
        await publisher.publish(batch)
        await store_queue_names(broker.servers.broker_pid)
        await broker.servers.private.restart_broker(kill=True)
        async with asyncio.timeout(60):
            while outcomes(receipts := await publisher.publish(batch)) != [Outcome.CONFIRMED] * 50:
                assert Outcome.REFUSED not in outcomes(receipts)
                await asyncio.wait_for(publisher.wait_until_ready(), 60)

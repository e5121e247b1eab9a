"""The relay on a real outbox, with a scripted broker: what is deleted, what backs off, what is parked, what is swept up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from contracts.inventory.v1 import StockRecovered
from infra.broker.publisher import Outcome, Outgoing, Publisher, Receipt
from infra.chassis import outbox
from infra.chassis.outbox import OutboxRow, new_id
from infra.chassis.relay import OutboxRelay
from infra.chassis.unit import unit_of_work
from tests.support.ledger_bench import Bench
from tests.support.ledger_service import settings
from tests.support.waiting import wait_until

WAIT_SECONDS = 30.0
PROMPT = {"sweep_interval_seconds": 0.02, "sweep_age_seconds": 0.001, "publish_timeout_seconds": 0.01}


@dataclass(slots=True)
class ScriptedBroker:
    """Says of each message what it is told to say, once; then confirms."""

    verdicts: dict[str, Outcome] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    away: bool = False
    gate: asyncio.Event | None = None
    looked_for: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)
    twice_in_flight: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Asked before each sweep."""
        self.looked_for += 1
        return not self.away

    async def several_sweeps(self) -> None:
        """Waits until this many have begun, so that all of them but the last are over."""
        target = self.looked_for + 4
        await wait_until(lambda: self.looked_for >= target)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Receipt]:
        ids = [message.message_id for message in batch]
        self.twice_in_flight += [one for one in ids if self.in_flight[one]]
        self.in_flight.update(ids)
        if self.gate is not None:
            await self.gate.wait()
        self.published += ids
        self.in_flight.subtract(ids)
        return [Receipt(self.verdicts.pop(one, Outcome.CONFIRMED), "as scripted") for one in ids]


def row(routing_key: str = "credit.credit-reserved.v1", exchange: str = "events") -> OutboxRow:
    return OutboxRow(
        message_id=new_id(), exchange=exchange, routing_key=routing_key, type=routing_key, correlation_id="s1", body=b"{}"
    )


def relay_of(bench: Bench, broker: ScriptedBroker, **values: float) -> OutboxRelay:
    return OutboxRelay("credit", bench.engine, cast("Publisher", broker), settings(**{**PROMPT, **values}))


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[OutboxRelay]:
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        async with asyncio.timeout(WAIT_SECONDS):
            await task


async def committed(bench: Bench, *rows: OutboxRow) -> None:
    async with bench.engine.begin() as connection:
        await outbox.insert(connection, rows)


async def left(bench: Bench) -> list[str]:
    return [row[0] for row in await bench.rows("SELECT message_id FROM outbox ORDER BY position")]


async def test_a_row_is_deleted_only_after_the_broker_has_confirmed_it(bench: Bench) -> None:
    broker = ScriptedBroker(gate=asyncio.Event())
    one = row()
    await committed(bench, one)

    async with running(relay_of(bench, broker, sweep_age_seconds=60)) as relay:
        relay.submit([one])
        await wait_until(lambda: broker.in_flight[one.message_id] == 1)
        await relay._delete_confirmed()
        assert await left(bench) == [one.message_id]
        assert broker.gate is not None
        broker.gate.set()
        await wait_until(lambda: _empty(bench))

    assert broker.published == [one.message_id]


async def test_rows_that_a_crash_left_behind_are_swept_up_in_order(bench: Bench) -> None:
    broker, rows = ScriptedBroker(), [row() for _ in range(20)]
    await committed(bench, *rows)

    async with running(relay_of(bench, broker)):
        await wait_until(lambda: _empty(bench))

    assert list(dict.fromkeys(broker.published)) == [one.message_id for one in rows]


async def test_rows_younger_than_the_memory_of_the_relay_are_left_to_it(bench: Bench) -> None:
    broker = ScriptedBroker()
    await committed(bench, row())

    relay = relay_of(bench, broker, sweep_age_seconds=60)
    await relay._sweep()
    await relay.drain()

    assert broker.published == []
    assert len(await left(bench)) == 1


async def test_an_id_that_waits_in_memory_is_never_twice_in_flight_although_the_sweeper_runs(bench: Bench) -> None:
    broker, rows = ScriptedBroker(gate=asyncio.Event()), [row() for _ in range(50)]
    await committed(bench, *rows)

    async with running(relay_of(bench, broker)) as relay:
        relay.submit(rows)
        await broker.several_sweeps()
        assert broker.gate is not None
        broker.gate.set()
        await wait_until(lambda: _empty(bench))

    assert broker.twice_in_flight == []


async def test_a_command_that_nobody_takes_backs_off_and_stays(bench: Bench) -> None:
    one = row("credit.reserve-credit.v1", "commands")
    broker = ScriptedBroker({one.message_id: Outcome.UNROUTABLE})
    await committed(bench, one)
    relay = relay_of(bench, broker)

    relay.submit([one])
    await relay.drain()

    ((error, parked, waits),) = await bench.rows("SELECT last_error, parked, due_at > now() FROM outbox")
    assert error.startswith("unroutable")
    assert (parked, waits) == (False, True)


async def test_an_event_with_a_receiver_that_comes_back_unroutable_stays_and_one_without_is_done(bench: Bench) -> None:
    wanted, unwanted = row("credit.credit-reserved.v1"), row("procurement.goods-ordered.v1")
    broker = ScriptedBroker({wanted.message_id: Outcome.UNROUTABLE, unwanted.message_id: Outcome.UNROUTABLE})
    await committed(bench, wanted, unwanted)
    relay = relay_of(bench, broker)

    relay.submit([wanted, unwanted])
    await relay.drain()

    assert await left(bench) == [wanted.message_id]


async def test_what_the_broker_refuses_is_parked_visibly_and_not_sent_again(bench: Bench) -> None:
    bad, good = row(), row()
    broker = ScriptedBroker({bad.message_id: Outcome.REFUSED})
    await committed(bench, bad, good)

    async with running(relay_of(bench, broker)) as relay:
        relay.submit([bad, good])
        await wait_until(lambda: _one_left(bench))
        await broker.several_sweeps()

    assert await bench.rows("SELECT message_id, parked FROM outbox") == [(bad.message_id, True)]
    assert broker.published.count(bad.message_id) == 1


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.NACKED])
async def test_what_may_not_have_arrived_is_sent_again_under_the_same_id(bench: Bench, outcome: Outcome) -> None:
    one = row()
    broker = ScriptedBroker({one.message_id: outcome})
    await committed(bench, one)

    async with running(relay_of(bench, broker)) as relay:
        relay.submit([one])
        await wait_until(lambda: _empty(bench))

    assert broker.published == [one.message_id, one.message_id]


async def test_while_the_broker_is_away_nothing_is_swept_and_nothing_lost(bench: Bench) -> None:
    broker = ScriptedBroker(away=True)
    await committed(bench, row(), row())

    async with running(relay_of(bench, broker)):
        await broker.several_sweeps()
        assert broker.published == []
        broker.away = False
        await wait_until(lambda: _empty(bench))

    assert len(set(broker.published)) == 2


async def test_two_relays_on_one_outbox_share_the_rows(bench: Bench) -> None:
    first, second, rows = ScriptedBroker(), ScriptedBroker(), [row() for _ in range(300)]
    await committed(bench, *rows)

    # With a lease that outlasts the test: what one has claimed is not the other's.
    slow = {"publish_timeout_seconds": 30.0, "relay_batch_size_max": 10}
    async with running(relay_of(bench, first, **slow)), running(relay_of(bench, second, **slow)):
        await wait_until(lambda: _empty(bench))

    assert Counter(first.published + second.published) == Counter(one.message_id for one in rows)


async def test_what_does_not_fit_into_memory_is_the_sweepers(bench: Bench) -> None:
    broker, rows = ScriptedBroker(), [row() for _ in range(30)]
    await committed(bench, *rows)

    async with running(relay_of(bench, broker, relay_queue_size_max=10)) as relay:
        relay.submit(rows)
        await wait_until(lambda: _empty(bench))

    assert set(broker.published) == {one.message_id for one in rows}


async def test_a_lost_deletion_is_a_second_copy_under_the_same_id_and_nothing_else(bench: Bench) -> None:
    broker, one = ScriptedBroker(), row()
    await committed(bench, one)
    relay = relay_of(bench, broker)
    relay.submit([one])
    await relay._publish_batch()  # confirmed, and then the process ends

    async with running(relay_of(bench, broker)):
        await wait_until(lambda: _empty(bench))

    assert broker.published == [one.message_id] * 2


async def test_every_emission_is_logged_and_outlives_its_outbox_row(bench: Bench) -> None:
    broker, one = ScriptedBroker(), row()
    await committed(bench, one)

    async with running(relay_of(bench, broker)):
        await wait_until(lambda: _empty(bench))

    assert await bench.rows("SELECT message_id, type FROM emission") == [(one.message_id, one.type)]


async def test_a_unit_of_work_sends_nothing_when_its_block_raises(bench: Bench) -> None:
    relay = relay_of(bench, ScriptedBroker())
    event = StockRecovered.model_validate({"sku": "A", "available": "1", "sequence": 1})

    async def send_and_fail() -> None:
        async with unit_of_work("credit", bench.engine, relay) as unit:
            unit.send(event)
            raise LookupError

    with pytest.raises(LookupError):
        await send_and_fail()

    assert await left(bench) == []
    async with unit_of_work("credit", bench.engine, relay) as unit:
        message_id = unit.send(event)
    assert await left(bench) == [message_id]


async def _empty(bench: Bench) -> bool:
    return not await left(bench)


async def _one_left(bench: Bench) -> bool:
    return len(await left(bench)) == 1

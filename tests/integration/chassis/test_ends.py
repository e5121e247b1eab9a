"""How an input ends that cannot be handled: visibly, with the true cause, without its neighbours, and blamed for crashes only."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.service import Context, Decision, RowInput
from tests.support.ledger_bench import Bench, Replica
from tests.support.ledger_messages import create_shipment, reserve
from tests.support.ledger_service import Account, Effect, Wakeup, Wakeups, settings


@pytest.mark.parametrize(
    "spoilt",
    [
        b"", b"no json", b"\xff\xfe", b"[]", b"null", b'{"body": "e30="}', b'{"body": 7}', b"[" * 100_000,
        b'{"body": "e30=", "headers": null, "content_type": null, "content_encoding": null, "message_id": null, "type": null, '
        b'"sender": null, "exchange": "", "routing_key": ""}',
    ],
    ids=["empty", "text", "no UTF-8", "a list", "null", "fields missing", "no base64", "nested", "no headers"],
)  # fmt: skip
@pytest.mark.parametrize("begun", [0, 5], ids=["fresh", "begun before"])
async def test_a_retry_row_that_cannot_be_read_is_a_dead_letter_with_its_bytes_and_its_neighbours_go_on(
    bench: Bench, spoilt: bytes, begun: int
) -> None:
    replica, bad, good = bench.replica(), reserve("s1:step", buyer="busy-1.A"), reserve("s2:step", buyer="busy-1.B")
    replica.hold_retries()
    await replica.turn(bad, good)
    change = "UPDATE retry SET raw = :raw, tries = :tries WHERE message_id = :id"
    await bench.execute(change, raw=spoilt, tries=begun, id=bad.message_id)
    replica.hold_retries(False)

    await bench.finish(replica)

    assert await bench.effects() == ["do"]
    (letter,) = await bench.letters()
    assert (letter["message_id"], letter["source"], letter["attempts"]) == (bad.message_id, "/orchestrator", 2)
    assert "cannot be read from its row" in letter["error"]
    assert await bench.rows("SELECT body FROM outbox WHERE exchange = 'dead-letters'") == [(spoilt,)]
    assert await bench.inbox() == {bad.message_id: "dead", good.message_id: "handled"}


async def test_a_retry_row_that_holds_another_message_is_a_dead_letter_and_runs_nothing(bench: Bench) -> None:
    replica, bad = bench.replica(), reserve("s1:step", buyer="busy-1.A")
    replica.hold_retries()
    await replica.turn(bad)
    await bench.execute("UPDATE retry SET raw = :raw", raw=reserve("s2:step").to_json())
    replica.hold_retries(False)

    await bench.finish(replica)

    assert await bench.effects() == []
    assert [letter["message_id"] for letter in await bench.letters()] == [bad.message_id]


class Alarms(Wakeups):
    """A second source, never with anything due. Its first claim meets an outage."""

    name = "alarm"

    def __init__(self) -> None:
        self.outages = 1

    async def claim(self, connection: AsyncConnection, limit: int) -> Sequence[Wakeup]:
        if self.outages:
            self.outages -= 1
            raise ConnectionResetError("the connection was cut")
        return []


async def test_an_outage_in_one_source_does_not_lose_what_another_has_claimed(bench: Bench) -> None:
    replica = bench.replica(sources=(Wakeups(), alarms := Alarms()), settings=settings(row_poll_seconds=0.001))
    replica.ready_for_rows()
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")

    await replica.turn()

    assert alarms.outages == 0
    assert await bench.effects() == ["row"]


# What ends by a stop is no crash.


async def suspect_delivery(bench: Bench, replica: Replica) -> Coroutine[Any, Any, None]:
    return replica.turn(reserve("s1:step", deliveries=2))


async def suspect_retry(bench: Bench, replica: Replica) -> Coroutine[Any, Any, None]:
    replica.hold_retries()
    await replica.turn(reserve("s1:step", buyer="busy-1.A"))
    await bench.execute("UPDATE retry SET tries = 5")
    replica.hold_retries(False)
    return replica.turn()


async def suspect_left_behind(bench: Bench, replica: Replica) -> Coroutine[Any, Any, None]:
    await replica.turn(create_shipment("s1:step"))
    await replica.call()
    replica.forget_calls()
    return replica.turn()


async def suspect_row(bench: Bench, replica: Replica) -> Coroutine[Any, Any, None]:
    replica.ready_for_rows()
    await bench.execute("INSERT INTO wakeup (id, key, tries) VALUES ('w1', 'K', 5)")
    return replica.turn()


Suspect = Callable[[Bench, Replica], Coroutine[Any, Any, Coroutine[Any, Any, None]]]
SUSPECTS: Sequence[Suspect] = (suspect_delivery, suspect_retry, suspect_left_behind, suspect_row)


async def stopped_in_the_transaction(
    bench: Bench, suspect: Suspect, monkeypatch: pytest.MonkeyPatch, end: Callable[[Replica], BaseException]
) -> list[int]:
    """The suspect's tries after its transaction has ended with this."""
    replica = bench.replica(sources=(Wakeups(),), settings=settings(call_lease_seconds=0.001, row_poll_seconds=0.001))
    work = await suspect(bench, replica)

    async def ended(*_: object, **__: object) -> None:
        assert await bench.rows("SELECT tries FROM suspect") == [(1,)], "the try is committed before the input is touched"
        raise end(replica)

    monkeypatch.setattr(replica.loop.committing, "transaction", ended)
    with pytest.raises(asyncio.CancelledError):
        await work
    return [tries for (tries,) in await bench.rows("SELECT tries FROM suspect")]


def stop(replica: Replica) -> None:
    replica.loop.stop()


@pytest.mark.parametrize("suspect", SUSPECTS)
async def test_a_stop_during_an_outage_is_not_counted_as_a_crash(
    bench: Bench, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outage(replica: Replica) -> BaseException:
        stop(replica)
        return ConnectionResetError("the connection was cut")

    assert await stopped_in_the_transaction(bench, suspect, monkeypatch, outage) == [0]


@pytest.mark.parametrize("suspect", SUSPECTS)
async def test_a_turn_that_is_cut_short_by_a_stop_is_not_counted_as_a_crash(
    bench: Bench, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(replica: Replica) -> BaseException:
        stop(replica)
        return asyncio.CancelledError()

    assert await stopped_in_the_transaction(bench, suspect, monkeypatch, cut_short) == [0]


@pytest.mark.parametrize("suspect", SUSPECTS)
async def test_an_end_that_nobody_asked_for_stays_counted(
    bench: Bench, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await stopped_in_the_transaction(bench, suspect, monkeypatch, lambda _: asyncio.CancelledError()) == [1]


async def test_a_try_that_cannot_be_taken_back_does_not_keep_the_loop_from_stopping(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ConnectionRefusedError("the database is away")

    monkeypatch.setattr("infra.chassis.suspects.take_back", away)

    def outage(replica: Replica) -> BaseException:
        stop(replica)
        return ConnectionResetError("the connection was cut")

    assert await stopped_in_the_transaction(bench, suspect_delivery, monkeypatch, outage) == [1]


# What ends with an exception is not said to have ended the process.


def refuse_to_save(replica: Replica, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = replica.service.consumers[0].repository
    save = repository.save

    async def refusing(connection: AsyncConnection, changed: Mapping[str, Account], facts: Sequence[object]) -> None:
        if any(isinstance(fact, Effect) and fact.direction == direction for fact in facts):
            await connection.execute(text("SELECT CAST('not a number' AS integer)"))
        await save(connection, changed, facts)

    monkeypatch.setattr(repository, "save", refusing)


@pytest.mark.parametrize("forgotten", [False, True], ids=["heard of its calls", "left behind by another process"])
async def test_concluding_that_cannot_be_stored_is_a_dead_letter_that_names_the_cause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    replica = bench.replica()
    await replica.turn(create_shipment("s1:step"))
    await replica.call()
    refuse_to_save(replica, "do", monkeypatch)
    if forgotten:
        replica.forget_calls()

    await replica.turn(reserve("s2:step", buyer="no"))

    (letter,) = await bench.letters()
    assert (letter["kind"], letter["operation_id"]) == ("permanent", "s1:step")
    assert "InvalidTextRepresentationError" in letter["error"]
    assert "not a number" in letter["error"]
    assert (await bench.operation("s1:step"))[0] == "claimed"
    assert (await bench.operation("s2:step"))[0] == "refused"
    assert await bench.rows("SELECT 1 FROM suspect") == []


async def test_concluding_whose_states_cannot_be_loaded_is_a_dead_letter_as_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.replica()
    await replica.turn(create_shipment("s1:step"))
    await replica.call()

    async def load(*_: object) -> Mapping[str, Account]:
        raise KeyError("a state that nobody knows")

    monkeypatch.setattr(replica.service.consumers[0].repository, "load", load)
    await replica.turn()

    (letter,) = await bench.letters()
    assert "KeyError: 'a state that nobody knows'" in letter["error"]
    assert await bench.rows("SELECT 1 FROM operation WHERE pending_do IS NOT NULL") == []


class Telling(Wakeups):
    """Keeps what it is told when a row is given up."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def give_up(self, row: RowInput[str, str], state: Account, error: str, context: Context) -> Decision[Account]:
        self.told.append(error)
        return super().give_up(row, state, error, context)


@pytest.mark.parametrize("begun", [0, 5], ids=["fresh", "begun before"])
async def test_a_row_that_cannot_be_stored_is_given_up_with_the_cause_and_its_neighbours_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    source = Telling()
    replica = bench.replica(sources=(source,), settings=settings(row_poll_seconds=0.001))
    replica.ready_for_rows()
    refuse_to_save(replica, "row", monkeypatch)
    await bench.execute("INSERT INTO wakeup (id, key, mood, tries) VALUES ('w1', 'K', 'ok', :n), ('w2', 'L', 'bug', :n)", n=begun)

    await replica.turn()

    assert sorted(await bench.effects()) == ["given-up", "given-up"]
    assert {error.split(":")[0] for error in source.told} == {"Permanent", "ValueError"}
    assert any("InvalidTextRepresentationError" in error and "not a number" in error for error in source.told)
    assert await bench.rows("SELECT 1 FROM wakeup") == []
    assert await bench.rows("SELECT 1 FROM suspect") == []


async def test_a_row_that_cannot_even_be_given_up_is_said_each_time_and_never_called_a_crash(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Telling()
    replica = bench.replica(sources=(source,), settings=settings(row_poll_seconds=0.001))
    replica.ready_for_rows()
    refuse_to_save(replica, "row", monkeypatch)
    refused_row = replica.service.consumers[0].repository.save

    async def refusing(connection: AsyncConnection, changed: Mapping[str, Account], facts: Sequence[object]) -> None:
        if any(isinstance(fact, Effect) and fact.direction == "given-up" for fact in facts):
            raise KeyError("nothing can be stored")
        await refused_row(connection, changed, facts)

    monkeypatch.setattr(replica.service.consumers[0].repository, "save", refusing)
    await bench.execute("INSERT INTO wakeup (id, key, tries) VALUES ('w1', 'K', 5)")

    for _ in range(5):
        await bench.execute("UPDATE wakeup SET due_at = now()")
        replica.loop.look()
        await replica.turn()

    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "row_not_given_up" in line]
    assert [entry["rows"] for entry in said] == [["wakeup w1"]] * 5
    assert not any("ended the process" in error for error in source.told)
    assert await bench.rows("SELECT 1 FROM suspect") == []


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), TimeoutError("as an outage would raise it")], ids=["bug", "like an outage"]
)
async def test_what_hears_of_a_commit_and_raises_ends_the_loop_and_repeats_nothing(bench: Bench, error: Exception) -> None:
    def raising(*_: object) -> None:
        raise error

    replica = bench.replica(sources=(Wakeups(),), settings=settings(row_poll_seconds=0.001), committed=raising)
    replica.ready_for_rows()
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")

    with pytest.raises(type(error)):
        await replica.turn()

    assert await bench.effects() == ["row"]
    assert await bench.rows("SELECT 1 FROM wakeup") == []


async def test_what_was_saved_is_told_once_after_its_commit(bench: Bench) -> None:
    told: list[object] = []
    replica = bench.replica(committed=lambda changed, facts: told.append((sorted(changed), len(facts))))

    await replica.turn(reserve("s1:step", buyer="ok.A"), reserve("s2:step", buyer="bug.B"), reserve("s3:step", buyer="ok.C"))
    await replica.turn(reserve("s4:step", buyer="no.A"))

    assert told == [(["A", "C"], 2)]

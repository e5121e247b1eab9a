"""What one bad message does to its neighbours: nothing. And what becomes of the bad one."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.decoding import Raw
from infra.chassis.hot_connection import HotConnection
from tests.support.ledger_bench import Bench, Replica
from tests.support.ledger_messages import create_shipment, limit_changed, release, replayed, reserve, unreadable
from tests.support.ledger_service import Wakeup, Wakeups, settings

RESERVED = "credit.credit-reserved.v1"


def broken(raw: Raw, body: bytes = b"{") -> Raw:
    return replace(raw, body=body)


async def test_a_batch_with_every_kind_of_failure_handles_its_good_messages_and_each_bad_one_alone(bench: Bench) -> None:
    replica = bench.replica()
    replica.hold_retries()
    invalid = reserve("s3:step")
    invalid = replace(invalid, body=invalid.body.replace(b'"EUR"', b'"???"'))

    await replica.turn(
        reserve("s1:step"), reserve("s2:step", buyer="bug"), invalid, reserve("s4:step", buyer="busy"),
        broken(reserve("s5:step")), reserve("s6:step"), limit_changed("C-9"),
    )  # fmt: skip

    assert await bench.effects() == ["do", "do", "event"]
    assert sorted(letter["error_class"] for letter in await bench.letters()) == ["Permanent", "Permanent", "ValueError"]
    assert len(await bench.rows("SELECT 1 FROM retry")) == 1
    assert sorted((await bench.inbox()).values()) == ["dead", "dead", "handled", "handled", "handled", "retrying"]
    assert replica.channel.acknowledged == [7]


@pytest.mark.parametrize("buyer", ["load-bad", "save-bad"])
async def test_a_message_whose_data_the_database_refuses_is_found_and_its_neighbours_are_handled_in_order(
    bench: Bench, buyer: str
) -> None:
    replica = bench.replica()
    culprit = reserve("s2:step", buyer=buyer)

    await replica.turn(reserve("s1:step"), culprit, release("s1:step"), reserve("s3:step"))

    assert await bench.effects() == ["do", "undo", "do"]
    (letter,) = await bench.letters()
    assert (letter["message_id"], letter["kind"]) == (culprit.message_id, "permanent")
    assert "cannot be stored" in letter["error"]
    assert replica.channel.acknowledged == [4]


async def test_an_answer_that_is_too_large_to_send_leaves_no_effect_and_no_answer(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve("s1:step", buyer="huge"), reserve("s2:step"))

    assert await bench.effects() == ["do"]
    (letter,) = await bench.letters()
    assert "bytes" in letter["error"]


async def test_a_command_from_a_wrong_sender_is_a_letter_of_its_own_and_does_not_touch_the_operation(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve("s1:step", sender="erp"))
    await replica.turn(reserve("s1:step"))

    (letter,) = await bench.letters()
    assert letter["identity"][0] == "credit.commands"
    assert "s1:step" not in letter["identity"]
    assert letter["operation_id"] is None
    assert len(await bench.sent(RESERVED)) == 1
    assert await bench.verdicts() == []


async def test_bytes_that_are_no_message_are_one_letter_per_consumer_and_body(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(broken(reserve("s1:step")), broken(reserve("s2:step")))
    await replica.turn(broken(reserve("s1:step"), b"[]"))

    identities = {tuple(letter["identity"]) for letter in await bench.letters()}
    assert len(identities) == 2
    assert all(identity[1].startswith("body:") for identity in identities)
    assert len({letter["id"] for letter in await bench.letters()}) == 2
    assert await bench.inbox() == {}


async def test_a_newer_version_waits_as_a_retry_and_is_buried_only_after_long_patience(bench: Bench) -> None:
    replica = bench.replica(settings=settings(unknown_version_attempts_max=5))
    message = reserve("s1:step")
    newer = replace(
        message, routing_key="credit.reserve-credit.v9", body=message.body.replace(b"reserve-credit.v1", b"reserve-credit.v9")
    )

    await replica.turn(newer)
    await bench.finish(replica)

    (letter,) = await bench.letters()
    assert (letter["error_class"], letter["attempts"]) == ("UnknownVersion", 5)
    assert letter["identity"] == ["credit.commands", "s1:step", "do"]


async def test_an_older_version_is_lifted_to_the_one_that_the_route_takes(bench: Bench) -> None:
    event = limit_changed("C-1", minor=7)
    older = replace(
        event, routing_key="credit.limit-changed.v1", body=event.body.replace(b"limit-changed.v2", b"limit-changed.v1")
    )

    await bench.replica().turn(older)

    assert await bench.held("C-1") == 7


async def test_an_upcaster_that_meets_something_unexpected_fails_its_message_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_upcast(*_: object) -> object:
        raise KeyError("limit")

    monkeypatch.setattr("infra.chassis.decoding.upcast", broken_upcast)
    replica = bench.replica()
    await replica.turn(limit_changed("C-1"))
    monkeypatch.undo()

    (letter,) = await bench.letters()
    assert "KeyError" in letter["error"]
    assert replica.channel.acknowledged == [1]


async def test_a_replay_of_an_event_runs_only_from_dead_and_is_told_so(bench: Bench) -> None:
    replica, good, bad = bench.replica(), limit_changed("C-1"), limit_changed("busy-3.C-2")
    await replica.turn(good, bad)
    await bench.finish(replica)

    await replica.turn(replayed(good, "dl_a"), replayed(bad, "dl_b"))
    await replica.turn(replayed(bad, "dl_b", 2))

    assert await bench.verdicts() == ["answered-again", "ran", "answered-again"]
    assert await bench.effects() == ["event", "event"]


async def test_a_spoilt_replay_of_a_handled_event_does_not_make_it_run_again(bench: Bench) -> None:
    replica, event = bench.replica(), limit_changed("C-1")
    await replica.turn(event)

    await replica.turn(replayed(unreadable(event)))
    await replica.turn(replayed(event, count=2))

    assert await bench.effects() == ["event"]
    assert await bench.verdicts() == ["answered-again"]
    assert len(await bench.letters()) == 1
    assert await bench.inbox() == {event.message_id: "handled"}


async def test_a_replay_marker_of_anyone_but_the_desk_counts_for_nothing(bench: Bench) -> None:
    replica, event = bench.replica(), limit_changed("C-1")
    await replica.turn(event)

    await replica.turn(replace(replayed(event), sender="erp"))

    assert await bench.verdicts() == []
    assert await bench.effects() == ["event"]


async def test_the_number_of_statements_does_not_grow_with_the_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, sent = bench.replica(), []
    execute = HotConnection.execute

    async def counted(connection: HotConnection, statement: object, parameters: object = ()) -> object:
        sent.append(statement)
        return await execute(connection, statement, parameters)

    monkeypatch.setattr(HotConnection, "execute", counted)
    counts = []
    for size in (1, 40):
        sent.clear()
        await replica.turn(*(reserve(f"n{size}-{one}:step", buyer=f"ok.{one}") for one in range(size)))
        counts.append(len(sent))

    assert counts[0] == counts[1] > 5


async def test_rows_wait_until_the_backlog_found_at_the_start_has_been_read(bench: Bench) -> None:
    replica = bench.replica(sources=(Wakeups(),), settings=settings(row_poll_seconds=0.001))
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")
    loop = replica.loop

    await replica.turn()
    assert await bench.effects() == []  # not connected yet

    replica.backlog_measured(2)
    await replica.turn(reserve("s1:step"))
    assert await bench.effects() == ["do"]  # one of the two is still to come

    await replica.turn(reserve("s2:step"))
    assert await bench.effects() == ["do", "do", "row"]

    loop.backlog.lost()
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w2', 'K')")
    await replica.turn()
    assert (await bench.effects()).count("row") == 1
    assert loop.due_rows.pause_seconds() >= 0.0


async def test_rows_wait_for_what_was_delivered_when_the_backlog_was_measured(bench: Bench) -> None:
    replica = bench.replica(sources=(Wakeups(),), settings=settings(row_poll_seconds=0.001))
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")
    replica.loop.offer(replica.delivery(reserve("s1:step")))
    replica.backlog_measured(0)  # the broker counts it as delivered

    await replica.loop.due_rows.turn()
    assert await bench.effects() == []

    await replica.loop.turn(await replica.loop._gather())
    assert await bench.effects() == ["do", "row"]


async def test_after_a_pause_rows_wait_until_the_backlog_is_measured_anew(bench: Bench) -> None:
    replica = ready_for_rows(bench)
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")

    replica.stand_still()  # it stood still while it waited for deliveries
    await replica.turn()

    assert await bench.effects() == []
    assert not replica.loop.backlog.connected


async def test_rows_claimed_before_a_pause_are_left_to_the_next_claim(bench: Bench) -> None:
    replica = ready_for_rows(bench)
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'K')")
    claim = Wakeups.claim

    async def claim_and_stand_still(self: Wakeups, connection: AsyncConnection, limit: int) -> Sequence[Wakeup]:
        rows = await claim(self, connection, limit)
        replica.stand_still()
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wakeups, "claim", claim_and_stand_still)
        await replica.turn()

    assert await bench.effects() == []
    assert await bench.rows("SELECT tries FROM wakeup") == [(1,)]


async def test_while_rows_have_to_wait_the_loop_sleeps_between_its_looks(bench: Bench) -> None:
    replica = bench.replica(sources=(Wakeups(),), settings=settings(row_poll_seconds=5.0))
    replica.hold_retries()
    replica.loop.due_rows._next_left_behind = float("inf")

    await replica.turn()

    assert replica.loop.due_rows.pause_seconds() > 1.0


async def test_a_row_that_raises_is_given_up_visibly_and_its_neighbours_are_handled(bench: Bench) -> None:
    replica = ready_for_rows(bench)
    await bench.execute("INSERT INTO wakeup (id, key, mood) VALUES ('w1', 'K', 'ok'), ('w2', 'K', 'bug'), ('w3', 'K', 'ok')")

    await replica.turn()

    assert sorted(await bench.effects()) == ["given-up", "row", "row"]
    assert await bench.held("K") == 2
    assert await bench.rows("SELECT 1 FROM wakeup") == []


async def test_a_row_whose_data_the_database_refuses_does_not_hold_up_its_neighbours(bench: Bench) -> None:
    replica = ready_for_rows(bench)
    await bench.execute("INSERT INTO wakeup (id, key) VALUES ('w1', 'load-bad'), ('w2', 'K')")

    await replica.turn()

    assert await bench.effects() == ["row"]
    assert await bench.rows("SELECT id FROM wakeup") == [("w1",)]


async def test_a_decision_with_calls_that_nothing_would_conclude_is_a_dead_letter_before_anything_is_called(bench: Bench) -> None:
    replica = bench.replica()
    admission = replica.loop.committing.admission
    admission._routes = {name: replace(route, conclude=None) for name, route in admission._routes.items()}

    await replica.turn(create_shipment("s1:step"))

    (letter,) = await bench.letters()
    assert "nothing would conclude them" in letter["error"]
    assert await bench.rows("SELECT 1 FROM call") == []


async def test_a_command_without_an_operation_or_without_its_saga_is_a_dead_letter(bench: Bench) -> None:
    replica, message = bench.replica(), reserve("s1:step")
    bare = replace(message, body=message.body.replace(b'"operationid":"s1:step",', b""))

    await replica.turn(bare)

    (letter,) = await bench.letters()
    assert "operationid" in letter["error"]
    assert letter["identity"][1:] == ["/orchestrator", message.message_id]


async def test_an_operation_id_that_no_proof_could_carry_is_refused_before_it_has_an_effect(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(replayed(reserve(f"s1:{'x' * 210}")))

    assert await bench.effects() == []
    assert len(await bench.letters()) == 1


def ready_for_rows(bench: Bench) -> Replica:
    replica = bench.replica(sources=(Wakeups(),))
    replica.ready_for_rows()
    return replica

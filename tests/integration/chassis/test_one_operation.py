"""Do, undo, re-send, revision, replay, retry and call result on one operation, in the orders that people meet."""

from dataclasses import replace

from tests.support.ledger_bench import Bench
from tests.support.ledger_messages import cancel_shipment, create_shipment, limit_changed, release, replayed, reserve
from tests.support.ledger_service import ORDER

RESERVED = "credit.credit-reserved.v1"
RELEASED = "credit.credit-released.v1"
CREATED = "fulfillment.shipment-created.v1"
CANCELLED = "fulfillment.shipment-cancelled.v1"
OP = "s1:step"


async def test_the_same_message_twice_in_one_batch_and_again_later_has_one_effect_and_one_answer(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP)

    await replica.turn(message, message)
    await replica.turn(message)

    assert await bench.effects() == ["do"]
    assert len(await bench.sent(RESERVED)) == 1
    assert replica.channel.acknowledged == [2, 3]


async def test_an_undo_takes_back_what_its_do_did_also_within_one_batch(bench: Bench) -> None:
    await bench.replica().turn(reserve(OP), release(OP))

    assert await bench.held("ok") == 0
    assert [answer["data"]["amount"]["amount_minor"] for answer in await bench.sent(RELEASED)] == [100]
    assert (await bench.operation(OP))[0] == "undone"


async def test_an_undo_that_comes_first_leaves_a_tombstone_and_the_late_do_has_no_effect(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(release(OP))
    await replica.turn(reserve(OP), reserve(OP, revision=7))

    assert await bench.effects() == ["undo"]
    assert await bench.held("ok") == 0
    assert await bench.sent(RESERVED) == []
    assert (await bench.operation(OP))[0] == "tombstone"


async def test_a_repeated_command_gets_the_stored_answer_again_and_its_side_events_are_not_repeated(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP, buyer="chatty"))
    await replica.turn(reserve(OP, buyer="chatty", minor=999), reserve(OP, buyer="chatty", revision=3))

    answers = await bench.sent(RESERVED)
    assert len(answers) == 3
    assert len({str(answer["data"]) for answer in answers}) == 1
    assert len({answer["id"] for answer in answers}) == 3
    assert len(await bench.sent("inventory.stock-recovered.v1")) == 1
    assert await bench.effects() == ["do"]


async def test_a_refusal_is_an_outcome_too_and_its_undo_has_nothing_to_take_back(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP, buyer="no"))
    await replica.turn(reserve(OP, buyer="ok"), release(OP, buyer="no"))

    assert len(await bench.sent("credit.credit-declined.v1")) == 2
    assert [answer["data"]["amount"]["amount_minor"] for answer in await bench.sent(RELEASED)] == [0]
    assert await bench.effects() == ["undo"]


async def test_a_lower_revision_is_superseded_while_there_is_no_outcome(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP, buyer="bug", revision=2))
    await replica.turn(reserve(OP, revision=1))
    assert await bench.effects() == []

    await replica.turn(reserve(OP, revision=2))
    assert await bench.effects() == ["do"]


async def test_an_undo_is_never_superseded_by_the_revision_of_its_do(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP, revision=5), release(OP, revision=0))

    assert len(await bench.sent(RELEASED)) == 1
    assert await bench.held("ok") == 0


async def test_another_kind_of_do_under_a_known_operation_is_a_dead_letter(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP))
    await replica.turn(create_shipment(OP))

    (letter,) = await bench.letters()
    assert "belongs to credit.reserve-credit" in letter["error"]
    assert await bench.effects() == ["do"]


async def test_a_transient_failure_waits_as_a_row_and_is_handled_when_due(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy-1")
    replica.hold_retries()

    await replica.turn(message)
    assert await bench.inbox() == {message.message_id: "retrying"}
    assert await bench.rows("SELECT message_id, attempts, error_class FROM retry") == [(message.message_id, 1, "Transient")]

    replica.hold_retries(False)
    await bench.finish(replica)
    assert await bench.inbox() == {message.message_id: "handled"}
    assert await bench.effects() == ["do"]
    assert len(await bench.sent(RESERVED)) == 1


async def test_a_transient_failure_becomes_a_dead_letter_when_its_budget_is_spent(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy")

    await replica.turn(message)
    await bench.finish(replica)

    (letter,) = await bench.letters()
    assert (letter["kind"], letter["attempts"], letter["identity"]) == ("transient", 3, ["credit.commands", OP, "do"])
    assert await bench.inbox() == {message.message_id: "dead"}
    assert await bench.rows("SELECT 1 FROM retry") == []


async def test_a_resend_that_succeeds_while_the_first_waits_makes_the_retry_an_answer_again(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(reserve(OP, buyer="busy-1"), reserve(OP))
    await bench.finish(replica)

    assert await bench.effects() == ["do"]
    assert len(await bench.sent(RESERVED)) == 2


async def test_a_duplicate_of_a_waiting_message_is_skipped(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy-9")
    replica.hold_retries()

    await replica.turn(message)
    await replica.turn(message)

    assert await bench.rows("SELECT attempts FROM retry") == [(1,)]


async def test_a_replay_of_a_dead_letter_runs_once_however_often_it_is_sent(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy-3")
    await replica.turn(message)
    await bench.finish(replica)
    (letter,) = await bench.letters()

    again = replayed(message, letter["id"])
    await replica.turn(again, again)
    await replica.turn(replayed(message, letter["id"], 2))

    assert await bench.effects() == ["do"]
    assert await bench.verdicts() == ["ran", "answered-again", "answered-again"]
    assert len(await bench.sent(RESERVED)) == 3
    proofs = await bench.sent("deadletters.replay-handled.v1")
    assert [(proof["data"]["dead_letter_id"], proof["data"]["replay"]) for proof in proofs] == [
        (letter["id"], 1), (letter["id"], 1), (letter["id"], 2),
    ]  # fmt: skip


async def test_a_replay_that_fails_again_joins_its_dead_letter(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="bug")
    await replica.turn(message)
    (letter,) = await bench.letters()

    await replica.turn(replayed(message, letter["id"]))

    second = (await bench.letters())[1]
    assert (second["id"], second["replay"]) == (letter["id"], 1)
    assert await bench.verdicts() == []
    assert await bench.inbox() == {message.message_id: "dead"}


async def test_a_replay_whose_message_waits_as_a_retry_is_absorbed(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy-1")
    replica.hold_retries()
    await replica.turn(message)

    await replica.turn(replayed(message))

    assert await bench.verdicts() == ["absorbed"]
    assert await bench.effects() == []


async def test_a_replay_that_becomes_a_retry_keeps_its_marker_and_is_reported_when_it_ran(bench: Bench) -> None:
    replica, message = bench.replica(), reserve(OP, buyer="busy-4")
    await replica.turn(message)
    await bench.finish(replica)

    await replica.turn(replayed(message, "dl_x", 5))
    await bench.finish(replica)

    assert await bench.verdicts() == ["ran"]
    assert await bench.effects() == ["do"]


async def test_replays_after_an_edit_or_an_undo_are_told_what_became_of_them(bench: Bench) -> None:
    replica = bench.replica()
    superseded, tombstoned = reserve("s2:step", buyer="bug"), reserve("s3:step", buyer="bug")
    await replica.turn(superseded, tombstoned)
    await replica.turn(reserve("s2:step", buyer="bug", revision=1), release("s3:step"))

    await replica.turn(replayed(superseded), replayed(tombstoned))

    assert await bench.verdicts() == ["superseded", "tombstoned"]


async def test_a_resend_that_succeeds_resolves_the_dead_letter_of_its_operation(bench: Bench) -> None:
    replica = bench.replica()
    await replica.turn(reserve(OP, buyer="bug"))
    (letter,) = await bench.letters()

    await replica.turn(reserve(OP))
    await replica.turn(reserve(OP))

    (proof,) = await bench.sent("deadletters.replay-handled.v1")
    assert (proof["data"]["dead_letter_id"], proof["data"]["replay"], proof["data"]["verdict"]) == (letter["id"], 0, "ran")


async def test_two_replays_of_one_event_in_one_batch_of_which_the_first_fails_do_not_prove_anything(bench: Bench) -> None:
    replica, event = bench.replica(), limit_changed("bug")
    await replica.turn(event)

    await replica.turn(replayed(event), replayed(event, count=2))

    assert await bench.verdicts() == []
    assert [letter["kind"] for letter in await bench.letters()][:2] == ["permanent", "permanent"]


# With a system outside.


async def test_a_command_with_a_call_is_answered_when_the_call_has_ended(bench: Bench) -> None:
    replica = bench.replica()

    await replica.turn(create_shipment(OP))
    assert (await bench.operation(OP))[0] == "pending"
    assert await bench.sent(CREATED) == []

    await bench.finish(replica)
    (answer,) = await bench.sent(CREATED)
    assert answer["operationid"] == OP
    assert bench.carrier.booked == {OP: 1}
    assert await bench.effects() == ["do"]


async def test_while_pending_a_resend_is_absorbed_and_an_undo_answered_once_the_booking_is_taken_back(bench: Bench) -> None:
    replica = bench.replica()
    await replica.turn(create_shipment(OP))

    await replica.turn(create_shipment(OP), cancel_shipment(OP), cancel_shipment(OP), create_shipment(OP, revision=1))
    assert await bench.sent(CANCELLED) == []

    await bench.finish(replica)
    assert len(await bench.sent(CREATED)) == 1
    assert len(await bench.sent(CANCELLED)) == 1
    assert bench.carrier.live == set()
    assert await bench.held(ORDER) == 0


async def test_a_do_that_comes_while_its_undo_is_being_made_is_history(bench: Bench) -> None:
    replica = bench.replica()
    bench.carrier.troubles = [TimeoutError()] * 3
    await replica.turn(create_shipment(OP))
    await bench.finish(replica)
    await replica.turn(cancel_shipment(OP))
    assert (await bench.operation(OP))[2] is None

    await replica.turn(create_shipment(OP, revision=1))
    await bench.finish(replica)

    assert bench.carrier.live == set()
    assert bench.carrier.booked == {}
    assert (await bench.operation(OP))[0] == "tombstone"


async def test_a_refused_call_refuses_and_its_undo_has_nothing_to_take_back(bench: Bench) -> None:
    replica = bench.replica()
    bench.carrier.refuse.add(OP)

    await replica.turn(create_shipment(OP), cancel_shipment(OP))
    await bench.finish(replica)

    assert len(await bench.sent("fulfillment.shipment-refused.v1")) == 1
    assert len(await bench.sent(CANCELLED)) == 1
    assert bench.carrier.cancelled == set()


async def test_a_call_without_an_answer_is_a_dead_letter_and_its_undo_takes_back_what_may_have_happened(bench: Bench) -> None:
    replica = bench.replica()
    bench.carrier.troubles = [TimeoutError()] * 3

    await replica.turn(create_shipment(OP))
    await bench.finish(replica)
    (letter,) = await bench.letters()
    assert (letter["kind"], letter["identity"]) == ("transient", ["credit.commands", OP, "do"])

    await replica.turn(cancel_shipment(OP))
    await bench.finish(replica)
    assert len(await bench.sent(CANCELLED)) == 1
    assert OP in bench.carrier.cancelled


async def test_a_replay_of_an_exhausted_call_asks_by_the_same_key_before_it_sends_again(bench: Bench) -> None:
    replica, message = bench.replica(), create_shipment(OP)
    bench.carrier.troubles = [TimeoutError()] * 3
    await replica.turn(message)
    await bench.finish(replica)
    queried = bench.carrier.queried[f"{OP}/book"]

    await replica.turn(replayed(message))
    await bench.finish(replica)

    assert bench.carrier.queried[f"{OP}/book"] > queried
    assert bench.carrier.booked == {OP: 1}
    assert await bench.verdicts() == ["ran"]


async def test_an_exhausted_call_whose_undo_was_noted_is_concluded_by_the_undo_alone(bench: Bench) -> None:
    replica = bench.replica()
    bench.carrier.troubles = [TimeoutError()] * 3
    await replica.turn(create_shipment(OP))
    await replica.turn(cancel_shipment(OP))

    await bench.finish(replica)

    assert len(await bench.sent(CANCELLED)) == 1
    assert OP in bench.carrier.cancelled


async def test_a_settling_that_raises_is_a_dead_letter_and_can_be_replayed(bench: Bench) -> None:
    replica, message = bench.replica(), create_shipment(OP, priority="settle-busy-1")
    await replica.turn(message)
    await bench.finish(replica)
    assert len(await bench.letters()) == 1
    assert await bench.inbox() == {message.message_id: "dead"}

    await replica.turn(replayed(message))
    await bench.finish(replica)

    assert len(await bench.sent(CREATED)) == 1
    assert bench.carrier.performed[f"{OP}/book"] == 1


async def test_a_pending_command_that_nobody_can_read_any_more_is_a_dead_letter(bench: Bench) -> None:
    replica = bench.replica()
    await replica.turn(create_shipment(OP))
    await replica.call()
    unreadable = replace(create_shipment(OP), body=b"{", sender="orchestrator").to_json()
    await bench.execute("UPDATE operation SET pending_do = :raw", raw=unreadable)

    await bench.finish(replica)

    assert len(await bench.letters()) == 1

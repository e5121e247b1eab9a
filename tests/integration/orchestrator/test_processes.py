"""The orchestrator's wiring in the chassis' own transaction, on a real database; only the broker is left out."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.chassis.errors import Permanent
from orchestrator.adapters.postgres import reconcile
from orchestrator.instance import State
from orchestrator.settings import Settings
from orchestrator.wiring import build
from tests.integration.orchestrator.desk import SAGA, Desk, answer_to, ask, dead_letter, message, play
from tests.scenarios.saga_suite.samples import ORDER_ID

pytestmark = pytest.mark.asyncio


async def test_an_order_goes_through_to_its_end(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await play(desk, started)

    instance = await desk.instance()
    assert instance.state is State.COMPLETED
    assert [row.type for row in desk.outgoing if row.exchange == "commands"] == [
        "pricing.price-order.v1",
        "inventory.reserve-stock.v1",
        "compliance.screen-parties.v1",
        "credit.reserve-credit.v1",
        "fulfillment.create-shipment.v1",
    ]
    end = json.loads(desk.outgoing[-1].body)
    assert end["type"] == "orders.order-completed.v1"
    assert (end["correlationid"], end["subject"], end["partnerid"]) == (SAGA, ORDER_ID, "acme")
    assert end["data"]["total"] == {"amount_minor": 12345, "currency": "EUR"}
    rows = await desk.rows("SELECT state, finished, next_timer_at, workflow, version, partner FROM workflow_instance")
    assert rows == [("completed", True, None, "order-fulfillment", 1, "acme")]
    kinds = [kind for (kind,) in await desk.rows("SELECT kind FROM workflow_history ORDER BY position")]
    assert kinds[:4] == ["started", "sent", "sent", "sent"]
    assert kinds[-1] == "finished"


async def test_a_refusal_takes_everything_back(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await play(desk, started, refuse="credit.reserve-credit.v1")

    assert (await desk.instance()).state is State.REFUSED
    sent = [row.type for row in desk.outgoing]
    assert "inventory.release-stock.v1" in sent
    assert "fulfillment.create-shipment.v1" not in sent
    assert sent[-1] == "orders.order-refused.v1"
    reasons = json.loads(desk.outgoing[-1].body)["data"]["reasons"]
    assert [reason["code"] for reason in reasons] == ["credit-declined"]


async def test_timers_send_again_give_up_and_take_back(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await play(desk, started, deaf="inventory.reserve-stock.v1")
    for _ in range(20):
        if (await desk.instance()).finished:
            break
        await desk.make_due()
        await play(desk, await desk.look_at_rows(), deaf="inventory.reserve-stock.v1")

    assert (await desk.instance()).state is State.FAILED
    attempts = [row for row in desk.outgoing if row.type == "inventory.reserve-stock.v1"]
    assert len(attempts) == 5
    assert len({row.message_id for row in attempts}) == 5
    assert {row.operation_id for row in attempts} == {f"{SAGA}:reserve-stock"}
    assert json.loads(attempts[-1].body)["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert (await desk.rows("SELECT timer_tries, timer_claimed_until FROM workflow_instance")) == [(0, None)]


async def test_a_timer_that_an_answer_overtook_changes_nothing(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    before = await desk.instance()
    async with desk.engine.begin() as connection:
        await connection.execute(text("UPDATE workflow_instance SET next_timer_at = now()"))

    assert await desk.look_at_rows() == []

    assert await desk.instance() == before
    assert ("timers", "handled") in desk.outcomes


async def test_a_timer_that_raises_makes_the_process_stuck_with_an_owner_and_an_alarm(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    async with desk.engine.begin() as connection:
        await connection.execute(
            text("UPDATE workflow_instance SET next_timer_at = now(), timer_tries = 3, timer_claimed_until = now()")
        )

    await desk.look_at_rows()

    rows = await desk.rows("SELECT state, owner, next_timer_at > now() FROM workflow_instance")
    assert rows == [("stuck", "order-desk", True)]
    stuck = (await desk.instance()).stuck
    assert stuck is not None
    assert stuck.frozen


async def test_an_act_is_decided_by_the_loop_and_leaves_its_verdict(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await ask(desk, "act-1")

    await play(desk, await desk.look_at_rows())
    await ask(desk, "act-2")
    await desk.look_at_rows()

    assert (await desk.instance()).state is State.CANCELLED
    assert desk.outgoing[-1].type == "orders.order-cancelled.v1"
    verdicts = await desk.rows("SELECT act_id, state, detail FROM operator_act ORDER BY act_id")
    assert verdicts == [("act-1", "accepted", "accepted"), ("act-2", "refused", "the process is cancelled")]
    late = await desk.hear(*[answer_to(row) for row in started])
    assert late == []


async def test_an_act_that_this_version_does_not_know_is_refused_and_the_process_goes_on(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    before = await desk.instance()
    await ask(desk, "act-1", kind="pause")

    await desk.look_at_rows()

    assert await desk.instance() == before
    assert [(kind, state) for kind, state in await desk.rows("SELECT kind, state FROM operator_act")] == [("pause", "refused")]
    await play(desk, started)
    assert (await desk.instance()).state is State.COMPLETED


async def test_a_process_whose_id_would_hide_its_answers_never_begins(desk: Desk) -> None:
    heard = message("orders.order-accepted.v1")
    envelope = json.loads(heard.body) | {"correlationid": "a:b"}

    with pytest.raises(Permanent, match="colon"):
        await desk.hear(replace(heard, body=json.dumps(envelope).encode()))

    assert await desk.rows("SELECT saga_id FROM workflow_instance") == []


async def test_a_cancellation_before_its_start_is_announced_by_the_start(desk: Desk) -> None:
    await ask(desk, "act-1")
    assert await desk.look_at_rows() == []
    assert (await desk.instance()).state is State.CANCELLED

    sent = await desk.hear(message("orders.order-accepted.v1"))

    assert [row.type for row in sent] == ["orders.order-cancelled.v1"]
    assert (await desk.instance()).state is State.CANCELLED


async def test_a_dead_letter_of_a_step_is_shown_and_one_of_nobody_ignored(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    news = {
        "dead_letter_id": "dl-1",
        "queue": "pricing.commands",
        "error_class": "Permanent",
        "error": "it broke",
    }
    await desk.hear(dead_letter(news, None), dead_letter(news, f"{SAGA}:price"))

    assert (await desk.instance()).steps["price"].dead_letter == "dl-1"
    assert [outcome for _, outcome in desk.outcomes] == ["handled"] * 3


async def test_answers_to_nobody_and_to_strangers_change_nothing(desk: Desk) -> None:
    await desk.hear(message("inventory.availability-reported.v1"))
    await desk.hear(message("credit.credit-reserved.v1", operation_id="unknown-saga:reserve-credit"))

    assert desk.outgoing == []
    assert await desk.rows("SELECT saga_id, state FROM workflow_instance") == [("unknown-saga", "absent")]
    assert {outcome for _, outcome in desk.outcomes} == {"handled"}


async def test_the_database_refuses_a_process_that_waits_for_nothing(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))

    with pytest.raises(IntegrityError, match="workflow_instance_waits_for_something"):
        await desk.rows("UPDATE workflow_instance SET next_timer_at = NULL RETURNING 1")


async def test_a_published_version_stays_as_it_was_whatever_the_file_says_now(
    engine: AsyncEngine, desk: Desk, settings: Settings
) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    source = (await desk.rows("SELECT document FROM workflow_definition"))[0][0]
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE workflow_definition SET document = :document, content_hash = 'other'"),
            {"document": source.replace("timeout: PT30S", "timeout: PT77S")},
        )
    other = Desk(engine, build(settings), settings)

    instance = await other.instance()
    await other.hear(message("orders.order-accepted.v1"), message("pricing.order-priced.v1", operation_id=f"{SAGA}:price"))

    sent = (await other.instance()).steps["reserve-credit"]
    assert instance.state is State.RUNNING
    assert sent.due_at is not None
    assert sent.sent_at is not None
    assert (sent.due_at - sent.sent_at).total_seconds() == 77


async def test_a_process_on_a_version_that_is_not_understood_is_left_to_a_newer_replica(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    async with desk.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO workflow_definition VALUES ('order-fulfillment', 2, 'h', 'workflow: order-fulfillment\nlater: words')"
            )
        )
        await connection.execute(
            text(
                "UPDATE workflow_instance SET version = 2, next_timer_at = now(),"
                " document = CAST(jsonb_set(CAST(document AS jsonb), '{version}', '2') AS json)"
            )
        )
    await ask(desk, "act-1")

    await desk.look_at_rows()
    await desk.hear(answer_to(started[0]))

    rows = await desk.rows("SELECT state, next_timer_at > now() FROM workflow_instance")
    assert rows == [("running", True)]
    assert desk.outcomes[-1] == ("pricing.order-priced.v1", "retrying")
    assert (await desk.rows("SELECT state FROM operator_act")) == [("refused",)]


async def test_a_timer_left_to_a_newer_replica_keeps_what_that_one_wrote_and_is_not_found_again_at_once(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    written = {"version": 2, "held": {"by": "a newer replica"}, "next_timer_at": "2020-01-01T00:00:00+00:00"}
    async with desk.engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE workflow_instance SET version = 2, next_timer_at = now() - interval '1 hour',"
                " document = CAST(CAST(document AS jsonb) || CAST(:written AS jsonb) AS json)"
            ),
            {"written": json.dumps(written)},
        )
    before = await desk.rows("SELECT CAST(document AS text) FROM workflow_instance")

    await desk.look_at_rows()
    claimed = len(desk.outcomes)
    await desk.look_at_rows()

    assert await desk.rows("SELECT CAST(document AS text) FROM workflow_instance") == before
    rows = await desk.rows(
        "SELECT next_timer_at > now(), next_timer_at < now() + interval '1 minute', timer_tries, timer_claimed_until"
        " FROM workflow_instance"
    )
    assert rows == [(True, True, 0, None)]
    assert len(desk.outcomes) == claimed
    async with desk.engine.begin() as connection:
        # Where there is no newer replica, the process is overdue although its timer has been moved on.
        assert [one.id for one in await reconcile(connection)] == [SAGA]


async def test_a_reason_that_the_database_cannot_read_stops_no_timer(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    await desk.hear(answer_to(started[1]))
    refused = message(
        "pricing.order-not-priced.v1", operation_id=f"{SAGA}:price", reasons=[{"code": "no-price", "detail": "a\x00b"}]
    )
    released = await desk.hear(refused)
    await desk.make_due()

    await desk.look_at_rows()

    assert [row.type for row in released] == ["inventory.release-stock.v1"]
    assert desk.outcomes[-1] == ("timers", "handled")
    assert (await desk.instance()).reasons[0].detail == "a\ufffdb"


async def test_a_timer_that_was_decided_is_armed_for_the_moment_that_its_process_wants(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    await desk.make_due()

    await desk.look_at_rows()

    armed = (
        "SELECT next_timer_at = CAST(document ->> 'next_timer_at' AS timestamptz), next_timer_at > now() FROM workflow_instance"
    )
    assert await desk.rows(armed) == [(True, True)]


async def test_a_message_brings_forward_a_timer_that_lies_behind_what_its_process_wants(desk: Desk) -> None:
    started = await desk.hear(message("orders.order-accepted.v1"))
    async with desk.engine.begin() as connection:
        await connection.execute(text("UPDATE workflow_instance SET next_timer_at = now() + interval '1 hour'"))

    await desk.hear(answer_to(started[0]))

    rows = await desk.rows("SELECT next_timer_at < now() + interval '1 minute' FROM workflow_instance")
    assert rows == [(True,)]


async def test_a_batch_costs_the_same_number_of_statements_however_large_it_is(desk: Desk) -> None:
    async def statements(count: int) -> int:
        keys = [f"saga-{count}-{number}" for number in range(count)]
        sent: list[str] = []
        async with desk.engine.begin() as connection:
            await desk.consumer.repository.load(connection, ["warm"])
            event.listen(connection.sync_connection, "before_cursor_execute", lambda c, u, s, *rest: sent.append(s))
            loaded = await desk.consumer.repository.load(connection, keys)
            await desk.consumer.repository.save(connection, loaded, ())
        return len(sent)

    assert await statements(1) == await statements(50) == 2


async def test_reconciliation_names_a_process_that_nobody_has_looked_at(desk: Desk) -> None:
    await desk.hear(message("orders.order-accepted.v1"))
    async with desk.engine.begin() as connection:
        assert await reconcile(connection) == []
        await connection.execute(text("UPDATE workflow_instance SET next_timer_at = now() - interval '1 hour'"))
        found = await reconcile(connection)

    assert [(one.kind, one.id) for one in found] == [("unanswered", SAGA)]

"""Orders that a system sends over the broker, and the housekeeping, on a real database."""

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from contracts.orders.v1 import OrderAccepted, OrderCompleted, OrderSubmitted
from infra.chassis.errors import Permanent
from infra.chassis.service import Outbound
from services.ingress.adapters.intake import purge_keys
from services.ingress.handlers import name_of
from tests.integration.ingress.partners import FakeOrchestrator, Ingress, context_of, end, ingress, order
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


def submitted(**changes: Any) -> OrderSubmitted:
    return OrderSubmitted.model_validate({**order(**changes), "partner_id": "acme"})


async def test_a_submitted_order_is_accepted_like_any_other(desk: Ingress) -> None:
    message = submitted()

    decision = await desk.hear(message, sender="erp")

    [sent] = decision.events
    assert isinstance(sent, Outbound)
    assert isinstance(sent.message, OrderAccepted)
    shown = (await desk.client.get("/v1/orders", params={"order_number": message.order_number})).json()["orders"]
    assert [item["order_id"] for item in shown] == [sent.message.order_id]
    assert sent.message.wire_name == "orders.order-accepted.v1"
    assert (sent.actor, sent.partner_id) == ("system:erp", "acme")
    rows = await desk.rows("SELECT correlation_id FROM partner_order")
    assert [row.correlation_id for row in rows] == [sent.correlation_id]


async def test_an_order_that_is_there_already_is_ignored(desk: Ingress) -> None:
    given = order()
    await desk.post(given)
    message = OrderSubmitted.model_validate({**given, "partner_id": "acme"})

    decision = await desk.hear(message, sender="erp")

    assert (decision.events, decision.facts) == ((), ())
    assert (await desk.rows("SELECT count(*) AS n FROM partner_order"))[0].n == 1


async def test_a_submitted_order_is_a_duplicate_over_http(desk: Ingress) -> None:
    given = order()
    await desk.hear(OrderSubmitted.model_validate({**given, "partner_id": "acme"}), sender="erp")

    assert (await desk.post(given)).status_code == 409


@pytest.mark.parametrize(("partner", "sender"), [("acme", "wms"), ("globex", None), ("globex", "erp"), ("nobody", "erp")])
async def test_only_named_broker_users_send_for_a_partner(desk: Ingress, partner: str, sender: str | None) -> None:
    message = submitted().model_copy(update={"partner_id": partner})

    with pytest.raises(Permanent, match="may not send"):
        await desk.hear(message, sender=sender)

    assert (await desk.rows("SELECT count(*) AS n FROM partner_order"))[0].n == 0


async def test_the_same_name_from_both_sides_at_once_makes_one_order(desk: Ingress) -> None:
    """The loop saves after somebody else's commit: the constraint refuses, and the second look finds the order."""
    given = order()
    message = OrderSubmitted.model_validate({**given, "partner_id": "acme"})
    repository = desk.service.consumers[0].repository
    route = next(item for item in desk.service.consumers[0].routes if item.model is OrderSubmitted)
    name = name_of(message)
    async with desk.runtime.engine.begin() as connection:
        before = await repository.load(connection, [name])
        assert before[name].order_id is None
        assert (await desk.post(given)).status_code == 202
        decision = route.decide(message, before, context_of(message, "erp"), None)
        with pytest.raises(IntegrityError):
            await repository.save(connection, {}, decision.facts)
        await connection.rollback()

    assert (await desk.hear(message, sender="erp")).facts == ()


async def test_the_end_of_an_unknown_order_is_a_dead_letter(desk: Ingress) -> None:
    placed = (await desk.post()).json()
    unknown = {**placed, "order_id": "ord_" + "0" * 26}
    total = {"amount_minor": 1, "currency": "EUR"}

    with pytest.raises(Permanent, match="no order"):
        await desk.hear(end(OrderCompleted, unknown, total=total, allocations=[], shipments=[]))


async def test_old_keys_are_forgotten_and_the_order_number_still_guards(desk: Ingress) -> None:
    given = order()
    await desk.post(given, key="old")
    await desk.post(key="young")
    await desk.rows("UPDATE idempotency_key SET created_at = now() - interval '8 days' WHERE key = 'old' RETURNING 1")

    async with desk.runtime.engine.begin() as connection:
        assert await purge_keys(connection, days=7, rows_max=10) == 1

    assert (await desk.post(given, key="old")).status_code == 409
    assert [row.key for row in await desk.rows("SELECT key FROM idempotency_key")] == ["young"]


async def test_the_use_of_a_key_is_noted_to_the_hour(database_url: str, orchestrator: FakeOrchestrator) -> None:
    async with ingress(database_url, orchestrator, purge_interval_seconds=0.05) as desk:
        await desk.post()
        rows = await wait_until(lambda: desk.rows("SELECT last_used_at FROM partner_key WHERE last_used_at IS NOT NULL"))

    assert [(row.last_used_at.minute, row.last_used_at.second) for row in rows] == [(0, 0)]

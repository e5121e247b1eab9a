from datetime import UTC, datetime

from contracts.credit.v1 import CreditDeclined, CreditReleased, CreditReserved, ReleaseCredit, ReserveCredit
from contracts.credit.v1 import LimitChanged as LimitChangedV1
from contracts.credit.v2 import LimitChanged
from contracts.envelope import Envelope
from contracts.orders.v1 import OrderCompleted
from contracts.registry import upcast
from contracts.values import Money
from infra.chassis.service import Context
from services.credit.domain import CreditLine, HoldCaptured, HoldPlaced, HoldReleased, LimitStated, LineKey
from services.credit.handlers import (
    capture_hold,
    change_limit,
    line_of,
    line_of_limit,
    line_of_order,
    release_credit,
    reserve_credit,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = "ord_00000000000000000001"
LINE = CreditLine("EUR", limit_minor=10_000, limit_sequence=1)
KEY = LineKey("C-1", "EUR")


def context(operation: str | None = "saga-1:reserve-credit") -> Context:
    envelope = Envelope(id="m-1", source="/test", type="t", time=NOW, data={}, operationid=operation)
    return Context(now=NOW, envelope=envelope, new_id=lambda: "id", random=lambda: 0.5)


def eur(minor: int) -> Money:
    return Money(amount_minor=minor, currency="EUR")


def reserve(minor: int) -> ReserveCredit:
    return ReserveCredit(order_id=ORDER, buyer_id="C-1", amount=eur(minor))


def release(minor: int) -> ReleaseCredit:
    return ReleaseCredit(order_id=ORDER, buyer_id="C-1", amount=eur(minor))


def completed(total: Money) -> OrderCompleted:
    return OrderCompleted(
        order_id=ORDER,
        order_number="4711",
        partner_id="acme",
        buyer_id="C-1",
        total=total,
        allocations=(),
        shipments=(),
    )


def test_a_granted_reservation_is_answered_and_recorded_under_its_operation() -> None:
    decision = reserve_credit(reserve(4_000), LINE, context())

    assert decision.state.held_minor == 4_000
    assert decision.answer == CreditReserved(order_id=ORDER, buyer_id="C-1", amount=eur(4_000))
    assert decision.facts == (HoldPlaced("saga-1:reserve-credit", ORDER, KEY, 4_000, NOW),)


def test_a_declined_reservation_changes_nothing_and_gives_shortfall_and_reason() -> None:
    decision = reserve_credit(reserve(13_000), LINE, context())

    assert decision.state is LINE
    assert decision.facts == ()
    assert isinstance(decision.answer, CreditDeclined)
    assert decision.answer.amount == eur(13_000)
    assert decision.answer.shortfall == eur(3_000)
    assert [reason.code for reason in decision.answer.reasons] == ["credit-declined"]
    assert "30.00 EUR" in decision.answer.reasons[0].detail


def test_an_unknown_buyer_is_declined_for_want_of_a_line() -> None:
    decision = reserve_credit(reserve(100), CreditLine("EUR"), context())

    assert isinstance(decision.answer, CreditDeclined)
    assert [reason.code for reason in decision.answer.reasons] == ["no-credit-line"]
    assert decision.answer.shortfall == eur(100)


def test_a_release_gives_back_what_the_reservation_answered_not_what_the_undo_names() -> None:
    held = reserve_credit(reserve(4_000), LINE, context()).state
    done = CreditReserved(order_id=ORDER, buyer_id="C-1", amount=eur(4_000))

    decision = release_credit(release(9_999), held, context(), done)

    assert decision.state == LINE
    assert decision.answer == CreditReleased(order_id=ORDER, buyer_id="C-1", amount=eur(4_000))
    assert decision.facts == (HoldReleased("saga-1:reserve-credit", NOW),)


def test_a_release_of_nothing_still_answers() -> None:
    decision = release_credit(release(4_000), LINE, context(), None)

    assert decision.state is LINE
    assert decision.answer == CreditReleased(order_id=ORDER, buyer_id="C-1", amount=eur(0))
    assert decision.facts == ()


def test_a_new_limit_replaces_the_old_one_and_is_kept_with_its_reason() -> None:
    event = LimitChanged(buyer_id="C-1", limit=eur(500), sequence=2, reason="late payer")

    decision = change_limit(event, LINE, context(None))

    assert decision.state == CreditLine("EUR", limit_minor=500, limit_sequence=2)
    assert decision.answer is None
    assert decision.facts == (LimitStated(KEY, 500, 2, "late payer", NOW),)


def test_a_stale_limit_leaves_no_trace() -> None:
    event = LimitChanged(buyer_id="C-1", limit=eur(500), sequence=1, reason="late payer")

    decision = change_limit(event, LINE, context(None))

    assert decision.state is LINE
    assert decision.facts == ()


def test_a_limit_in_version_1_is_lifted_to_what_the_handler_knows() -> None:
    old = LimitChangedV1(buyer_id="C-1", limit=eur(500), sequence=2)

    name, data = upcast(old.wire_name, old.model_dump(mode="json"), [LimitChanged.wire_name])
    decision = change_limit(LimitChanged.model_validate(data), LINE, context(None))

    assert name == LimitChanged.wire_name
    assert decision.state.limit_minor == 500
    (stated,) = decision.facts
    assert isinstance(stated, LimitStated)
    assert "not stated" in stated.reason


def test_completion_captures_on_the_line_of_the_orders_total() -> None:
    event = completed(eur(4_000))

    decision = capture_hold(event, LINE, context(None))

    assert decision.state is LINE
    assert decision.facts == (HoldCaptured(ORDER, KEY, NOW),)


def test_every_message_finds_the_line_of_its_buyer_and_currency() -> None:
    limit = LimitChanged(buyer_id="C-1", limit=eur(1), sequence=1, reason="new")

    assert line_of(reserve(1)) == line_of(release(1)) == line_of_limit(limit) == line_of_order(completed(eur(1))) == KEY

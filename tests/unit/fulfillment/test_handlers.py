from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.envelope import Envelope
from contracts.fulfillment.v1 import (
    CancelShipment,
    CarrierChanged,
    CreateShipment,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentNotCancellable,
    ShipmentRefused,
)
from contracts.message import Event
from contracts.values import Address, Allocation, Shipment
from infra.chassis.errors import Permanent
from infra.chassis.service import Call, CallOutcome, CallResult, Context, Decision
from services.fulfillment.domain import Carrier, Delivery, Order, Parcel, ParcelPlanned, State, own_tracking
from services.fulfillment.handlers import (
    cancel_shipment,
    change_carrier,
    conclude_cancellation,
    conclude_shipment,
    create_shipment,
    record_delivery,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = "ord_00000000000000000001"
OPERATION = "saga-1:ship"
SHIP_TO = Address(name="Ada", lines=("Weg 1",), city="Berlin", postal_code="10115", country="DE")
VAN = Carrier("van", "own-fleet", frozenset(), ("standard",), 1_000, 1, active=True)
FAST = Carrier("fast", "http", frozenset(), ("standard",), 50_000, 2, active=True)
SLOW = Carrier("slow", "http", frozenset(), ("standard",), 50_000, 3, active=True)
CANCEL = CancelShipment(order_id=ORDER)

Answers = Mapping[str, CallOutcome]


def create(**weights: int) -> CreateShipment:
    """One part per warehouse, of so many grams."""
    parts = tuple(
        Allocation(line="1", sku="P-1", warehouse=name, country="DE", quantity=Decimal(1), weight_grams=weight)
        for name, weight in weights.items()
    )
    return CreateShipment(order_id=ORDER, allocations=parts, ship_to=SHIP_TO)


@dataclass
class Loop:
    """What the chassis does with calls: makes each once per key and gives every result so far to each turn."""

    order: State
    answers: Answers
    made: dict[str, CallResult] = field(default_factory=dict)
    parcels: list[Parcel] = field(default_factory=list)

    def context(self) -> Context:
        envelope = Envelope(id="m-1", source="/test", type="t", time=NOW, data={}, operationid=OPERATION)
        return Context(now=NOW, envelope=envelope, new_id=lambda: "id", random=lambda: 0.5, calls=tuple(self.made.values()))

    def ship(self, command: CreateShipment) -> Event:
        return self._run(
            create_shipment(command, self.order, self.context()),
            lambda results: conclude_shipment(command, self.order, self.context(), results),
        )

    def cancel(self) -> Event:
        return self._run(
            cancel_shipment(CANCEL, self.order, self.context(), None),
            lambda results: conclude_cancellation(CANCEL, self.order, self.context(), results),
        )

    def parcel(self, warehouse: str) -> Parcel:
        assert isinstance(self.order, Order)
        return self.order.parcels[OPERATION, warehouse]

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        return [
            (str(result.call.request["action"]), str(result.call.request["carrier"]), str(result.call.request["warehouse"]))
            for result in self.made.values()
        ]

    def _run(self, decision: Decision[State], conclude: Callable[[Sequence[CallResult]], Decision[State]]) -> Event:
        for _ in range(10):
            self.order = decision.state
            self.parcels += [fact.parcel for fact in decision.facts if isinstance(fact, ParcelPlanned)]
            if decision.answer is not None:
                assert not decision.calls
                return decision.answer
            assert decision.calls, "neither an answer nor calls"
            for call in decision.calls:
                self.made.setdefault(call.key, self._answer(call))
            decision = conclude(tuple(self.made.values()))
        raise AssertionError("no answer after ten turns")

    def _answer(self, call: Call) -> CallResult:
        name = f"{call.request['action']} {call.request['carrier']} {call.request['warehouse']}"
        outcome = self.answers.get(name, "done")
        if outcome == "done":
            return CallResult(call, outcome, {"tracking": f"T-{call.request['carrier']}-{call.request['warehouse']}"})
        return CallResult(call, outcome, {"code": "no", "detail": "does not like it"} if outcome == "refused" else {})


def loop(*carriers: Carrier, answers: Answers | None = None) -> Loop:
    return Loop(Order(carriers or (VAN, FAST, SLOW)), answers or {})


def shipment(warehouse: str, carrier: str) -> Shipment:
    return Shipment(warehouse=warehouse, carrier=carrier, tracking=f"T-{carrier}-{warehouse}")


def own(warehouse: str) -> Shipment:
    return Shipment(warehouse=warehouse, carrier="van", tracking=own_tracking(OPERATION, warehouse))


def test_the_own_fleet_is_booked_without_a_call_and_written_down():
    shop = loop()

    answer = shop.ship(create(berlin=500))

    assert answer == ShipmentCreated(order_id=ORDER, shipments=(own("berlin"),))
    assert shop.made == {}
    assert [parcel.state for parcel in shop.parcels] == ["booked"]


def test_other_carriers_are_booked_by_a_call_that_says_all_they_need_under_a_stable_key():
    decision = create_shipment(create(berlin=5_000), Order((FAST,)), loop().context())

    assert decision.answer is None
    assert decision.calls == (
        Call(
            "carrier",
            f"{OPERATION}#berlin#fast",
            {
                "action": "book",
                "carrier": "fast",
                "booking": f"{OPERATION}#berlin#fast",
                "warehouse": "berlin",
                "origin": "DE",
                "weight_grams": 5_000,
                "service_level": "standard",
                "ship_to": SHIP_TO.model_dump(mode="json"),
                "requested_delivery": None,
            },
        ),
    )


def test_the_shipment_is_created_when_every_part_has_its_number():
    shop = loop()

    answer = shop.ship(create(berlin=500, paris=5_000))

    assert answer == ShipmentCreated(order_id=ORDER, shipments=(own("berlin"), shipment("paris", "fast")))
    assert shop.parcel("paris").state == "booked"


def test_the_next_carrier_is_asked_when_one_refuses():
    shop = loop(answers={"book fast paris": "refused"})

    answer = shop.ship(create(berlin=5_000, paris=5_000))

    assert answer == ShipmentCreated(order_id=ORDER, shipments=(shipment("berlin", "fast"), shipment("paris", "slow")))
    assert shop.asked == [("book", "fast", "berlin"), ("book", "fast", "paris"), ("book", "slow", "paris")]


def test_the_own_fleet_may_be_the_next_carrier():
    shop = loop(FAST, replace(VAN, rank=9), answers={"book fast berlin": "refused"})

    answer = shop.ship(create(berlin=500))

    assert answer == ShipmentCreated(order_id=ORDER, shipments=(own("berlin"),))


def test_when_all_have_refused_a_part_what_is_booked_is_taken_back_and_nothing_is_left():
    shop = loop(answers={"book fast paris": "refused", "book slow paris": "refused"})

    answer = shop.ship(create(berlin=5_000, oslo=500, paris=5_000))

    assert isinstance(answer, ShipmentRefused)
    assert [reason.detail for reason in answer.reasons] == ["slow, for the part from paris: does not like it"]
    assert shop.asked[-1] == ("cancel", "fast", "berlin")
    assert [shop.parcel(name).state for name in ("berlin", "oslo", "paris")] == ["cancelled", "cancelled", "refused"]


def test_a_booking_that_cannot_be_taken_back_after_a_refusal_is_for_a_person():
    shop = loop(FAST, answers={"book fast paris": "refused", "cancel fast berlin": "refused"})

    with pytest.raises(Permanent, match="settle it with the carrier"):
        shop.ship(create(berlin=5_000, paris=5_000))


def test_a_carrier_that_appears_while_bookings_are_taken_back_does_not_revive_the_shipment():
    shop = loop(FAST, answers={"book fast paris": "refused"})
    command = create(berlin=5_000, paris=5_000)
    decision = create_shipment(command, shop.order, shop.context())
    results = [shop._answer(call) for call in decision.calls]
    decision = conclude_shipment(command, decision.state, shop.context(), results)
    results += [shop._answer(call) for call in decision.calls]
    assert isinstance(decision.state, Order)

    last = conclude_shipment(command, replace(decision.state, carriers=(FAST, SLOW)), shop.context(), results)

    assert isinstance(last.answer, ShipmentRefused)


def test_an_order_that_nobody_takes_is_refused_by_warehouse_and_nothing_is_asked():
    shop = loop()

    answer = shop.ship(create(berlin=500, paris=90_000))

    assert isinstance(answer, ShipmentRefused)
    assert ["paris" in reason.detail for reason in answer.reasons] == [True]
    assert (shop.made, shop.parcels) == ({}, [])


def test_a_replay_goes_on_where_a_silent_carrier_had_stopped_it_and_asks_again_under_the_same_key():
    silent = loop(answers={"book fast paris": "unknown"})
    command = create(berlin=5_000, paris=5_000)
    first = create_shipment(command, silent.order, silent.context())
    silent.order = first.state
    for call in first.calls:
        silent.made[call.key] = silent._answer(call)

    again = create_shipment(command, silent.order, silent.context())

    assert again.facts == ()
    assert [call.key for call in again.calls] == [f"{OPERATION}#paris#fast"]
    silent.order = again.state
    silent.made[f"{OPERATION}#paris#fast"] = CallResult(again.calls[0], "done", {"tracking": "T-fast-paris"})
    last = conclude_shipment(command, silent.order, silent.context(), tuple(silent.made.values()))
    assert last.answer == ShipmentCreated(order_id=ORDER, shipments=(shipment("berlin", "fast"), shipment("paris", "fast")))


def test_a_cancellation_takes_back_our_own_parcels_at_once_and_the_others_by_key():
    shop = loop()
    shop.ship(create(berlin=500, paris=5_000))

    answer = shop.cancel()

    assert answer == ShipmentCancelled(order_id=ORDER, shipments=(own("berlin"), shipment("paris", "fast")))
    assert shop.asked == [("book", "fast", "paris"), ("cancel", "fast", "paris")]
    assert shop.made[f"{OPERATION}#paris#fast#cancel-undo"].call.request["booking"] == f"{OPERATION}#paris#fast"


def test_a_cancellation_without_a_shipment_is_answered():
    assert loop().cancel() == ShipmentCancelled(order_id=ORDER, shipments=())


def test_a_cancellation_after_a_refusal_asks_nobody_again():
    shop = loop(FAST, answers={"book fast paris": "refused"})
    shop.ship(create(berlin=5_000, paris=5_000))
    before = list(shop.made)

    answer = shop.cancel()

    assert isinstance(answer, ShipmentCancelled)
    assert list(shop.made) == before


def test_a_carrier_that_never_answered_is_told_to_forget_the_booking():
    shop = loop(FAST)
    decision = create_shipment(create(berlin=5_000), shop.order, shop.context())
    shop.order = decision.state

    answer = shop.cancel()

    assert answer == ShipmentCancelled(order_id=ORDER, shipments=())
    assert shop.asked == [("cancel", "fast", "berlin")]
    assert shop.parcel("berlin").state == "cancelled"


def test_what_has_left_cannot_be_cancelled_and_is_named_while_the_rest_is_taken_back():
    shop = loop(answers={"cancel fast paris": "refused"})
    shop.ship(create(berlin=5_000, paris=5_000))

    answer = shop.cancel()

    assert isinstance(answer, ShipmentNotCancellable)
    assert ["paris" in reason.detail and "T-fast-paris" in reason.detail for reason in answer.reasons] == [True]
    assert (shop.parcel("berlin").state, shop.parcel("paris").state) == ("cancelled", "booked")


def test_what_was_delivered_cannot_be_cancelled():
    shop = loop()
    shop.ship(create(berlin=500))
    assert isinstance(shop.order, Order)
    shop.order = shop.order.holding([replace(shop.parcel("berlin"), state="delivered")])

    answer = shop.cancel()

    assert isinstance(answer, ShipmentNotCancellable)
    assert "delivered" in answer.reasons[0].detail


def test_a_cancellation_of_unknown_outcome_is_never_called_done():
    shop = loop(answers={"cancel fast berlin": "unknown"})
    shop.ship(create(berlin=5_000))

    with pytest.raises(Permanent, match="nobody knows"):
        shop.cancel()


def test_a_carrier_is_replaced_by_what_is_said_of_it_unless_that_is_stale():
    event = CarrierChanged(
        carrier="fast", booking="http", countries=("DE",), service_levels=("express",), weight_grams_max=5, rank=4, sequence=2
    )

    changed = change_carrier(event, Carrier("fast", sequence=1), loop().context()).state
    stale = change_carrier(event.model_copy(update={"rank": 9}), changed, loop().context()).state

    assert changed == Carrier("fast", "http", frozenset({"DE"}), ("express",), 5, 4, active=True, sequence=2)
    assert stale is changed


def test_the_first_report_of_a_delivery_counts():
    event = ShipmentDelivered(carrier="fast", tracking="T-1", delivered_at=NOW)

    first = record_delivery(event, Delivery(), loop().context()).state
    second = record_delivery(event, first, loop().context()).state

    assert first == Delivery(NOW)
    assert second is first

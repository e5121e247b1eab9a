"""What fulfillment does with each message: message and state in, state, answer or calls out.

A shipment with carriers outside takes several turns. Each turn writes the parcels' states in the transaction that commits
its calls, so that the next one finds in them where the last one stopped, also when it is an operator's replay:

    create ── all own fleet ───────────────────────────────────────────────> ShipmentCreated
      └─ book ── all booked ───────────────────────────────────────────────> ShipmentCreated
          ├─ refused ── book with the next carrier ── (as above)
          └─ refused by the last ── cancel what is booked ── all taken back ─> ShipmentRefused
    cancel ── nothing outside ─────────────────────────────────────────────> ShipmentCancelled
      └─ cancel each booking ── all taken back ────────────────────────────> ShipmentCancelled
          └─ one has left ─────────────────────────────────────────────────> ShipmentNotCancellable

A turn is given every call that the operation has ever made; it takes a result only where the parcel still waits for it.
"""

from collections.abc import Mapping, Sequence

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
from contracts.message import Json
from contracts.values import Reason, Shipment
from infra.chassis.errors import Permanent
from infra.chassis.service import Call, CallResult, Context, Decision, Direction
from services.fulfillment.domain import (
    Carrier,
    Delivery,
    Key,
    Load,
    Offer,
    Order,
    Parcel,
    ParcelPlanned,
    State,
    loads,
    not_sendable,
    offers,
    plan,
)

DEPENDENCY = "carrier"
DETAIL_LENGTH_MAX = 300


def order_of(command: CreateShipment | CancelShipment) -> Key:
    return Key("order", command.order_id)


def carrier_of(event: CarrierChanged) -> Key:
    return Key("carrier", event.carrier)


def parcel_of(event: ShipmentDelivered) -> Key:
    return Key("parcel", event.carrier, event.tracking)


def create_shipment(command: CreateShipment, state: State, context: Context) -> Decision[State]:
    order = _order(state)
    if order.of(context.operation_id):
        # A carrier gave no answer within its budget, the command became a dead letter, and somebody has replayed it.
        return conclude_shipment(command, state, context, context.calls)
    parts = loads(command.allocations)
    reasons = not_sendable(parts, command.ship_to.country, command.priority, order.carriers)
    if reasons:
        return Decision(order, ShipmentRefused(order_id=command.order_id, reasons=reasons))
    calls: list[Call] = []
    parcels: list[Parcel] = []
    for part in parts:
        offer = offers(order.carriers, part, command.ship_to.country, command.priority)[0]
        parcel = plan(context.operation_id, command.order_id, part.warehouse, offer.carrier)
        parcels.append(parcel)
        if parcel.external:
            calls.append(_book(parcel, part, offer, command))
    return Decision(
        order.holding(parcels),
        None if calls else _created(command, parcels),
        facts=tuple(ParcelPlanned(parcel) for parcel in parcels),
        calls=tuple(calls),
    )


def conclude_shipment(command: CreateShipment, state: State, context: Context, results: Sequence[CallResult]) -> Decision[State]:
    """Takes what the carriers said of bookings, or of the bookings that this operation itself has taken back."""
    order = _order(state)
    known = {result.call.key: result for result in results}
    parcels = [_after_calls(parcel, known) for parcel in order.of(context.operation_id)]
    tried = frozenset((_text(result.call.request, "warehouse"), _text(result.call.request, "carrier")) for result in results)
    others = {
        parcel.warehouse: _other_offer(command, order, parcel.warehouse, tried) for parcel in parcels if parcel.state == "refused"
    }
    # Once something has been taken back, or may have been, there is no way forward any more.
    taken_back = any(_cancel_key(parcel, "do") in known or parcel.state == "cancelled" for parcel in parcels)
    if taken_back or None in others.values():
        return _give_up(command, order, parcels)
    return _go_on(command, order, parcels, others, known)


def cancel_shipment(command: CancelShipment, state: State, context: Context, done: ShipmentCreated | None) -> Decision[State]:
    """Takes back every parcel of the operation, whether or not its shipment was ever answered: the parcels tell.

    A carrier that was asked and did not answer is told to forget the booking as well. A parcel that was delivered is beyond
    that; the others are cancelled all the same.
    """
    order = _order(state)
    parcels = [_without_own_booking(parcel) for parcel in order.of(context.operation_id)]
    calls = tuple(_cancel(parcel, "undo") for parcel in parcels if parcel.may_be_booked)
    after = order.holding(parcels) if parcels else order
    return Decision(after, None if calls else _cancelled(command, parcels, {}), calls=calls)


def conclude_cancellation(
    command: CancelShipment, state: State, context: Context, results: Sequence[CallResult]
) -> Decision[State]:
    order = _order(state)
    known = {result.call.key: result for result in results}
    parcels: list[Parcel] = []
    left: dict[str, str] = {}
    for parcel in order.of(context.operation_id):
        result = known.get(_cancel_key(parcel, "undo"))
        if result is not None and result.outcome == "refused":
            left[parcel.warehouse] = _why(result)
        elif result is not None and result.outcome == "done" and parcel.may_be_booked:
            parcel = parcel.cancelled()
        elif parcel.may_be_booked:
            raise Permanent(f"nobody knows whether {parcel.carrier} still holds booking {parcel.booking}; replay the command")
        parcels.append(parcel)
    return Decision(order.holding(parcels), _cancelled(command, parcels, left))


def change_carrier(event: CarrierChanged, state: State, context: Context) -> Decision[State]:
    assert isinstance(state, Carrier)
    if event.sequence <= state.sequence:
        return Decision(state)
    return Decision(
        Carrier(
            carrier=event.carrier,
            booking=event.booking,
            countries=frozenset(event.countries),
            service_levels=event.service_levels,
            weight_grams_max=event.weight_grams_max,
            rank=event.rank,
            active=event.active,
            sequence=event.sequence,
        )
    )


def record_delivery(event: ShipmentDelivered, state: State, context: Context) -> Decision[State]:
    """The first report counts; one about a parcel that is not ours changes no row."""
    assert isinstance(state, Delivery)
    return Decision(state if state.at is not None else Delivery(event.delivered_at))


def _after_calls(parcel: Parcel, known: Mapping[str, CallResult]) -> Parcel:
    if parcel.external and parcel.state == "planned":
        return _after_booking(parcel, known.get(parcel.booking))
    if parcel.external and parcel.state == "booked":
        return _after_taking_back(parcel, known.get(_cancel_key(parcel, "do")))
    return parcel


def _after_booking(parcel: Parcel, result: CallResult | None) -> Parcel:
    if result is not None and result.outcome == "done":
        return parcel.booked(_text(result.response, "tracking"))
    if result is not None and result.outcome == "refused":
        return parcel.refused(_why(result))
    return parcel


def _after_taking_back(parcel: Parcel, result: CallResult | None) -> Parcel:
    if result is None or result.outcome == "unknown":
        return parcel
    if result.outcome == "done":
        return parcel.cancelled()
    # No answer would be true: the shipment is not made, and something of it is on its way.
    raise Permanent(
        f"{parcel.carrier} does not take back booking {parcel.booking} ({_why(result)}), while another part of order "
        f"{parcel.order_id} was refused; settle it with the carrier, then cancel the order"
    )


def _go_on(
    command: CreateShipment,
    order: Order,
    parcels: Sequence[Parcel],
    others: Mapping[str, Offer | None],
    known: Mapping[str, CallResult],
) -> Decision[State]:
    """Asks the next carrier for what was refused, and asks again where an answer is missing. With nothing open, the shipment is created."""
    parts = {part.warehouse: part for part in loads(command.allocations)}
    after: list[Parcel] = []
    calls: list[Call] = []
    for parcel in parcels:
        offer = others.get(parcel.warehouse)
        current = parcel if offer is None else parcel.given_to(offer.carrier)
        after.append(current)
        if offer is not None and current.external:
            calls.append(_book(current, parts[parcel.warehouse], offer, command))
        elif current.state == "planned":
            calls.append(known[current.booking].call)
    return Decision(order.holding(after), None if calls else _created(command, after), calls=tuple(calls))


def _give_up(command: CreateShipment, order: Order, parcels: Sequence[Parcel]) -> Decision[State]:
    """Nothing may stay booked. What is with our own fleet is taken back here, the rest by calls, whose results come back."""
    after = [_without_own_booking(parcel) for parcel in parcels]
    calls = tuple(_cancel(parcel, "do") for parcel in after if parcel.may_be_booked)
    if calls:
        return Decision(order.holding(after), calls=calls)
    reasons = tuple(
        Reason(code="carrier-refused", detail=f"{parcel.carrier}, for the part from {parcel.warehouse}: {parcel.refusal}")
        for parcel in after
        if parcel.state == "refused"
    )
    return Decision(order.holding(after), ShipmentRefused(order_id=command.order_id, reasons=reasons))


def _without_own_booking(parcel: Parcel) -> Parcel:
    return parcel.cancelled() if parcel.state == "booked" and not parcel.external else parcel


def _other_offer(command: CreateShipment, order: Order, warehouse: str, tried: frozenset[tuple[str, str]]) -> Offer | None:
    """The best carrier that has not been asked for this warehouse's part, None when all have."""
    part = next(part for part in loads(command.allocations) if part.warehouse == warehouse)
    found = offers(order.carriers, part, command.ship_to.country, command.priority)
    return next((offer for offer in found if (warehouse, offer.carrier.carrier) not in tried), None)


def _book(parcel: Parcel, part: Load, offer: Offer, command: CreateShipment) -> Call:
    request: Json = {
        "action": "book",
        "carrier": parcel.carrier,
        "booking": parcel.booking,
        "warehouse": parcel.warehouse,
        "origin": part.origin,
        "weight_grams": part.weight_grams,
        "service_level": offer.service_level,
        "ship_to": command.ship_to.model_dump(mode="json"),
        "requested_delivery": command.requested_delivery.isoformat() if command.requested_delivery else None,
    }
    return Call(DEPENDENCY, parcel.booking, request)


def _cancel(parcel: Parcel, direction: Direction) -> Call:
    request: Json = {
        "action": "cancel",
        "carrier": parcel.carrier,
        "booking": parcel.booking,
        "warehouse": parcel.warehouse,
    }
    return Call(DEPENDENCY, _cancel_key(parcel, direction), request)


def _cancel_key(parcel: Parcel, direction: Direction) -> str:
    """A call is made once per key, and both the operation and its undo may have to take the same booking back."""
    return f"{parcel.booking}#cancel-{direction}"


def _created(command: CreateShipment, parcels: Sequence[Parcel]) -> ShipmentCreated:
    return ShipmentCreated(order_id=command.order_id, shipments=_shipments(parcels))


def _cancelled(
    command: CancelShipment, parcels: Sequence[Parcel], left: Mapping[str, str]
) -> ShipmentCancelled | ShipmentNotCancellable:
    reasons = tuple(
        Reason(code="already-left", detail=f"{parcel.carrier}, from {parcel.warehouse}, tracking {parcel.tracking}: {why}")
        for parcel in parcels
        if (why := left.get(parcel.warehouse, "delivered" if parcel.state == "delivered" else None))
    )
    if reasons:
        return ShipmentNotCancellable(order_id=command.order_id, reasons=reasons)
    cancelled = [parcel for parcel in parcels if parcel.state == "cancelled" and parcel.tracking is not None]
    return ShipmentCancelled(order_id=command.order_id, shipments=_shipments(cancelled))


def _shipments(parcels: Sequence[Parcel]) -> tuple[Shipment, ...]:
    return tuple(
        Shipment(warehouse=parcel.warehouse, carrier=parcel.carrier, tracking=parcel.tracking or "") for parcel in parcels
    )


def _why(result: CallResult) -> str:
    return str(result.response.get("detail") or result.response.get("code") or "no reason given")[:DETAIL_LENGTH_MAX]


def _text(document: Json, name: str) -> str:
    value = document[name]
    assert isinstance(value, str), f"{name} is text in every call and response"
    return value


def _order(state: State) -> Order:
    assert isinstance(state, Order)
    return state

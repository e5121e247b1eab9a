"""What is said to fulfillment and what fulfillment says, version 1."""

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from contracts.inventory.v1 import Allocations
from contracts.message import Command, Event
from contracts.values import Address, Count, CountryCode, Identifier, OrderId, Reason, Sequence, Shipment, Text

Shipments = Annotated[tuple[Shipment, ...], Field(max_length=50)]


class CreateShipment(Command):
    """Send what is set aside, each warehouse's part with the carrier that its rules choose."""

    wire_name: ClassVar[str] = "fulfillment.create-shipment.v1"

    order_id: OrderId
    allocations: Allocations
    ship_to: Address
    priority: Identifier = "normal"
    requested_delivery: date | None = None


class ShipmentCreated(Event):
    """Every part has a carrier and a tracking number."""

    wire_name: ClassVar[str] = "fulfillment.shipment-created.v1"

    order_id: OrderId
    shipments: Shipments


class ShipmentRefused(Event):
    """No carrier takes the order, and nothing of it is booked: an answer, not a failure."""

    wire_name: ClassVar[str] = "fulfillment.shipment-refused.v1"

    order_id: OrderId
    reasons: tuple[Reason, ...]


class CancelShipment(Command):
    """Take the order's bookings back; the undo of CreateShipment."""

    wire_name: ClassVar[str] = "fulfillment.cancel-shipment.v1"

    order_id: OrderId


class ShipmentCancelled(Event):
    """Nothing is booked for the order any more. `shipments` is what was cancelled."""

    wire_name: ClassVar[str] = "fulfillment.shipment-cancelled.v1"

    order_id: OrderId
    shipments: Shipments


class ShipmentNotCancellable(Event):
    """A part has left already. A person has to decide what follows."""

    wire_name: ClassVar[str] = "fulfillment.shipment-not-cancellable.v1"

    order_id: OrderId
    reasons: tuple[Reason, ...]


class ShipmentDelivered(Event):
    """A carrier reports that a parcel has arrived."""

    wire_name: ClassVar[str] = "fulfillment.shipment-delivered.v1"
    subject_field: ClassVar[str] = "tracking"

    carrier: Identifier
    tracking: Text
    delivered_at: AwareDatetime


class CarrierChanged(Event):
    """What a carrier takes and how it is booked: our own fleet without a call, others over HTTP. Replaces what was known of it.

    An empty `countries` means everywhere. Of several that fit, the lowest `rank` is chosen. Where an `http` carrier is
    reached is a setting of fulfillment, never part of a message.
    """

    wire_name: ClassVar[str] = "fulfillment.carrier-changed.v1"
    subject_field: ClassVar[str] = "carrier"

    carrier: Identifier
    booking: Literal["own-fleet", "http"]
    countries: Annotated[tuple[CountryCode, ...], Field(max_length=250)] = ()
    service_levels: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=10)]
    weight_grams_max: Count
    rank: Annotated[int, Field(strict=True, ge=1, le=1000)]
    active: bool = True
    sequence: Sequence


MESSAGES = (
    CarrierChanged, CreateShipment, ShipmentCreated, ShipmentRefused, CancelShipment, ShipmentCancelled, ShipmentNotCancellable,
    ShipmentDelivered,
)  # fmt: skip

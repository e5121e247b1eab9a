"""What is said about orders, version 1. The order itself is described once, in OrderBody."""

from datetime import date
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from contracts.inventory.v1 import Allocations, Lines
from contracts.message import Event
from contracts.values import Address, Buyer, BuyerId, Count, Currency, Money, OrderId, PartnerId, Reason, Shipment, Value

OrderNumber = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", strip_whitespace=True)
]
Priority = Annotated[str, StringConstraints(pattern=r"^(low|normal|high|urgent)$")]
Shipments = Annotated[tuple[Shipment, ...], Field(max_length=50)]


class OrderBody(Value):
    """What a partner asks for. Line numbers are unique within the order."""

    order_number: OrderNumber
    revision: Count
    buyer: Buyer
    ship_to: Address
    currency: Currency
    requested_delivery: date | None = None
    priority: Priority = "normal"
    lines: Lines

    @model_validator(mode="after")
    def _lines_are_unique(self) -> "OrderBody":
        numbers = [line.line for line in self.lines]
        if len(set(numbers)) != len(numbers):
            raise ValueError("two lines have the same number; give each its own")
        return self


class OrderSubmitted(Event, OrderBody):
    """A system sends an order over the broker instead of HTTP, for the partner whose account names its broker user."""

    wire_name: ClassVar[str] = "orders.order-submitted.v1"
    subject_field: ClassVar[str] = "order_number"

    partner_id: PartnerId


class OrderAccepted(Event, OrderBody):
    """The order exists and will come to a definite end."""

    wire_name: ClassVar[str] = "orders.order-accepted.v1"

    order_id: OrderId
    partner_id: PartnerId
    accepted_at: AwareDatetime


class OrderEnd(Value):
    """What every end of an order tells."""

    order_id: OrderId
    order_number: OrderNumber
    partner_id: PartnerId
    buyer_id: BuyerId
    reasons: tuple[Reason, ...] = ()


class OrderCompleted(Event, OrderEnd):
    """Everything is done: priced, cleared, held, set aside and handed to the carriers."""

    wire_name: ClassVar[str] = "orders.order-completed.v1"

    total: Money
    allocations: Allocations
    shipments: Shipments


class OrderRefused(Event, OrderEnd):
    """A service said no; everything done before has been taken back."""

    wire_name: ClassVar[str] = "orders.order-refused.v1"

    total: Money | None = None


class OrderCancelled(Event, OrderEnd):
    """Somebody cancelled in time; everything done before has been taken back."""

    wire_name: ClassVar[str] = "orders.order-cancelled.v1"


class OrderFailed(Event, OrderEnd):
    """A service gave no answer in time; everything done before has been taken back."""

    wire_name: ClassVar[str] = "orders.order-failed.v1"


MESSAGES = (OrderSubmitted, OrderAccepted, OrderCompleted, OrderRefused, OrderCancelled, OrderFailed)

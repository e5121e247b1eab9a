"""What is said to credit and what credit says, version 1."""

from typing import ClassVar

from contracts.message import Command, Event
from contracts.values import BuyerId, Money, OrderId, Reason, Sequence


class ReserveCredit(Command):
    """Hold part of a buyer's limit for one order."""

    wire_name: ClassVar[str] = "credit.reserve-credit.v1"

    order_id: OrderId
    buyer_id: BuyerId
    amount: Money


class CreditReserved(Event):
    """The amount is held until it is released or the order completes."""

    wire_name: ClassVar[str] = "credit.credit-reserved.v1"

    order_id: OrderId
    buyer_id: BuyerId
    amount: Money


class CreditDeclined(Event):
    """The buyer's limit does not allow it: an answer, not a failure. `shortfall` says how much is missing."""

    wire_name: ClassVar[str] = "credit.credit-declined.v1"

    order_id: OrderId
    buyer_id: BuyerId
    amount: Money
    shortfall: Money
    reasons: tuple[Reason, ...] = ()


class ReleaseCredit(Command):
    """Take the hold of one order back; the undo of ReserveCredit. Succeeds when there is nothing to release."""

    wire_name: ClassVar[str] = "credit.release-credit.v1"

    order_id: OrderId
    buyer_id: BuyerId
    amount: Money


class CreditReleased(Event):
    """Nothing is held for the order any more. `amount` is what was given back, zero where nothing was held."""

    wire_name: ClassVar[str] = "credit.credit-released.v1"

    order_id: OrderId
    buyer_id: BuyerId
    amount: Money


class LimitChanged(Event):
    """The buyer's limit is now this. Replaces the limit before it; an older `sequence` is ignored."""

    wire_name: ClassVar[str] = "credit.limit-changed.v1"
    subject_field: ClassVar[str] = "buyer_id"

    buyer_id: BuyerId
    limit: Money
    sequence: Sequence


MESSAGES = (ReserveCredit, CreditReserved, CreditDeclined, ReleaseCredit, CreditReleased, LimitChanged)

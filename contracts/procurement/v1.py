"""What is said to procurement and what procurement says, version 1. The service itself comes later; the words are agreed."""

from typing import ClassVar

from contracts.message import Command, Event
from contracts.values import Identifier, Money, Quantity, Reason, Sku, WarehouseId


class OrderGoods(Command):
    """Buy more of an item from a supplier."""

    wire_name: ClassVar[str] = "procurement.order-goods.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    warehouse: WarehouseId
    quantity: Quantity


class GoodsOrdered(Event):
    """A purchase order is out; the goods will come as `inventory.stock-received.v1`."""

    wire_name: ClassVar[str] = "procurement.goods-ordered.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    warehouse: WarehouseId
    quantity: Quantity
    purchase_order: Identifier
    cost: Money | None = None


class GoodsNotOrdered(Event):
    """No supplier can deliver: an answer, not a failure."""

    wire_name: ClassVar[str] = "procurement.goods-not-ordered.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    warehouse: WarehouseId
    reasons: tuple[Reason, ...]


MESSAGES = (OrderGoods, GoodsOrdered, GoodsNotOrdered)

"""What is said to inventory and what inventory says, version 1."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.message import Command, Event
from contracts.values import (
    LINES_MAX,
    Address,
    Allocation,
    Count,
    CountryCode,
    Identifier,
    OrderId,
    OrderLine,
    Quantity,
    Reason,
    Sequence,
    Sku,
    StockLevel,
    UnitCode,
    Value,
    WarehouseId,
)

Lines = Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=LINES_MAX)]
# One line may be served by several warehouses, so there can be more parts than lines.
Allocations = Annotated[tuple[Allocation, ...], Field(max_length=LINES_MAX * 10)]


class Shortage(Value):
    """How much of an item was asked for and how much there is."""

    sku: Sku
    requested: StockLevel
    available: StockLevel


class Availability(Value):
    """What a warehouse could promise of an item now: on hand and not reserved."""

    sku: Sku
    warehouse: WarehouseId
    available: StockLevel


class ReserveStock(Command):
    """Set the whole order aside, in as few warehouses as its rules allow, or nothing of it."""

    wire_name: ClassVar[str] = "inventory.reserve-stock.v1"

    order_id: OrderId
    lines: Lines
    ship_to: Address
    split_allowed: bool = True


class StockReserved(Event):
    """Every line is set aside, in these parts."""

    wire_name: ClassVar[str] = "inventory.stock-reserved.v1"

    order_id: OrderId
    allocations: Allocations


class StockShort(Event):
    """Nothing is set aside, because these items are missing: an answer, not a failure."""

    wire_name: ClassVar[str] = "inventory.stock-short.v1"

    order_id: OrderId
    missing: Annotated[tuple[Shortage, ...], Field(max_length=LINES_MAX)]
    reasons: tuple[Reason, ...] = ()


class ReleaseStock(Command):
    """Give back what is set aside for the order; the undo of ReserveStock."""

    wire_name: ClassVar[str] = "inventory.release-stock.v1"

    order_id: OrderId
    lines: Lines


class StockReleased(Event):
    """Nothing is set aside for the order any more. `allocations` is what was given back."""

    wire_name: ClassVar[str] = "inventory.stock-released.v1"

    order_id: OrderId
    allocations: Allocations


class QueryAvailability(Command):
    """Ask what could be promised now. Changes and holds nothing."""

    wire_name: ClassVar[str] = "inventory.query-availability.v1"
    subject_field: ClassVar[str] = "query_id"

    query_id: Identifier
    skus: Annotated[tuple[Sku, ...], Field(min_length=1, max_length=LINES_MAX)]


class AvailabilityReported(Event):
    """What could be promised when it was asked; an item that no warehouse keeps is absent."""

    wire_name: ClassVar[str] = "inventory.availability-reported.v1"
    subject_field: ClassVar[str] = "query_id"

    query_id: Identifier
    stock: Annotated[tuple[Availability, ...], Field(max_length=LINES_MAX * 10)]


class StockReceived(Event):
    """Goods have arrived. Adds to what is on hand, unless its `sequence` is below that of the last count, which has the goods already."""

    wire_name: ClassVar[str] = "inventory.stock-received.v1"
    subject_field: ClassVar[str] = "sku"

    warehouse: WarehouseId
    sku: Sku
    quantity: Quantity
    sequence: Sequence | None = None


class StockCounted(Event):
    """Somebody has counted. Replaces what is on hand; an older `sequence` is ignored."""

    wire_name: ClassVar[str] = "inventory.stock-counted.v1"
    subject_field: ClassVar[str] = "sku"

    warehouse: WarehouseId
    sku: Sku
    on_hand: StockLevel
    sequence: Sequence


class StockLow(Event):
    """What can be promised of an item, over all warehouses, has fallen to its reorder point. Said once until it recovers."""

    wire_name: ClassVar[str] = "inventory.stock-low.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    available: StockLevel
    reorder_point: StockLevel
    sequence: Sequence


class StockRecovered(Event):
    """The item has risen to its recovery level (above the reorder point, so that the two do not flutter)."""

    wire_name: ClassVar[str] = "inventory.stock-recovered.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    available: StockLevel
    sequence: Sequence


class WarehouseChanged(Event):
    """A warehouse exists in this country, and is used in this order of priority (1 first). Replaces what was known of it."""

    wire_name: ClassVar[str] = "inventory.warehouse-changed.v1"
    subject_field: ClassVar[str] = "warehouse"

    warehouse: WarehouseId
    country: CountryCode
    priority: Annotated[int, Field(strict=True, ge=1, le=1000)]
    sequence: Sequence


class ItemChanged(Event):
    """What inventory has to know of an item. It is low at `reorder_point` and has recovered at `recovery_level`."""

    wire_name: ClassVar[str] = "inventory.item-changed.v1"
    subject_field: ClassVar[str] = "sku"

    sku: Sku
    unit: UnitCode
    weight_grams: Count
    reorder_point: StockLevel
    recovery_level: StockLevel
    sequence: Sequence


MESSAGES = (
    WarehouseChanged, ItemChanged, ReserveStock, StockReserved, StockShort, ReleaseStock, StockReleased,
    QueryAvailability, AvailabilityReported, StockReceived, StockCounted, StockLow, StockRecovered,
)  # fmt: skip

"""What is where, what of it is promised, and when an item is low."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, Decimal
from typing import Final, Literal, NamedTuple

from contracts.values import QUANTITY_DECIMALS_MAX, QUANTITY_DIGITS_MAX

NEVER: Final = -1
"""The sequence of a fact that has not been stated yet."""
ZERO: Final = Decimal(0)
_STEP: Final = Decimal(1).scaleb(-QUANTITY_DECIMALS_MAX)
LEVEL_MAX: Final = Decimal(10) ** (QUANTITY_DIGITS_MAX - QUANTITY_DECIMALS_MAX) - _STEP
"""The most that a message can say of a quantity: 999999999.999."""

ReservationState = Literal["reserved", "released", "committed"]
MovementKind = Literal["received", "counted", "committed"]


class Key(NamedTuple):
    """What a state is about. An order's reservations need no lock: each changes only under the lock of its item."""

    kind: Literal["item", "order", "warehouse"]
    id: str


class Place(NamedTuple):
    """An item in a warehouse."""

    sku: str
    warehouse: str


def level(quantity: Decimal) -> Decimal:
    """The quantity as a message can carry it: no trailing zeros, and no more than the largest one."""
    capped = min(quantity, LEVEL_MAX)
    whole = capped.to_integral_value(ROUND_DOWN)
    return whole if whole == capped else capped.quantize(_STEP, ROUND_DOWN).normalize()


@dataclass(frozen=True, slots=True)
class Stock:
    """An item in one warehouse. `country` is None until the warehouse has been described.

    `changed` is not stored: it marks the rows that have to be written back.
    """

    warehouse: str
    country: str | None = None
    priority: int = 0
    on_hand: Decimal = ZERO
    reserved: Decimal = ZERO
    count_sequence: int = NEVER
    changed: bool = False

    @property
    def free(self) -> Decimal:
        """What is left to promise. A count may find less than is promised already; that leaves nothing, not a debt."""
        return max(self.on_hand - self.reserved, ZERO)


@dataclass(frozen=True, slots=True)
class Alert:
    """The item has just become low, or has just recovered. `sequence` rises with every alert of the item."""

    low: bool
    available: Decimal
    sequence: int


@dataclass(frozen=True, slots=True)
class Item:
    """An item and its stock in every warehouse that has ever kept it. It has no unit until it has been described.

    `changed` is not stored: it marks that the item's own row, and not only its stock, has to be written back.
    """

    sku: str
    unit: str | None = None
    weight_grams: int = 0
    reorder_point: Decimal = ZERO
    recovery_level: Decimal = ZERO
    sequence: int = NEVER
    low: bool = False
    alert_sequence: int = 0
    stock: Mapping[str, Stock] = field(default_factory=dict)
    changed: bool = False

    @property
    def available(self) -> Decimal:
        """What is left to promise over all warehouses, also those whose country is not known yet."""
        return sum((stock.free for stock in self.stock.values()), ZERO)

    def at(self, warehouse: str) -> Stock:
        """Its stock there, which is nothing where it has never been."""
        return self.stock.get(warehouse) or Stock(warehouse)

    def reserve(self, warehouse: str, quantity: Decimal) -> "Item":
        stock = self.at(warehouse)
        assert quantity <= stock.free, "only what is free is allocated"
        return self._with(replace(stock, reserved=stock.reserved + quantity, changed=True))

    def release(self, warehouse: str, quantity: Decimal) -> "Item":
        stock = self.at(warehouse)
        assert quantity <= stock.reserved, "only what was reserved is released"
        return self._with(replace(stock, reserved=stock.reserved - quantity, changed=True))

    def commit(self, warehouse: str, quantity: Decimal) -> "Committed":
        """What was reserved leaves the warehouse. `unmet` is how much of it was not there after all: a count had found less."""
        stock = self.at(warehouse)
        assert quantity <= stock.reserved, "only what was reserved is committed"
        gone = min(quantity, stock.on_hand)
        after = replace(stock, on_hand=stock.on_hand - gone, reserved=stock.reserved - quantity, changed=True)
        return Committed(self._with(after), gone=gone, unmet=quantity - gone)

    def receive(self, warehouse: str, quantity: Decimal, sequence: int | None) -> "Item | None":
        """None when the goods were there already at the last count. Raises ValueError when the sum is more than can be told."""
        stock = self.at(warehouse)
        if sequence is not None and sequence < stock.count_sequence:
            return None
        on_hand = stock.on_hand + quantity
        if on_hand > LEVEL_MAX:
            raise ValueError(f"{self.sku} in {warehouse} would be {on_hand}; more than {LEVEL_MAX} cannot be kept")
        return self._with(replace(stock, on_hand=on_hand, changed=True))

    def count(self, warehouse: str, on_hand: Decimal, sequence: int) -> "Item | None":
        """None when a later count, or this one, is known already."""
        stock = self.at(warehouse)
        if sequence <= stock.count_sequence:
            return None
        return self._with(replace(stock, on_hand=on_hand, count_sequence=sequence, changed=True))

    def describe(self, unit: str, weight_grams: int, reorder_point: Decimal, recovery_level: Decimal, sequence: int) -> "Item":
        """The same item when this, or something newer, is known already."""
        if sequence <= self.sequence:
            return self
        return replace(
            self,
            unit=unit,
            weight_grams=weight_grams,
            reorder_point=reorder_point,
            recovery_level=recovery_level,
            sequence=sequence,
            changed=True,
        )

    def watch(self) -> "tuple[Item, Alert | None]":
        """Compares what is available with the two levels, and says once that it has crossed one.

        Nothing is said of an item that was never described or never kept. Where the recovery level is
        not above the reorder point, the item still has to rise above the reorder point to recover.
        """
        if self.unit is None or not self.stock:
            return self, None
        available = self.available
        low = available <= self.reorder_point or (self.low and available < self.recovery_level)
        if low == self.low:
            return self, None
        after = replace(self, low=low, alert_sequence=self.alert_sequence + 1, changed=True)
        return after, Alert(low, level(available), after.alert_sequence)

    def _with(self, stock: Stock) -> "Item":
        return replace(self, stock={**self.stock, stock.warehouse: stock})


@dataclass(frozen=True, slots=True)
class Committed:
    item: Item
    gone: Decimal
    unmet: Decimal


@dataclass(frozen=True, slots=True)
class Warehouse:
    """Where a warehouse is and how gladly it is used (1 first)."""

    country: str | None = None
    priority: int = 0
    sequence: int = NEVER

    def describe(self, country: str, priority: int, sequence: int) -> "Warehouse":
        """The same warehouse when this, or something newer, is known already."""
        return self if sequence <= self.sequence else Warehouse(country, priority, sequence)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one operation has set aside of an item in a warehouse."""

    operation_id: str
    place: Place
    quantity: Decimal
    state: ReservationState = "reserved"


@dataclass(frozen=True, slots=True)
class Order:
    """The reservations of an order, of all its operations."""

    reservations: tuple[Reservation, ...] = ()

    def backing(self, wanted: Mapping[Place, Decimal]) -> tuple[Reservation, ...] | None:
        """The open reservations that are exactly what is wanted: those of one operation, otherwise all of them together.

        Empty when just this has been committed already. None when no reservations add up to it.
        """
        if _sums(self._in("committed")) == wanted:
            return ()
        held = self._in("reserved")
        for operation_id in sorted({reservation.operation_id for reservation in held}):
            ours = tuple(reservation for reservation in held if reservation.operation_id == operation_id)
            if _sums(ours) == wanted:
                return ours
        return held if _sums(held) == wanted else None

    def commit(self, backing: tuple[Reservation, ...]) -> "Order":
        return Order(
            tuple(
                replace(reservation, state="committed") if reservation in backing else reservation
                for reservation in self.reservations
            )
        )

    def committed(self, operation_id: str) -> frozenset[Place]:
        """Where what the operation has set aside is gone for good."""
        return frozenset(reservation.place for reservation in self._in("committed") if reservation.operation_id == operation_id)

    def _in(self, state: ReservationState) -> tuple[Reservation, ...]:
        return tuple(reservation for reservation in self.reservations if reservation.state == state)


def _sums(reservations: Iterable[Reservation]) -> dict[Place, Decimal]:
    sums: dict[Place, Decimal] = {}
    for reservation in reservations:
        sums[reservation.place] = sums.get(reservation.place, ZERO) + reservation.quantity
    return sums


State = Item | Order | Warehouse


@dataclass(frozen=True, slots=True)
class StockOpened:
    """Fact: the warehouse keeps the item for the first time."""

    place: Place


@dataclass(frozen=True, slots=True)
class StockReservation:
    """Fact: an operation has set this aside for an order."""

    operation_id: str
    order_id: str
    place: Place
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class ReservationEnded:
    """Fact: a reservation is given back, or what it held is gone."""

    operation_id: str
    place: Place
    state: ReservationState


@dataclass(frozen=True, slots=True)
class StockMoved:
    """Fact: a line of the ledger. `quantity` is signed; the quantities of a place add up to what is on hand.

    `cause` is the operation or the message behind it. `unmet` is what should have left and was not there.
    """

    place: Place
    kind: MovementKind
    quantity: Decimal
    cause: str
    unmet: Decimal = ZERO

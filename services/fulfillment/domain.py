"""Which carrier takes which parcel, and in which state a parcel is."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from contracts.values import Allocation, Reason

NEVER: Final = -1
"""The sequence of a fact that has not been stated yet."""
PARCELS_MAX: Final = 50

# From slow to fast. An order is sent at the level of its priority; where no carrier offers that, at the next faster one.
SERVICE_LEVELS: Final = ("economy", "standard", "express", "overnight")
LEVEL_OF_PRIORITY: Final = {"low": "economy", "normal": "standard", "high": "express", "urgent": "overnight"}

ParcelState = Literal["planned", "booked", "refused", "cancelled", "delivered"]


class Key(NamedTuple):
    """What a state is about: an order's parcels, a carrier, or one parcel as its carrier names it (`id` and `tracking`)."""

    kind: Literal["order", "carrier", "parcel"]
    id: str
    tracking: str = ""


@dataclass(frozen=True, slots=True)
class Carrier:
    """What a carrier takes. `countries` empty means everywhere."""

    carrier: str
    booking: Literal["own-fleet", "http"] = "http"
    countries: frozenset[str] = frozenset()
    service_levels: tuple[str, ...] = ()
    weight_grams_max: int = 0
    rank: int = 1000
    active: bool = False
    sequence: int = NEVER

    def takes(self, country: str, weight_grams: int) -> bool:
        return self.active and weight_grams <= self.weight_grams_max and (not self.countries or country in self.countries)


@dataclass(frozen=True, slots=True)
class Load:
    """What one warehouse has to send."""

    warehouse: str
    origin: str
    weight_grams: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A carrier that takes a load, and the service level at which it would."""

    carrier: Carrier
    service_level: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """One warehouse's part of an order, for one operation.

        planned ──> booked ──> delivered
          │  ▲        └──────> cancelled
          ▼  │
        refused   (planned again with the next carrier, while there is one)

    An `external` parcel is booked with a carrier outside, one of our own fleet by being written down. `refusal` is why the last carrier
    refused, for operators. `changed` is not stored: it marks the rows that have to be written back.
    """

    operation_id: str
    order_id: str
    warehouse: str
    carrier: str
    external: bool
    state: ParcelState
    tracking: str | None = None
    refusal: str | None = None
    changed: bool = False

    @property
    def booking(self) -> str:
        """The key under which the carrier knows it, the same however often it is asked."""
        return f"{self.operation_id}#{self.warehouse}#{self.carrier}"

    @property
    def may_be_booked(self) -> bool:
        """Whether a carrier outside may hold a booking for it."""
        return self.external and self.state in ("planned", "booked")

    def booked(self, tracking: str) -> "Parcel":
        return replace(self, state="booked", tracking=tracking, changed=True)

    def refused(self, why: str) -> "Parcel":
        return replace(self, state="refused", refusal=why, changed=True)

    def cancelled(self) -> "Parcel":
        return replace(self, state="cancelled", changed=True)

    def given_to(self, carrier: Carrier) -> "Parcel":
        """Planned anew, after one carrier has refused."""
        return replace(plan(self.operation_id, self.order_id, self.warehouse, carrier), changed=True)


@dataclass(frozen=True, slots=True)
class Order:
    """An order's parcels, by operation and warehouse, and the carriers that there are."""

    carriers: tuple[Carrier, ...] = ()
    parcels: Mapping[tuple[str, str], Parcel] = field(default_factory=dict)

    def of(self, operation_id: str) -> tuple[Parcel, ...]:
        """The parcels of one operation, by warehouse."""
        return tuple(parcel for key, parcel in sorted(self.parcels.items()) if key[0] == operation_id)

    def holding(self, parcels: Iterable[Parcel]) -> "Order":
        """With these parcels in the place of those of the same operation and warehouse."""
        changed = {(parcel.operation_id, parcel.warehouse): parcel for parcel in parcels}
        return replace(self, parcels={**self.parcels, **changed})


@dataclass(frozen=True, slots=True)
class Delivery:
    """When a parcel arrived, None as long as it is on its way (or is nothing of ours)."""

    at: datetime | None = None


State = Order | Carrier | Delivery


@dataclass(frozen=True, slots=True)
class ParcelPlanned:
    """Fact: an operation sends this parcel, which is not written down yet."""

    parcel: Parcel


def loads(allocations: Iterable[Allocation]) -> tuple[Load, ...]:
    """One load per warehouse, by name."""
    weights: dict[str, int] = {}
    origins: dict[str, str] = {}
    for part in allocations:
        weights[part.warehouse] = weights.get(part.warehouse, 0) + part.weight_grams
        origins[part.warehouse] = part.country
    return tuple(Load(warehouse, origins[warehouse], weights[warehouse]) for warehouse in sorted(weights))


def offers(carriers: Iterable[Carrier], load: Load, country: str, priority: str) -> tuple[Offer, ...]:
    """The carriers that could take it, best first: the slowest level that is fast enough, then the lowest rank, then by name."""
    wanted = LEVEL_OF_PRIORITY.get(priority)
    if wanted is None:
        return ()
    fast_enough = SERVICE_LEVELS[SERVICE_LEVELS.index(wanted) :]
    found = [
        (fast_enough.index(service_level), carrier.rank, carrier.carrier, Offer(carrier, service_level))
        for carrier in carriers
        if carrier.takes(country, load.weight_grams)
        for service_level in fast_enough
        if service_level in carrier.service_levels
    ]
    # A carrier with several levels that are fast enough is asked once, for the slowest.
    best: dict[str, Offer] = {}
    for *_, name, offer in sorted(found, key=lambda row: row[:3]):
        best.setdefault(name, offer)
    return tuple(best.values())


def plan(operation_id: str, order_id: str, warehouse: str, carrier: Carrier) -> Parcel:
    """A parcel for this carrier: booked at once by our own fleet, waiting for its answer with others."""
    if carrier.booking == "http":
        return Parcel(operation_id, order_id, warehouse, carrier.carrier, external=True, state="planned")
    tracking = own_tracking(operation_id, warehouse)
    return Parcel(operation_id, order_id, warehouse, carrier.carrier, external=False, state="booked", tracking=tracking)


def own_tracking(operation_id: str, warehouse: str) -> str:
    """Our own fleet's number: made from the operation, so that it is the same however often it is made."""
    digest = hashlib.sha256(f"{operation_id}#{warehouse}".encode()).digest()
    return "OWN" + base64.b32encode(digest[:10]).decode()


def not_sendable(parts: Sequence[Load], country: str, priority: str, carriers: Sequence[Carrier]) -> tuple[Reason, ...]:
    """Why no carrier takes these, named by warehouse; empty when each of them finds a carrier."""
    if priority not in LEVEL_OF_PRIORITY:
        known = ", ".join(LEVEL_OF_PRIORITY)
        return (Reason(code="unknown-priority", detail=f"no service level belongs to priority {priority}; known are {known}"),)
    if len(parts) > PARCELS_MAX:
        detail = f"the order would be {len(parts)} parcels; at most {PARCELS_MAX} can be sent"
        return (Reason(code="too-many-parcels", detail=detail),)
    return tuple(
        Reason(
            code="no-carrier",
            detail=(
                f"no carrier takes {part.weight_grams} g from {part.warehouse} to {country} "
                f"at {LEVEL_OF_PRIORITY[priority]} or faster"
            ),
        )
        for part in parts
        if not offers(carriers, part, country, priority)
    )

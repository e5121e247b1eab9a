"""Which warehouses serve an order: the whole of it, in as few parts as the rules allow, or nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Final

from contracts.values import LINES_MAX, Allocation, OrderLine, Reason
from services.inventory.distance import distance_class
from services.inventory.domain import ZERO, Item, Place, Stock, level

PARTS_MAX: Final = LINES_MAX * 5
"""More parts than this would not fit into one message together with the rest of an order's end."""
WAREHOUSES_MAX: Final = 50
"""As many parcels as a shipment may have."""
WEIGHT_GRAMS_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Missing:
    """How much of an item was asked for and how much there is."""

    sku: str
    requested: Decimal
    available: Decimal


@dataclass(frozen=True, slots=True)
class Allocated:
    parts: tuple[Allocation, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing can be promised. `missing` has one entry per item, `reasons` name the lines."""

    missing: tuple[Missing, ...]
    reasons: tuple[Reason, ...]


def allocate(lines: Sequence[OrderLine], items: Mapping[str, Item], country: str, *, split_allowed: bool) -> Allocated | Short:
    """Distributes the lines over the warehouses. Two lines with the same item share its stock.

    1. One warehouse for everything where any can; of several the nearest (same country, same region, elsewhere), then the
       one of the best priority, then the one with most of these items, then by name.
    2. Otherwise, where a split is allowed, line by line: one warehouse for the whole line where any can, again the nearest, and
       of these one that serves the order already, then by priority, stock of the item and name.
    3. A line that no warehouse can serve alone takes all it can get, from warehouse to warehouse, in the order of rule 2.
    """
    demand = _demand(lines)
    if problem := _not_deliverable(lines, items, demand):
        return problem
    depots = _depots(demand, items, country)
    if (whole := _one_for_all(demand, depots)) is not None:
        return Allocated(tuple(_part(line, items, whole, line.quantity) for line in lines))
    if not split_allowed:
        return _no_single_warehouse(demand, depots)
    return _bounded(_split(lines, items, depots))


@dataclass(slots=True)
class _Depot:
    """A warehouse while an order is distributed: `free` falls as lines are given to it."""

    warehouse: str
    country: str
    distance: int
    priority: int
    free: dict[str, Decimal]
    used: bool = False

    def covers(self, demand: Mapping[str, Decimal]) -> bool:
        return all(self.free.get(sku, ZERO) >= quantity for sku, quantity in demand.items())

    def take(self, sku: str, quantity: Decimal) -> None:
        self.free[sku] -= quantity
        self.used = True


def _demand(lines: Sequence[OrderLine]) -> dict[str, Decimal]:
    demand: dict[str, Decimal] = {}
    for line in lines:
        demand[line.sku] = demand.get(line.sku, ZERO) + line.quantity
    return demand


def _promisable(item: Item) -> Iterable[Stock]:
    """Stock that can be sent: the country of its warehouse is known."""
    return (stock for stock in item.stock.values() if stock.country is not None)


def _not_deliverable(lines: Sequence[OrderLine], items: Mapping[str, Item], demand: Mapping[str, Decimal]) -> Short | None:
    """Everything that is wrong with the order at once, or None."""
    available = {sku: sum((stock.free for stock in _promisable(items[sku])), ZERO) for sku in demand}
    missing = {
        sku: Missing(sku, level(quantity), level(available[sku]))
        for sku, quantity in demand.items()
        if items[sku].unit is None or available[sku] < quantity
    }
    reasons = [reason for line in lines if (reason := _reason(line, items[line.sku], missing)) is not None]
    return Short(tuple(missing.values()), tuple(reasons)) if reasons else None


def _reason(line: OrderLine, item: Item, missing: Mapping[str, Missing]) -> Reason | None:
    if item.unit is None:
        return Reason(code="unknown-item", detail=f"line {line.line}: no item is called {line.sku}")
    if item.unit != line.unit:
        return Reason(
            code="wrong-unit",
            detail=f"line {line.line}: {line.sku} is kept in {item.unit}, and was ordered in {line.unit}",
        )
    lack = missing.get(line.sku)
    if lack is None:
        return None
    return Reason(
        code="stock-short",
        detail=f"line {line.line}: the order needs {lack.requested} {item.unit} of {line.sku}, {lack.available} can be promised",
    )


def _depots(demand: Mapping[str, Decimal], items: Mapping[str, Item], country: str) -> list[_Depot]:
    depots: dict[str, _Depot] = {}
    for sku in demand:
        for stock in _promisable(items[sku]):
            depot = depots.get(stock.warehouse)
            if depot is None:
                assert stock.country is not None, "only promisable stock comes here"
                distance = distance_class(stock.country, country)
                depot = _Depot(stock.warehouse, stock.country, distance, stock.priority, {})
                depots[stock.warehouse] = depot
            depot.free[sku] = stock.free
    return list(depots.values())


def _one_for_all(demand: Mapping[str, Decimal], depots: Sequence[_Depot]) -> _Depot | None:
    return min(
        (depot for depot in depots if depot.covers(demand)),
        key=lambda depot: (depot.distance, depot.priority, -sum(depot.free.values(), ZERO), depot.warehouse),
        default=None,
    )


def _no_single_warehouse(demand: Mapping[str, Decimal], depots: Sequence[_Depot]) -> Short:
    """There is enough, but not in one place: the shortages are those of the warehouse that lacks the fewest items."""

    def lacks(depot: _Depot) -> tuple[Missing, ...]:
        return tuple(
            Missing(sku, level(quantity), level(depot.free.get(sku, ZERO)))
            for sku, quantity in demand.items()
            if depot.free.get(sku, ZERO) < quantity
        )

    best = min(depots, key=lambda depot: (len(lacks(depot)), depot.distance, depot.priority, depot.warehouse))
    detail = f"the order must not be split, and no warehouse has all of it; {best.warehouse} comes closest"
    return Short(lacks(best), (Reason(code="no-single-warehouse", detail=detail),))


def _split(lines: Sequence[OrderLine], items: Mapping[str, Item], depots: Sequence[_Depot]) -> tuple[Allocation, ...]:
    parts: list[Allocation] = []
    for line in lines:
        ranked = sorted(
            (depot for depot in depots if depot.free.get(line.sku, ZERO) > 0),
            key=lambda depot: (
                depot.distance,
                not depot.used,
                depot.priority,
                -depot.free[line.sku],
                depot.warehouse,
            ),
        )
        enough = next((depot for depot in ranked if depot.free[line.sku] >= line.quantity), None)
        parts.extend(_serve(line, items, ranked if enough is None else [enough]))
    return tuple(parts)


def _serve(line: OrderLine, items: Mapping[str, Item], depots: Iterable[_Depot]) -> Iterable[Allocation]:
    open_quantity = line.quantity
    for depot in depots:
        quantity = min(open_quantity, depot.free[line.sku])
        depot.take(line.sku, quantity)
        yield _part(line, items, depot, quantity)
        open_quantity -= quantity
        if not open_quantity:
            return
    assert not open_quantity, "the stock of all warehouses was compared with the demand before"


def _part(line: OrderLine, items: Mapping[str, Item], depot: _Depot, quantity: Decimal) -> Allocation:
    grams = (quantity * items[line.sku].weight_grams).to_integral_value(ROUND_CEILING)
    return Allocation(
        line=line.line,
        sku=line.sku,
        warehouse=depot.warehouse,
        country=depot.country,
        quantity=level(quantity),
        weight_grams=min(int(grams), WEIGHT_GRAMS_MAX),
    )


def _bounded(parts: tuple[Allocation, ...]) -> Allocated | Short:
    warehouses = {part.warehouse for part in parts}
    if len(parts) <= PARTS_MAX and len(warehouses) <= WAREHOUSES_MAX:
        return Allocated(parts)
    detail = (
        f"the order would need {len(parts)} parts from {len(warehouses)} warehouses; "
        f"at most {PARTS_MAX} from {WAREHOUSES_MAX} can be sent"
    )
    return Short((), (Reason(code="too-many-parts", detail=detail),))


def by_place(parts: Iterable[Allocation]) -> dict[Place, Decimal]:
    """How much of each item each warehouse contributes."""
    sums: dict[Place, Decimal] = {}
    for part in parts:
        place = Place(part.sku, part.warehouse)
        sums[place] = sums.get(place, ZERO) + part.quantity
    return sums

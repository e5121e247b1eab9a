"""The one list of who owns, sends, receives and answers what. Topology, permissions and docs/messages.md come from it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from contracts.compliance import v1 as compliance
from contracts.credit import v1 as credit
from contracts.credit import v2 as credit_v2
from contracts.deadletters import v1 as deadletters
from contracts.fulfillment import v1 as fulfillment
from contracts.inventory import v1 as inventory
from contracts.message import Command, Event, Json, Message, owner_of, unversioned, version_of
from contracts.orders import v1 as orders
from contracts.pricing import v1 as pricing
from contracts.procurement import v1 as procurement

ORCHESTRATOR = "orchestrator"
FAILURE_DESK = "deadletters"
# Every service with a broker user of its own; each may say that it has handled a replay.
SERVICES = ("ingress", ORCHESTRATOR, "credit", "inventory", "compliance", "pricing", "fulfillment", FAILURE_DESK)
# Systems of the company and its partners that speak to the broker directly, each as a broker user of its own.
SYSTEMS = ("wms", "erp")
# Only these may send commands, and only their operation ids and replay markers count.
COMMANDERS = (ORCHESTRATOR, FAILURE_DESK)


class UnknownMessage(LookupError):
    """The wire name is not in the registry; the text says which versions or names exist."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message: its model, who may send it, which queues receive it, and for a command its possible answers by outcome."""

    model: type[Message]
    senders: tuple[str, ...]
    receivers: tuple[str, ...] = ()
    answers: Mapping[str, type[Event]] = field(default_factory=dict)

    @property
    def wire_name(self) -> str:
        return self.model.wire_name

    @property
    def owner(self) -> str:
        return owner_of(self.wire_name)

    @property
    def is_command(self) -> bool:
        return issubclass(self.model, Command)


def _command(
    model: type[Command], *, deployed: bool = True, senders: tuple[str, ...] = COMMANDERS, **answers: type[Event]
) -> Iterable[Entry]:
    """The command and its answers: the owner receives the one, the orchestrator the others."""
    owner = owner_of(model.wire_name)
    yield Entry(model, senders, (f"{owner}.commands",) if deployed else (), answers)
    for answer in answers.values():
        yield Entry(answer, (owner,) if deployed else (), ("orchestrator.events",) if deployed else ())


def _event(model: type[Event], senders: tuple[str, ...], *receivers: str) -> Iterable[Entry]:
    yield Entry(model, senders, receivers)


ENTRIES: tuple[Entry, ...] = (
    *_event(orders.OrderSubmitted, ("erp",), "ingress.events"),
    *_event(orders.OrderAccepted, ("ingress",), "orchestrator.events"),
    *_event(orders.OrderCompleted, (ORCHESTRATOR,), "ingress.events", "credit.events", "inventory.events"),
    *_event(orders.OrderRefused, (ORCHESTRATOR,), "ingress.events"),
    *_event(orders.OrderCancelled, (ORCHESTRATOR,), "ingress.events"),
    *_event(orders.OrderFailed, (ORCHESTRATOR,), "ingress.events"),
    *_command(credit.ReserveCredit, done=credit.CreditReserved, refused=credit.CreditDeclined),
    *_command(credit.ReleaseCredit, done=credit.CreditReleased),
    *_event(credit.LimitChanged, ("erp",), "credit.events"),
    *_event(credit_v2.LimitChanged, ("erp",), "credit.events"),
    *_command(inventory.ReserveStock, done=inventory.StockReserved, refused=inventory.StockShort),
    *_command(inventory.ReleaseStock, done=inventory.StockReleased),
    *_command(inventory.QueryAvailability, done=inventory.AvailabilityReported),
    *_event(inventory.StockReceived, ("wms",), "inventory.events"),
    *_event(inventory.StockCounted, ("wms",), "inventory.events"),
    *_event(inventory.WarehouseChanged, ("erp",), "inventory.events"),
    *_event(inventory.ItemChanged, ("erp",), "inventory.events"),
    *_event(inventory.StockLow, ("inventory",), "pricing.events"),
    *_event(inventory.StockRecovered, ("inventory",), "pricing.events"),
    *_command(
        compliance.ScreenParties,
        done=compliance.PartiesCleared,
        refused=compliance.PartiesBlocked,
        review=compliance.ReviewNeeded,
    ),
    *_command(pricing.PriceOrder, done=pricing.OrderPriced, refused=pricing.OrderNotPriced),
    *_event(pricing.ListPriceChanged, ("erp",), "pricing.events"),
    *_event(pricing.ContractChanged, ("erp",), "pricing.events"),
    *_command(fulfillment.CreateShipment, done=fulfillment.ShipmentCreated, refused=fulfillment.ShipmentRefused),
    *_command(
        fulfillment.CancelShipment,
        done=fulfillment.ShipmentCancelled,
        refused=fulfillment.ShipmentNotCancellable,
    ),
    *_event(fulfillment.CarrierChanged, ("erp",), "fulfillment.events"),
    *_event(fulfillment.ShipmentDelivered, SYSTEMS, "fulfillment.events"),
    *_command(procurement.OrderGoods, deployed=False, done=procurement.GoodsOrdered, refused=procurement.GoodsNotOrdered),
    *_event(deadletters.DeadLetterOpened, (FAILURE_DESK,), "orchestrator.events"),
    *_event(deadletters.ReplayHandled, SERVICES, "deadletters.events"),
)

REGISTRY: Mapping[str, Entry] = {entry.wire_name: entry for entry in ENTRIES}
VERSIONS: Mapping[str, tuple[int, ...]] = {
    name: tuple(sorted(version_of(other) or 0 for other in REGISTRY if unversioned(other) == name))
    for name in {unversioned(wire_name) for wire_name in REGISTRY}
}
Upcaster = Callable[[Json], Json]
UPCASTERS: Mapping[str, tuple[str, Upcaster]] = {**credit_v2.UPCASTERS}


def entry(wire_name: str) -> Entry:
    """The entry of a wire name. Raises UnknownMessage, which says what exists instead."""
    found = REGISTRY.get(wire_name)
    if found is None:
        versions = VERSIONS.get(unversioned(wire_name))
        hint = f"known versions are {list(versions)}" if versions else "see `tutti contracts list`"
        raise UnknownMessage(f"no message is called {wire_name!r}; {hint}")
    return found


def upcast(wire_name: str, data: Json, wanted: Iterable[str]) -> tuple[str, Json]:
    """Lifts `data` from version to version until its wire name is one of `wanted`; unchanged where no path leads there."""
    targets = frozenset(wanted)
    name, lifted = wire_name, data
    for _ in range(len(UPCASTERS) + 1):
        if name in targets:
            return name, lifted
        step = UPCASTERS.get(name)
        if step is None:
            return wire_name, data
        name, lifted = step[0], step[1](lifted)
    return wire_name, data


def queues() -> tuple[str, ...]:
    """Every queue that receives something, sorted."""
    return tuple(sorted({queue for item in ENTRIES for queue in item.receivers}))

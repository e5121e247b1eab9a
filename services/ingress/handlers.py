"""What ingress does with what it hears: it writes down how orders end, and accepts those sent over the broker."""

from collections.abc import Callable
from datetime import timedelta

from contracts.orders.v1 import OrderCancelled, OrderCompleted, OrderFailed, OrderRefused, OrderSubmitted
from contracts.registry import FAILURE_DESK, entry
from infra.chassis.errors import Permanent
from infra.chassis.service import Context, Decision, Outbound
from services.ingress.domain import NaturalKey, Order, Parcel, Submission, accepted
from services.ingress.intake import InvalidOrder, OrderInput, order_accepted, read_order


def name_of(message: OrderSubmitted) -> NaturalKey:
    return NaturalKey(message.partner_id, message.order_number, message.buyer.id, message.revision)


def complete_order(event: OrderCompleted, order: Order | None, context: Context) -> Decision[Order | None]:
    parcels = [Parcel(shipment.carrier, shipment.tracking) for shipment in event.shipments]
    known = _known(order, event.order_id)
    return Decision(known.ended("completed", context.now, total=event.total, reasons=event.reasons, shipments=parcels))


def refuse_order(event: OrderRefused, order: Order | None, context: Context) -> Decision[Order | None]:
    known = _known(order, event.order_id)
    return Decision(known.ended("refused", context.now, total=event.total, reasons=event.reasons))


def cancel_order(event: OrderCancelled, order: Order | None, context: Context) -> Decision[Order | None]:
    known = _known(order, event.order_id)
    return Decision(known.ended("cancelled", context.now, total=None, reasons=event.reasons))


def fail_order(event: OrderFailed, order: Order | None, context: Context) -> Decision[Order | None]:
    known = _known(order, event.order_id)
    return Decision(known.ended("failed", context.now, total=None, reasons=event.reasons))


def accept_submission(
    expected: timedelta,
) -> Callable[[OrderSubmitted, Submission, Context], Decision[Submission]]:
    """How an order sent over the broker is decided; `expected` is how long orders usually take."""

    def accept(message: OrderSubmitted, submission: Submission, context: Context) -> Decision[Submission]:
        # Asked first, so that only a sender who may order for the partner learns which orders exist.
        senders = _senders(context)
        if not senders <= submission.broker_users:
            raise Permanent(
                f"broker user {' or '.join(sorted(senders))} may not send orders for partner {message.partner_id!r}; "
                "name it among the partner's broker users"
            )
        given = _read(context)
        if submission.order_id is not None:
            return Decision(submission)
        order = accepted(f"ord_{context.new_id().replace('-', '')}", context.new_id(), name_of(message), context.now, expected)
        return Decision(
            Submission(submission.broker_users, order.order_id),
            events=(
                Outbound(
                    order_accepted(order, given),
                    correlation_id=order.correlation_id,
                    partner_id=order.partner_id,
                    actor=f"system:{min(senders)}",
                ),
            ),
            facts=(order,),
        )

    return accept


def _senders(context: Context) -> frozenset[str]:
    """The broker users who may have sent this message: the stated one, otherwise all whom the broker lets send such messages."""
    # Systems need not state their user. The broker's topic permissions come from the same registry. A replay under the failure
    # desk's own name is of a message whose sender was not stated the first time either.
    if context.sender is None or context.sender == FAILURE_DESK:
        return frozenset(entry(OrderSubmitted.wire_name).senders)
    return frozenset({context.sender})


def _read(context: Context) -> OrderInput:
    # The contract's model has dropped what it does not know; a partner's order is read as strictly here as over HTTP.
    document = {name: value for name, value in context.envelope.data.items() if name != "partner_id"}
    try:
        return read_order(document)
    except InvalidOrder as error:
        raise Permanent(f"the order is not acceptable: {error}") from error


def _known(order: Order | None, order_id: str) -> Order:
    if order is None:
        raise Permanent(f"there is no order {order_id}; was ingress' database replaced?")
    return order

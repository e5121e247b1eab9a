"""What credit does with each message: message and line in, line and answer out."""

from contracts.credit.v1 import CreditDeclined, CreditReleased, CreditReserved, ReleaseCredit, ReserveCredit
from contracts.credit.v2 import LimitChanged
from contracts.orders.v1 import OrderCompleted
from contracts.values import Money, Reason
from infra.chassis.service import Context, Decision
from services.credit.domain import (
    CreditLine,
    Declined,
    HoldCaptured,
    HoldPlaced,
    HoldReleased,
    LimitStated,
    LineKey,
    Reserved,
)


def line_of(command: ReserveCredit | ReleaseCredit) -> LineKey:
    return LineKey(command.buyer_id, command.amount.currency)


def line_of_limit(event: LimitChanged) -> LineKey:
    return LineKey(event.buyer_id, event.limit.currency)


def line_of_order(event: OrderCompleted) -> LineKey:
    return LineKey(event.buyer_id, event.total.currency)


def reserve_credit(command: ReserveCredit, line: CreditLine, context: Context) -> Decision[CreditLine]:
    match line.reserve(command.amount):
        case Reserved(line=after):
            return Decision(
                after,
                CreditReserved(order_id=command.order_id, buyer_id=command.buyer_id, amount=command.amount),
                facts=(
                    HoldPlaced(
                        operation_id=context.operation_id,
                        order_id=command.order_id,
                        line=line_of(command),
                        amount_minor=command.amount.amount_minor,
                        at=context.now,
                    ),
                ),
            )
        case Declined(shortfall=shortfall, code=code, detail=detail):
            return Decision(
                line,
                CreditDeclined(
                    order_id=command.order_id,
                    buyer_id=command.buyer_id,
                    amount=command.amount,
                    shortfall=shortfall,
                    reasons=(Reason(code=code, detail=detail),),
                ),
            )


def release_credit(
    command: ReleaseCredit, line: CreditLine, context: Context, done: CreditReserved | None
) -> Decision[CreditLine]:
    """Gives back what the answer of the do says was held. The amount in the undo does not count, since the answer is our promise."""
    if done is None:
        return Decision(line, _released(command, Money.zero(line.currency)))
    return Decision(
        line.release(done.amount),
        _released(command, done.amount),
        facts=(HoldReleased(operation_id=context.operation_id, at=context.now),),
    )


def change_limit(event: LimitChanged, line: CreditLine, context: Context) -> Decision[CreditLine]:
    after = line.with_limit(event.limit, event.sequence)
    if after is line:
        return Decision(line)
    stated = LimitStated(
        line=line_of_limit(event),
        limit_minor=event.limit.amount_minor,
        sequence=event.sequence,
        reason=event.reason,
        at=context.now,
    )
    return Decision(after, facts=(stated,))


def capture_hold(event: OrderCompleted, line: CreditLine, context: Context) -> Decision[CreditLine]:
    """The exposure stays as it is, so no later decision of the batch depends on how much of it is held or used."""
    return Decision(line, facts=(HoldCaptured(order_id=event.order_id, line=line_of_order(event), at=context.now),))


def _released(command: ReleaseCredit, amount: Money) -> CreditReleased:
    return CreditReleased(order_id=command.order_id, buyer_id=command.buyer_id, amount=amount)

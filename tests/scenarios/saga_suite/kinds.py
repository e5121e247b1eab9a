"""A row for each kind of step: how a definition writes one. The suite plays each in a saga of its own, before a pivot."""

from collections.abc import Mapping

from orchestrator.definition import load
from orchestrator.workflow import Workflow

KINDS: Mapping[str, str] = {
    "command": """
    command: credit.reserve-credit.v1
    with: {buyer_id: order.buyer.id, amount: "{'amount_minor': 1, 'currency': order.currency}"}
    answers: {done: credit.credit-reserved.v1, refused: credit.credit-declined.v1}
    timeout: PT5S
    undo: {command: credit.release-credit.v1, answers: {done: credit.credit-released.v1}, owner: finance}
    """,
    "emit": """
    emit: deadletters.replay-handled.v1
    with: {dead_letter_id: order.order_id, queue: "'orders'", replay: 1, verdict: "'ran'"}
    undo: none
    because: who has heard it has heard it
    """,
}

_FRAME = """
workflow: kind-%s
version: 1
describe: One step of this kind between a step that can be undone and the pivot.
start: {on: orders.order-accepted.v1}
input: order

steps:
  - id: before
    command: inventory.reserve-stock.v1
    with: {lines: order.lines, ship_to: order.ship_to}
    answers: {done: inventory.stock-reserved.v1, refused: inventory.stock-short.v1}
    timeout: PT5S
    undo: {command: inventory.release-stock.v1, answers: {done: inventory.stock-released.v1}, owner: warehouse}

  - id: of-this-kind
    after: [before]
    %s

  - id: last
    after: [of-this-kind]
    command: fulfillment.create-shipment.v1
    with: {allocations: before.allocations, ship_to: order.ship_to}
    answers: {done: fulfillment.shipment-created.v1, refused: fulfillment.shipment-refused.v1}
    timeout: PT5S
    pivot: true
    undo:
      command: fulfillment.cancel-shipment.v1
      answers: {done: fulfillment.shipment-cancelled.v1, refused: fulfillment.shipment-not-cancellable.v1}
      owner: shipping

finish:
  completed:
    emit: orders.order-completed.v1
    with:
      order_number: order.order_number
      partner_id: order.partner_id
      buyer_id: order.buyer.id
      total: "{'amount_minor': 1, 'currency': order.currency}"
      allocations: before.allocations
      shipments: last.shipments
  refused:
    emit: orders.order-refused.v1
    with: {order_number: order.order_number, partner_id: order.partner_id, buyer_id: order.buyer.id, reasons: process.reasons}
  cancelled:
    emit: orders.order-cancelled.v1
    with: {order_number: order.order_number, partner_id: order.partner_id, buyer_id: order.buyer.id, reasons: process.reasons}
  failed:
    emit: orders.order-failed.v1
    with: {order_number: order.order_number, partner_id: order.partner_id, buyer_id: order.buyer.id, reasons: process.reasons}
"""


def workflows() -> tuple[Workflow, ...]:
    """The saga of each row. Raises DefinitionError with the findings of a row that cannot be used."""
    return tuple(load(_FRAME % (kind, text.strip()), f"kind-{kind}") for kind, text in KINDS.items())

"""Which services there are on this machine, in which packages, and which of them share a process."""

from typing import Final

PACKAGES: Final = {
    "credit": "services.credit",
    "inventory": "services.inventory",
    "compliance": "services.compliance",
    "pricing": "services.pricing",
    "fulfillment": "services.fulfillment",
    "orchestrator": "orchestrator",
    "deadletters": "dlq_tools",
    "ingress": "services.ingress",
}
# On two cores three processes gave 200 orders a second where one gave 120 and seven gave 144 (docs/architecture.md).
HOSTED: Final = {
    "services": ("credit", "inventory", "compliance", "pricing", "fulfillment", "deadletters"),
    "orchestrator": ("orchestrator",),
    "ingress": ("ingress",),
}
SEPARATE: Final = {name: (name,) for name in PACKAGES}

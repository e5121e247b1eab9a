"""Which services there are on this machine, in which packages, and which of them share a process."""

import importlib
from importlib import resources
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


def append_only(service: str) -> tuple[str, ...]:
    """Tables of the service that its role may only add to: each of its migrations says so in APPEND_ONLY."""
    folder = resources.files(f"{PACKAGES[service]}.migrations")
    tables: list[str] = []
    for file in sorted(entry.name for entry in folder.iterdir() if entry.name[:1].isdigit() and entry.name.endswith(".py")):
        module = importlib.import_module(f"{PACKAGES[service]}.migrations.{file[:-3]}")
        tables += getattr(module, "APPEND_ONLY", ())
    return tuple(tables)

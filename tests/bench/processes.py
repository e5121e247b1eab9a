"""Processor time of each process of the stack, and what its relays have published."""

import os
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import psutil

from infra.stack.local import stack
from infra.stack.local.home import Home

_PUBLISHED = re.compile(r'tutti_messages_published_total\{outcome="confirmed",service="([a-z]+)"\} ([0-9.e+]+)')


def cpu_seconds(home: Home) -> dict[str, float]:
    """User and system time so far by process name; services that share a process are named together; `client` is this process."""
    names: dict[int, list[str]] = {}
    for row in stack.status(home)["processes"]:
        names.setdefault(int(row["pid"]), []).append(row["name"])
    found = {"+".join(roles) if len(roles) < 3 else "services": _tree_seconds(pid) for pid, roles in names.items()}
    own = os.times()
    return {**found, "client": own.user + own.system}


def _tree_seconds(pid: int) -> float:
    """With all descendants: PostgreSQL works in one process per connection."""
    total = 0.0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if one.pid == pid else 0.0)
    return total


async def published_messages(addresses: Mapping[str, Any]) -> float:
    """Relay-confirmed publishes of all services since they started."""
    counts: dict[str, float] = {}
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        for url in addresses["services"].values():
            counts.update(
                {service: float(count) for service, count in _PUBLISHED.findall((await client.get(f"{url}/metrics")).text)}
            )
    return sum(counts.values())

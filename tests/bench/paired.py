"""`python -m tests.bench.paired BEFORE AFTER`: two running stacks, measured in turns on one machine in the same minutes.

The machine's speed drifts by more than most changes gain or cost, so figures of two runs cannot be compared; each round measures both,
and what counts is the median of the rounds' quotients. Who comes first alternates, since the second finds warmer caches. BEFORE and
AFTER are homes of stacks that were started with `tutti up --detach`, each by its own checkout.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console

from infra.stack.local.home import Home, open_home
from tests.bench.__main__ import Load
from tests.bench.processes import cpu_seconds

CONCURRENCY = 200
ORDERS = 2000
WARM_UP = 600
ROUNDS = 7

out = Console(stderr=True)


class Side:
    """One of the two stacks."""

    def __init__(self, name: str, home: Home) -> None:
        self.name = name
        self._home = home
        self._load = Load(home.addresses(), f"{name}-{time.time_ns()}")

    async def warm_up(self, orders: int) -> None:
        await self._load.run(CONCURRENCY, orders)

    async def measure(self, orders: int) -> dict[str, float]:
        """Orders per second, and processor time per order over all processes of the stack (the client's is not the stack's)."""
        before = cpu_seconds(self._home)
        rate, _ = await self._load.run(CONCURRENCY, orders)
        spent = {name: after - before.get(name, 0.0) for name, after in cpu_seconds(self._home).items() if name != "client"}
        return {"orders_per_second": rate, "cpu_ms_per_order": sum(spent.values()) / orders * 1000}


async def compare(sides: list[Side], rounds: int, orders: int, warm_up: int) -> dict[str, object]:
    for side in sides:
        await side.warm_up(warm_up)
    quotients: dict[str, list[float]] = {"orders_per_second": [], "cpu_ms_per_order": []}
    figures: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for number in range(rounds):
        found = {side.name: await side.measure(orders) for side in (sides if number % 2 else sides[::-1])}
        for figure, values in quotients.items():
            values.append(found["after"][figure] / found["before"][figure])
        for name, one in found.items():
            figures[name].append({figure: round(value, 2) for figure, value in one.items()})
        out.print(f"round {number + 1}: " + ", ".join(f"{figure} {values[-1]:.3f}" for figure, values in quotients.items()))
    return {
        "after_to_before": {
            figure: {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}
            for figure, values in quotients.items()
        },
        "rounds": figures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.paired")
    parser.add_argument("before", type=Path, help="home of the stack of the commit before")
    parser.add_argument("after", type=Path, help="home of the stack of the commit after")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    given = parser.parse_args()
    sides = [Side("before", open_home(given.before)), Side("after", open_home(given.after))]
    print(json.dumps(asyncio.run(compare(sides, given.rounds, given.orders, given.warm_up)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

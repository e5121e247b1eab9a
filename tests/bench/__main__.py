"""`make bench`: orders per second through HTTP, latency, processor time per order, and the ratio to the machine's floor.

A closed loop: so many partners, each posting its next order when the last has completed. The floor is measured in the same run,
because the machine differs from day to day and the ratio should not.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.stack.local import stack
from infra.stack.local.home import open_home
from tests.bench import floor
from tests.bench.client import Partner
from tests.bench.processes import cpu_seconds, published_messages
from tests.support.workload import BUYERS, FLEET, ITEMS, OVER_HTTP

CONCURRENCIES = {1: 100, 50: 1500, 200: 3000}
# Which figure of the machine stands beside which concurrency.
GAUGES = {
    1: ("hop_ms", floor.hop_ms),
    max(CONCURRENCIES): ("confirmed_publishes_per_second", floor.confirmed_publishes_per_second),
}
REPEATS = 3
WARM_UP = 300
UP_SECONDS_MAX = 180.0
WAIT_SECONDS = 30

out = Console(stderr=True)


def order(mark: str, number: int, country: str) -> bytes:
    """An order of three lines, different each time. Each completes, so that the same work is measured: stock and credit are ample."""
    lines = [
        {"line": str(line + 1), "sku": f"P-{(number * 7 + line * 131) % ITEMS + 1}", "quantity": "1", "unit": "C62"}
        for line in range(3)
    ]
    return json.dumps(
        {
            "order_number": f"{mark}-{number}",
            "revision": 0,
            "buyer": {"id": f"C-{number % BUYERS + 1}", "name": "Nordlicht Handel GmbH"},
            "ship_to": {
                "name": "Nordlicht Lager",
                "lines": ["Kaistr. 7"],
                "city": "Bremen",
                "postal_code": "28195",
                "country": country,
            },
            "currency": "EUR",
            "lines": lines,
        }
    ).encode()


class Load:
    """Numbers orders over the whole run, so that none is posted twice."""

    def __init__(self, addresses: Mapping[str, Any], mark: str) -> None:
        self._url = addresses["ingress"]
        self._key = addresses["partners"]["acme"]["api_key"]
        self._mark = mark
        self._next = 0

    async def run(self, concurrency: int, orders: int, country: str = FLEET) -> tuple[float, list[float]]:
        """(orders per second, seconds of each). Raises RuntimeError for an order that did not complete, or not by the right carrier."""
        left = orders
        took: list[float] = []

        async def partner() -> None:
            nonlocal left
            client = Partner(self._url, self._key)
            while left > 0:
                left -= 1
                self._next += 1
                number = self._next
                answer = await client.post_order(order(self._mark, number, country), f"{self._mark}-{number}", wait=WAIT_SECONDS)
                document = answer.json() if answer.status == 200 else {}
                fleet = all(parcel["carrier"] == "own-fleet" for parcel in document.get("shipments", ()))
                if document.get("status") != "completed" or fleet != (country == FLEET):
                    raise RuntimeError(f"order {number} to {country}: HTTP {answer.status} {answer.body[:600]!r}")
                took.append(answer.seconds)
            client.close()

        began = time.perf_counter()
        await asyncio.gather(*(partner() for _ in range(concurrency)))
        return orders / (time.perf_counter() - began), took


async def measure(addresses: Mapping[str, Any], home: Any, repeats: int, scale: float) -> dict[str, Any]:
    load = Load(addresses, f"bench-{time.time_ns()}")
    out.print("warming up")
    await load.run(20, WARM_UP)
    body = order("floor", 1, FLEET) * 2
    floors: list[dict[str, float]] = []
    rates: dict[int, list[float]] = {c: [] for c in CONCURRENCIES}
    latencies: dict[int, list[dict[str, float]]] = {c: [] for c in CONCURRENCIES}
    cpu: list[dict[str, float]] = []
    messages: list[float] = []
    over_http: list[float] = []
    for repeat in range(repeats):
        machine: dict[str, float] = {"commits_per_second": await floor.commits_per_second(addresses["database"])}
        for concurrency, orders in CONCURRENCIES.items():
            orders = max(int(orders * scale), concurrency)
            # The machine's speed drifts within minutes: a figure and its floor are taken together, the floor before and after.
            gauge = GAUGES.get(concurrency)
            around = [await gauge[1](addresses["broker"], body)] if gauge else []
            before, sent = cpu_seconds(home), await published_messages(addresses)
            rate, took = await load.run(concurrency, orders)
            rates[concurrency].append(rate)
            latencies[concurrency].append(_percentiles(took))
            out.print(
                f"repeat {repeat + 1}: concurrency {concurrency}: {rate:.0f} orders/s, median {_percentiles(took)['p50']:.1f} ms"
            )
            if concurrency == max(CONCURRENCIES):
                spent = cpu_seconds(home)
                cpu.append({name: (spent[name] - before.get(name, 0.0)) / orders * 1000 for name in spent})
                # The last confirms are counted a moment after the last order has completed.
                await asyncio.sleep(1)
                messages.append((await published_messages(addresses) - sent) / orders)
            if gauge:
                machine[gauge[0]] = statistics.fmean([*around, await gauge[1](addresses["broker"], body)])
        floors.append(machine)
        rate, _ = await load.run(max(CONCURRENCIES), int(CONCURRENCIES[200] * scale / 3), country=OVER_HTTP)
        over_http.append(rate)
    return _report(rates, latencies, floors, cpu, messages, over_http)


def _percentiles(took: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took, n=100)
    return {"p50": cuts[49] * 1000, "p95": cuts[94] * 1000, "p99": cuts[98] * 1000}


def _report(
    rates: Mapping[int, list[float]],
    latencies: Mapping[int, list[dict[str, float]]],
    floors: list[dict[str, float]],
    cpu: list[dict[str, float]],
    messages: list[float],
    over_http: list[float],
) -> dict[str, Any]:
    ratios = [
        rate * per_order / one["confirmed_publishes_per_second"]
        for rate, per_order, one in zip(rates[200], messages, floors, strict=True)
    ]
    hops = [one["p50"] / machine["hop_ms"] for one, machine in zip(latencies[1], floors, strict=True)]
    runs = {
        "orders_per_second": {str(c): _range(values) for c, values in rates.items()},
        "latency_ms": {
            str(c): {p: _range([one[p] for one in values]) for p in ("p50", "p95", "p99")} for c, values in latencies.items()
        },
        "floor": {name: _range([one[name] for one in floors]) for name in floors[0]},
        "messages_per_order": _range(messages),
        "floor_ratio": _range(ratios),
        "hop_ratio": _range(hops),
        "orders_per_second_carriers_over_http": _range(over_http),
    }
    return {
        "orders_per_second": {str(c): _middle(values) for c, values in rates.items()},
        "latency_ms": {
            str(c): {p: _middle([one[p] for one in values]) for p in ("p50", "p95", "p99")} for c, values in latencies.items()
        },
        "floor": {name: _middle([one[name] for one in floors]) for name in floors[0]},
        "messages_per_order": _middle(messages),
        "floor_ratio": _middle(ratios),
        "hop_ratio": round(_middle(hops), 1),
        "cpu_ms_per_order": {name: _middle([one.get(name, 0.0) for one in cpu]) for name in sorted(cpu[0])},
        "orders_per_second_carriers_over_http": _middle(over_http),
        "runs": runs,
    }


def _middle(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _range(values: list[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "max": round(max(values), 3)}


def show(report: Mapping[str, Any]) -> None:
    table = Table(title="Orders end to end through HTTP (closed loop, median of the repeats)", title_justify="left")
    for column in ("concurrency", "orders/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for concurrency, rate in report["orders_per_second"].items():
        table.add_row(concurrency, f"{rate:.0f}", *(f"{report['latency_ms'][concurrency][p]:.1f}" for p in ("p50", "p95", "p99")))
    table.add_row("200, carriers over HTTP", f"{report['orders_per_second_carriers_over_http']:.0f}", "", "", "")
    machine = report["floor"]
    lines = [
        f"floor: {machine['confirmed_publishes_per_second']:.0f} confirmed quorum publishes/s, one hop {machine['hop_ms']:.2f} ms, "
        f"{machine['commits_per_second']:.0f} commits/s",
        f"messages per order {report['messages_per_order']:.1f}; ratio to the floor {report['floor_ratio']:.2f}; "
        f"latency at concurrency 1 is {report['hop_ratio']:.0f} hops",
        "processor ms per order: " + ", ".join(f"{name} {value:.2f}" for name, value in report["cpu_ms_per_order"].items()),
    ]
    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--scale", type=float, default=1.0, help="fewer orders for a quick look")
    parser.add_argument("--home", type=Path, help="a running stack's home; without it one is started for the run")
    arguments = parser.parse_args()
    if arguments.home is not None:
        home = open_home(arguments.home)
        report = asyncio.run(measure(home.addresses(), home, arguments.repeats, arguments.scale))
    else:
        with tempfile.TemporaryDirectory(prefix="tutti-bench-") as directory:
            home = open_home(Path(directory))
            out.print("starting a stack of its own")
            started = stack.start_detached(
                home,
                [sys.executable, "-m", "infra.stack.cli.main", "up"],
                UP_SECONDS_MAX,
                env={**_environment(), "TUTTI_HOME": directory},
            )
            try:
                report = asyncio.run(measure(home.addresses(), home, arguments.repeats, arguments.scale))
            finally:
                stack.down(home)
                started.process.wait(timeout=30)
    show(report)
    print(json.dumps(report))
    return 0


def _environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("TUTTI_")}


if __name__ == "__main__":
    sys.exit(main())

"""The demo's data: TPC-H at scale 0.01, made offline by tpchgen-cli, told to the platform as facts and orders.

customers become buyers with credit, parts and partsupp become a catalogue with stock in one warehouse per region, nations become
countries, orders and lineitems become orders of several partners. Only what the chosen orders need is loaded.
"""

import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from contracts.credit.v2 import LimitChanged
from contracts.inventory.v1 import ItemChanged, StockCounted, WarehouseChanged
from contracts.pricing.v1 import ListPriceChanged, Tier
from contracts.values import Money
from infra.stack.local.publishing import Fact

SCALE: Final = "0.01"
GENERATE_SECONDS_MAX: Final = 60
CURRENCY: Final = "USD"
# TPC-H's account balances are of the size of one order line; a credit line of two hundred of them covers most orders.
LIMIT_PER_BALANCE: Final = 200

# TPC-H names its 25 nations in capitals; ISO 3166-1 alpha-2 in the order of their keys.
COUNTRIES: Final = (
    "DZ AR BR CA EG ET FR DE IN ID IR IQ JP JO KE MA MZ PE CN RO SA VN RU GB US".split()  # noqa: SIM905 - a table reads better so
)
# Where the warehouse of each of the five regions stands: Africa, America, Asia, Europe, Middle East.
WAREHOUSES: Final = (("W-AFRICA", "KE"), ("W-AMERICA", "US"), ("W-ASIA", "JP"), ("W-EUROPE", "DE"), ("W-MIDEAST", "SA"))
PRIORITIES: Final = {"1-URGENT": "urgent", "2-HIGH": "high", "3-MEDIUM": "normal", "4-NOT SPECIFIED": "normal", "5-LOW": "low"}


@dataclass(frozen=True, slots=True)
class DemoData:
    """What is told to the platform: `master` by the ERP, `stock` by the warehouses, `orders` by partners."""

    master: tuple[Fact, ...]
    stock: tuple[Fact, ...]
    orders: tuple[dict[str, Any], ...]


def generate(directory: Path, orders: int, mark: str, sequence: int) -> DemoData:
    """Runs the generator and picks the first `orders` orders. `mark` makes order numbers and fact ids of this run its own.

    `sequence` must be larger than that of any earlier run, or its stock counts and limits would be ignored as stale.
    Raises RuntimeError with the generator's words when it fails.
    """
    command = [str(Path(sys.executable).parent / "tpchgen-cli"), "-s", SCALE, "--output-dir", str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=GENERATE_SECONDS_MAX, check=False)  # noqa: S603 - our own venv's
    if run.returncode != 0:
        raise RuntimeError(f"tpchgen-cli failed: {run.stderr[-500:]}")
    tables = _Tables(directory)
    documents = tuple(_orders(tables, orders, mark))
    skus = {line["sku"] for order in documents for line in order["lines"]}
    buyers = {order["buyer"]["id"] for order in documents}
    return DemoData(
        master=(*_warehouses(mark, sequence), *_buyers(tables, buyers, mark, sequence), *_items(tables, skus, mark, sequence)),
        stock=tuple(_stock(tables, skus, mark, sequence)),
        orders=documents,
    )


class _Tables:
    """TPC-H's pipe-separated files, by their column positions (TPC-H specification 1.4)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def rows(self, table: str) -> Iterator[list[str]]:
        with (self._directory / f"{table}.tbl").open(newline="") as file:
            yield from csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)


def _orders(tables: _Tables, count: int, mark: str) -> Iterator[dict[str, Any]]:
    customers = {row[0]: row for row in tables.rows("customer")}
    lines: dict[str, list[dict[str, str]]] = {}
    for row in tables.rows("lineitem"):
        line = {"line": row[3], "sku": f"TPCH-{row[1]}", "quantity": row[4], "unit": "C62"}
        lines.setdefault(row[0], []).append(line)
    for _, order in zip(range(count), tables.rows("orders"), strict=False):
        customer = customers[order[1]]
        country = COUNTRIES[int(customer[3])]
        yield {
            "order_number": f"{mark}-{order[0]}",
            "revision": 0,
            "buyer": {"id": f"TPCH-{customer[0]}", "name": customer[1]},
            "ship_to": {
                "name": customer[1],
                "lines": [customer[2].strip()],
                "city": f"Port {customer[3]}",
                "postal_code": customer[4].split("-", 1)[1][:12],
                "country": country,
            },
            "currency": CURRENCY,
            "priority": PRIORITIES[order[5]],
            "lines": lines[order[0]],
        }


def _warehouses(mark: str, sequence: int) -> Iterator[Fact]:
    for priority, (warehouse, country) in enumerate(WAREHOUSES, start=10):
        event = WarehouseChanged(warehouse=warehouse, country=country, priority=priority, sequence=sequence)
        yield Fact(f"{mark}-{warehouse}", event)


def _buyers(tables: _Tables, wanted: set[str], mark: str, sequence: int) -> Iterator[Fact]:
    for row in tables.rows("customer"):
        buyer = f"TPCH-{row[0]}"
        if buyer in wanted:
            cents = max(int(Decimal(row[5]) * 100), 0) * LIMIT_PER_BALANCE
            limit = Money(amount_minor=cents, currency=CURRENCY)
            yield Fact(f"{mark}-{buyer}", LimitChanged(buyer_id=buyer, limit=limit, sequence=sequence, reason="TPC-H balance"))


def _items(tables: _Tables, wanted: set[str], mark: str, sequence: int) -> Iterator[Fact]:
    tiers = (Tier(from_quantity=Decimal(25), discount=500),)
    for row in tables.rows("part"):
        sku = f"TPCH-{row[0]}"
        if sku not in wanted:
            continue
        item = ItemChanged(
            sku=sku,
            unit="C62",
            weight_grams=int(row[5]) * 100,
            reorder_point=Decimal(500),
            recovery_level=Decimal(1000),
            sequence=sequence,
        )
        price = ListPriceChanged(
            sku=sku,
            unit="C62",
            unit_price=Money(amount_minor=int(Decimal(row[7]) * 100), currency=CURRENCY),
            tiers=tiers,
            scarcity_surcharge=300,
            sequence=sequence,
        )
        yield Fact(f"{mark}-item-{sku}", item)
        yield Fact(f"{mark}-price-{sku}", price)


def _stock(tables: _Tables, wanted: set[str], mark: str, sequence: int) -> Iterator[Fact]:
    """A supplier delivers to the warehouse of its region; what several suppliers hold of an item in one warehouse adds up."""
    regions = {row[0]: int(row[2]) for row in tables.rows("nation")}
    warehouse_of = {row[0]: WAREHOUSES[regions[row[3]]][0] for row in tables.rows("supplier")}
    held: dict[tuple[str, str], int] = {}
    for row in tables.rows("partsupp"):
        sku = f"TPCH-{row[0]}"
        if sku in wanted:
            place = (warehouse_of[row[1]], sku)
            held[place] = held.get(place, 0) + int(row[2])
    for (warehouse, sku), quantity in sorted(held.items()):
        event = StockCounted(warehouse=warehouse, sku=sku, on_hand=Decimal(quantity), sequence=sequence)
        yield Fact(f"{mark}-count-{warehouse}-{sku}", event)

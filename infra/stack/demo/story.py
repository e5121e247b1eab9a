"""The demo's acts, one after the other; each checks that what it shows has really happened."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.stack.cli.reconcile import proven
from infra.stack.cli.sagas import print_timeline
from infra.stack.demo.tpch import DemoData, generate
from infra.stack.local import stack
from infra.stack.local.home import Home
from infra.stack.local.publishing import Fact, connected
from infra.stack.local.sample import until_handled
from infra.terminal.addresses import read_addresses
from infra.terminal.operators import operator_of

ORDERS: Final = 200
ORDERS_UNDER_FIRE: Final = 150
CONCURRENCY: Final = 25
WAIT_SECONDS: Final = 30
REQUEST_SECONDS_MAX: Final = 40.0
STATE_SECONDS_MAX: Final = 60.0
FACTS_PER_STEP: Final = 250
ENDED: Final = frozenset({"completed", "refused", "cancelled", "failed"})


class StoryFailed(RuntimeError):
    """Something did not happen as the demo promises; the text says what."""


class Story:
    """Tells the demo on a running stack."""

    def __init__(self, home: Home, console: Console) -> None:
        self._home = home
        self._console = console
        self._found: Mapping[str, Any] = home.addresses()
        self._token = operator_of(read_addresses(home.path)).token
        self._mark = f"TPCH-{int(time.time())}"
        self._posted: list[dict[str, Any]] = []
        self._http = httpx2.AsyncClient(timeout=REQUEST_SECONDS_MAX, trust_env=False)

    async def tell(self) -> None:
        """All acts. Raises StoryFailed."""
        async with self._http:
            await self._tell()

    async def _tell(self) -> None:
        making = self._console.status("making TPC-H data (scale 0.01), offline")
        with tempfile.TemporaryDirectory(prefix="tutti-tpch-") as directory, making:
            data = await asyncio.to_thread(generate, Path(directory), ORDERS + ORDERS_UNDER_FIRE, self._mark, int(time.time()))
        await self._load(data)
        await self._post_orders(data.orders[:ORDERS])
        await self._show_one()
        await self._break_and_repair()
        await self._kill_under_load(data.orders[ORDERS:])
        await self._prove()
        self._show_addresses()

    async def _load(self, data: DemoData) -> None:
        self._act(
            "1. Master data",
            "The systems `erp` and `wms` publish facts on the broker; credit, inventory and pricing take what is theirs.",
        )
        systems = self._found["systems"]
        with self._progress() as progress:
            for label, system, facts in (("buyers, catalogue", "erp", data.master), ("stock", "wms", data.stock)):
                task = progress.add_task(label, total=len(facts))
                async with connected(systems[system]["broker"]) as connection:
                    for start in range(0, len(facts), FACTS_PER_STEP):
                        step: Sequence[Fact] = facts[start : start + FACTS_PER_STEP]
                        await connection.publish(step)
                        await until_handled(self._found["database"], step)
                        progress.advance(task, len(step))

    async def _post_orders(self, orders: Sequence[Mapping[str, Any]]) -> None:
        self._act(
            "2. Orders", f"{len(orders)} orders over HTTP from {len(self._found['partners'])} partners, each waiting for its end."
        )
        began = time.monotonic()
        results = await self._post_all("orders", orders)
        seconds = time.monotonic() - began
        outcomes = Counter((one["status"], one["reasons"][0]["code"] if one["reasons"] else "") for one in results)
        table = Table(
            title=f"{len(results)} orders in {seconds:.1f} s ({len(results) / seconds:.0f} a second)", title_justify="left"
        )
        for column in ("outcome", "why", "orders"):
            table.add_column(column)
        for (status, why), count in sorted(outcomes.items(), key=lambda item: -item[1]):
            table.add_row(status, why, str(count))
        self._console.print(table)
        self._expect(all(one["status"] in ENDED for one in results), "every order comes to an end")
        statuses = {one["status"] for one in results}
        self._expect({"completed", "refused"} <= statuses, "some orders complete and some are refused and undone")
        self._posted = results

    async def _show_one(self) -> None:
        refused = next((one for one in self._posted if one["reasons"] and one["reasons"][0]["code"].startswith("credit")), None)
        chosen = refused or next(one for one in self._posted if one["status"] == "refused")
        self._act(
            "3. One order's timeline",
            "Refused, so everything that was done before is taken back, newest first (`tutti saga show`).",
        )
        print_timeline(await self._saga(chosen["order_id"]))

    async def _break_and_repair(self) -> None:
        self._act(
            "4. The guided break",
            "The carrier `parcelway` stops answering. An order that needs it is retried, then lies in the dead letters.",
        )
        await self._carrier("POST", {"kind": "unavailable"})
        try:
            order = await self._post_one(self._order_for("US", 1), wait=0)
            letter = await self._until("the order's dead letter", lambda: self._letter_of(order["order_id"]))
        finally:
            await self._carrier("DELETE", None)
        self._console.print(
            f"  [bold]dlq list[/bold]  {letter['id']}  {letter['type']}  {letter['error_class']}: {letter['error']}",
            soft_wrap=True,
        )
        self._console.print(
            "  The carrier answers again. The dead letter is replayed; it keeps its operation, so it can take effect only once:"
        )
        replay = [
            str(Path(sys.executable).parent / "dlq"),
            "replay",
            letter["id"],
            "--reason",
            "carrier is back",
            "--yes",
            "--wait",
            "--json",
        ]
        self._console.print(f"  [bold]dlq replay {letter['id']} --reason 'carrier is back' --yes --wait[/bold]", soft_wrap=True)
        process = await asyncio.create_subprocess_exec(
            *replay,
            env={**os.environ, "TUTTI_HOME": str(self._home.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), STATE_SECONDS_MAX)
        self._expect(process.returncode == 0, f"the replay succeeds ({out.decode()[-300:]} {err.decode()[-300:]})")
        ended = await self._until("the replayed order's end", lambda: self._ended(order["order_id"]))
        self._expect(ended["status"] == "completed", f"the replayed order completes, it is {ended['status']}")
        print_timeline(await self._saga(order["order_id"]))

    async def _kill_under_load(self, orders: Sequence[Mapping[str, Any]]) -> None:
        row = next(row for row in stack.status(self._home)["processes"] if row["name"] == "orchestrator")
        self._act(
            "5. A kill -9 under load",
            f"The orchestrator (pid {row['pid']}) is killed while {len(orders)} orders are on their way.",
        )
        posting = asyncio.create_task(self._post_all("orders", orders))
        await asyncio.sleep(0.5)
        os.kill(int(row["pid"]), signal.SIGKILL)
        results = await posting
        for one in results:
            if one["status"] not in ENDED:
                await self._until(f"the end of {one['order_id']}", lambda order_id=one["order_id"]: self._ended(order_id))  # type: ignore[misc]
        now = next(row for row in stack.status(self._home)["processes"] if row["name"] == "orchestrator")
        self._expect(now["restarts"] > row["restarts"], "the supervisor has started it again")
        self._console.print(
            f"  all {len(results)} orders have ended; the orchestrator runs again as pid {now['pid']}", soft_wrap=True
        )

    async def _prove(self) -> None:
        self._act("6. The proof", "`tutti reconcile` asks every service what it sent, received, holds and did, and compares.")
        document = await asyncio.to_thread(proven, read_addresses(self._home.path))
        states = ", ".join(f"{count} {state}" for state, count in document["in"].items())
        self._console.print(f"  {document['orders']} orders: {states}")
        doubts = {
            kind: document[kind] for kind in ("lost", "doubled", "unanswered", "undelivered", "unexplained") if document[kind]
        }
        self._expect(document["ok"], f"nothing is lost or doubled: {doubts}")
        self._console.print("  [green]nothing is lost, nothing is doubled[/green]")

    def _show_addresses(self) -> None:
        table = Table(title="Addresses", title_justify="left")
        table.add_column("what")
        table.add_column("where")
        for what in ("ingress", "orchestrator", "dead_letters", "carrier"):
            table.add_row(what, self._found[what])
        table.add_row("keys, tokens, broker users", str(self._home.addresses_file))
        self._console.print()
        self._console.print(table)

    async def _post_all(self, label: str, orders: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        waiting = list(enumerate(orders))
        with self._progress() as progress:
            task = progress.add_task(label, total=len(orders))

            async def partner() -> None:
                while waiting:
                    number, order = waiting.pop(0)
                    results.append(await self._post_one(order, wait=WAIT_SECONDS, number=number))
                    progress.advance(task)

            await asyncio.gather(*(partner() for _ in range(CONCURRENCY)))
        return results

    async def _post_one(self, order: Mapping[str, Any], *, wait: int, number: int = 0) -> dict[str, Any]:
        partners = sorted(self._found["partners"])
        key = self._found["partners"][partners[number % len(partners)]]["api_key"]
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"{order['order_number']}"}
        if wait:
            headers["Prefer"] = f"wait={wait}"
        response = await self._http.post(f"{self._found['ingress']}/v1/orders", json=dict(order), headers=headers)
        self._expect(
            response.status_code in (200, 202), f"the order is accepted: HTTP {response.status_code} {response.text[:500]}"
        )
        return {**response.json(), "key": key}

    def _order_for(self, country: str, number: int) -> dict[str, Any]:
        return {
            "order_number": f"{self._mark}-BREAK-{number}",
            "revision": 0,
            "buyer": {"id": "C-17", "name": "Nordlicht Handel GmbH"},
            "ship_to": {
                "name": "Nordlicht Inc",
                "lines": ["1 Pier Road"],
                "city": "Boston",
                "postal_code": "02110",
                "country": country,
            },
            "currency": "EUR",
            "lines": [{"line": "1", "sku": "P-100", "quantity": "3", "unit": "C62"}],
        }

    async def _carrier(self, method: str, fault: Mapping[str, Any] | None) -> None:
        (await self._http.request(method, f"{self._found['carrier']}/faults", json=fault)).raise_for_status()

    async def _ask(self, url: str) -> Any:
        response = await self._http.get(url, headers={"Authorization": f"Bearer {self._token}"})
        response.raise_for_status()
        return response.json()

    async def _saga(self, order_id: str) -> dict[str, Any]:
        document: dict[str, Any] = await self._ask(f"{self._found['orchestrator']}/internal/sagas/{order_id}")
        return document

    async def _letter_of(self, order_id: str) -> dict[str, Any] | None:
        letters = await self._ask(f"{self._found['dead_letters']}/internal/dead-letters?state=open&limit=100")
        return next((letter for letter in letters if letter["subject"] == order_id), None)

    async def _ended(self, order_id: str) -> dict[str, Any] | None:
        saga = await self._saga(order_id)
        return {"status": saga["state"]} if saga["state"] in ENDED else None

    async def _until(self, what: str, look: Callable[[], Awaitable[dict[str, Any] | None]]) -> dict[str, Any]:
        """Looks again and again until there is something. Raises StoryFailed after a minute."""
        deadline = time.monotonic() + STATE_SECONDS_MAX
        with self._console.status(f"waiting for {what}"):
            while time.monotonic() < deadline:
                if (found := await look()) is not None:
                    return found
                await asyncio.sleep(0.2)
        raise StoryFailed(f"waited {STATE_SECONDS_MAX:.0f} s for {what}; `tutti logs` has the reason")

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise StoryFailed(f"expected that {what}")

    def _act(self, title: str, explanation: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")
        self._console.print(explanation, soft_wrap=True, highlight=False)

    def _progress(self) -> Progress:
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console)

"""`tutti order submit|show|watch|cancel`: what a partner does over HTTP, from the command line."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.stack.cli.output import (
    DONE,
    SOME_FAILED,
    USAGE,
    Json,
    addresses,
    console,
    detail,
    fail,
    print_json,
    print_table,
    request,
    unless_refused,
)

app = typer.Typer(no_args_is_help=True, help="Orders, as their partner sees them.")
Partner = Annotated[str, typer.Option("--partner", help="Whose key to use; the partners are in addresses.json.")]
ENDED = frozenset({"completed", "refused", "cancelled", "failed"})
POLL_SECONDS = 0.5
WATCH_SECONDS_MAX = 600
PLACES_MAX = 10


@app.command()
def submit(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, one order each, as in docs/partners.md.", exists=True, dir_okay=False)
    ],
    partner: Partner = "acme",
    wait: Annotated[int, typer.Option("--wait", help="Wait so many seconds for the end.", min=0, max=30)] = 0,
    as_json: Json = False,
) -> None:
    """Post orders. Posting a file again changes nothing: its content is its idempotency key.

    Example: tutti order submit order.json --wait 10
    """
    found = addresses()
    results = [_post(found, partner, path, wait) for path in files]
    if as_json:
        print_json(results)
    else:
        rows = [(one["file"], one["http_status"], one.get("order_id"), one.get("status"), _problem(one)) for one in results]
        print_table("orders", ("file", "HTTP", "order", "status", "problem"), rows)
    raise typer.Exit(DONE if all(one["http_status"] < 400 for one in results) else SOME_FAILED)


def _post(found: Mapping[str, Any], partner: str, path: Path, wait: int) -> dict[str, Any]:
    body = path.read_bytes()
    headers = {"Content-Type": "application/json", "Idempotency-Key": hashlib.sha256(body).hexdigest()}
    if wait:
        headers["Prefer"] = f"wait={wait}"
    response = request("POST", f"{found['ingress']}/v1/orders", _key(found, partner), content=body, headers=headers)
    answer: dict[str, Any] = {"file": str(path), "http_status": response.status_code}
    if response.is_error:
        problem = response.json()
        return {**answer, "detail": detail(response), "errors": problem.get("errors", []), "order_id": problem.get("order_id")}
    return {**answer, **response.json()}


def _problem(result: Mapping[str, Any]) -> str | None:
    """What was wrong, and where: each place is a line."""
    places = [f"{error['pointer']}: {error['detail']}" for error in result.get("errors", ())]
    left = len(places) - PLACES_MAX
    more = [f"and {left} more; --json shows all"] if left > 0 else []
    return "\n".join([result["detail"], *places[:PLACES_MAX], *more]) if "detail" in result else None


def _key(found: Mapping[str, Any], partner: str) -> str:
    known = found["partners"]
    if partner not in known:
        fail(USAGE, f"no partner {partner!r} in addresses.json; there are: {', '.join(known)}")
    return str(known[partner]["api_key"])


def _missing(partner: str, order_id: str) -> str:
    return f"{partner} has no order {order_id}; `--partner` names another, `tutti saga list` shows all"


def _order(found: Mapping[str, Any], partner: str, order_id: str) -> dict[str, Any]:
    response = request("GET", f"{found['ingress']}/v1/orders/{order_id}", _key(found, partner))
    order: dict[str, Any] = unless_refused(response, _missing(partner, order_id)).json()
    return order


@app.command()
def show(order_id: str, partner: Partner = "acme", as_json: Json = False) -> None:
    """Show an order. Example: tutti order show ord_…"""
    order = _order(addresses(), partner, order_id)
    if as_json:
        print_json(order)
    else:
        _print(order)


@app.command()
def watch(
    order_id: str, partner: Partner = "acme", seconds: Annotated[int, typer.Option(min=1, max=WATCH_SECONDS_MAX)] = 60
) -> None:
    """Show each change until the order ends; exit code 1 when it has not ended in time."""
    found = addresses()
    deadline = time.monotonic() + seconds
    shown = ""
    while time.monotonic() < deadline:
        order = _order(found, partner, order_id)
        now = json.dumps([order["status"], order["message"], order["steps"]])
        if now != shown:
            _print(order)
            shown = now
        if order["status"] in ENDED:
            return
        time.sleep(POLL_SECONDS)
    fail(SOME_FAILED, f"{order_id} has not ended within {seconds} s; `tutti saga show` says what it waits for")


@app.command()
def cancel(order_id: str, partner: Partner = "acme", as_json: Json = False) -> None:
    """Ask for an order to be cancelled; exit code 4 when it is too late."""
    found = addresses()
    response = request("POST", f"{found['ingress']}/v1/orders/{order_id}/cancel", _key(found, partner))
    if as_json:
        print_json({"http_status": response.status_code, **(response.json() if response.content else {})})
    unless_refused(response, _missing(partner, order_id))


def _print(order: Mapping[str, Any]) -> None:
    console.print(
        f"{order['order_id']}  {order['order_number']}  {order['status']}: {order['message']}", markup=False, soft_wrap=True
    )
    for reason in order["reasons"]:
        console.print(f"  {reason['code']}: {reason['detail']}", markup=False, soft_wrap=True)
    for step in order["steps"]:
        console.print(f"  {step['state']:<10} {step['id']:<20} attempts {step['attempts']}", markup=False)
    for shipment in order["shipments"]:
        console.print(f"  shipped with {shipment['carrier']}, {shipment['tracking']}", markup=False)

"""`tutti order submit|show|watch|cancel`: what a partner does over HTTP, from the command line."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.terminal.addresses import read_addresses
from infra.terminal.changing import Change, changing
from infra.terminal.client import Client, detail, document_of
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure
from infra.terminal.options import Json, given
from infra.terminal.output import console, print_json, print_table, say
from infra.terminal.speaking import speaks

app = typer.Typer(no_args_is_help=True, help="Orders, as their partner sees them.")
Partner = Annotated[str, typer.Option("--partner", help="Whose key to use; the partners are in addresses.json.")]
ENDED = frozenset({"completed", "refused", "cancelled", "failed"})
POLL_SECONDS = 0.5
WATCH_SECONDS_MAX = 600
PLACES_MAX = 10


@app.command()
@speaks
def submit(
    files: Annotated[
        list[Path], typer.Argument(help="JSON files, one order each, as in docs/partners.md.", exists=True, dir_okay=False)
    ],
    partner: Partner = "acme",
    wait: Annotated[int, typer.Option("--wait", help="Wait so many seconds for the end.", min=0, max=30)] = 0,
    as_json: Json = False,
) -> ExitCode:
    """Post orders. Posting a file again changes nothing: its content is its idempotency key.

    Example: tutti order submit order.json --wait 10
    """
    ingress = _ingress(partner)
    results = [_post(ingress, path, wait) for path in files]
    if as_json:
        print_json(results)
    else:
        rows = [(one["file"], one["http_status"], one.get("order_id"), one.get("status"), _problem(one)) for one in results]
        print_table("orders", ("file", "HTTP", "order", "status", "problem"), rows)
    return ExitCode.DONE if all(one["http_status"] < 400 for one in results) else ExitCode.SOME_FAILED


def _post(ingress: Client, path: Path, wait: int) -> dict[str, Any]:
    body = path.read_bytes()
    headers = {"Content-Type": "application/json", "Idempotency-Key": hashlib.sha256(body).hexdigest()}
    if wait:
        headers["Prefer"] = f"wait={wait}"
    response = ingress.send("POST", "/v1/orders", content=body, headers=headers)
    answer: dict[str, Any] = {"file": str(path), "http_status": response.status_code}
    if response.is_error:
        problem = document_of(response)
        return {**answer, "detail": detail(response), "errors": problem.get("errors", []), "order_id": problem.get("order_id")}
    return {**answer, **document_of(response)}


def _problem(result: Mapping[str, Any]) -> str | None:
    """What was wrong, and where: each place is a line."""
    places = [f"{error['pointer']}: {error['detail']}" for error in result.get("errors", ())]
    left = len(places) - PLACES_MAX
    more = [f"and {left} more; --json shows all"] if left > 0 else []
    return "\n".join([result["detail"], *places[:PLACES_MAX], *more]) if "detail" in result else None


def _ingress(partner: str) -> Client:
    """The partners' API as this partner sees it. Raises Misused for a partner that the home does not know."""
    addresses = read_addresses()
    return Client(addresses.url("ingress"), addresses.api_key(partner))


def _missing(partner: str, order_id: str) -> str:
    return f"{partner} has no order {order_id}; `--partner` names another, `tutti saga list` shows all"


def _order(ingress: Client, partner: str, order_id: str) -> dict[str, Any]:
    order: dict[str, Any] = ingress.ask("GET", f"/v1/orders/{order_id}", missing=_missing(partner, order_id))
    return order


@app.command()
@speaks
def show(order_id: str, partner: Partner = "acme", as_json: Json = False) -> ExitCode:
    """Show an order. Example: tutti order show ord_…"""
    order = _order(_ingress(partner), partner, order_id)
    if as_json:
        print_json(order)
    else:
        _print(order)
    return ExitCode.DONE


@app.command()
@speaks
def watch(
    order_id: str,
    partner: Partner = "acme",
    seconds: Annotated[int, typer.Option(min=1, max=WATCH_SECONDS_MAX)] = 60,
    as_json: Json = False,
) -> ExitCode:
    """Show each change until the order ends, with --json the order as it ended; exit code 1 when it has not ended in time."""
    ingress = _ingress(partner)
    deadline = time.monotonic() + seconds
    shown = ""
    while time.monotonic() < deadline:
        order = _order(ingress, partner, order_id)
        now = json.dumps([order["status"], order["message"], order["steps"]])
        if now != shown and not as_json:
            _print(order)
            shown = now
        if order["status"] in ENDED:
            if as_json:
                print_json(order)
            return ExitCode.DONE
        time.sleep(POLL_SECONDS)
    raise Failure(f"{order_id} has not ended within {seconds} s; `tutti saga show` says what it waits for")


@app.command()
@speaks
@given(change=changing)
def cancel(change: Change, order_id: str, partner: Partner = "acme", as_json: Json = False) -> ExitCode:
    """Ask for an order to be cancelled, as its partner would; exit code 4 when it is too late.

    Example: tutti order cancel ord_… --reason "ordered twice" --yes
    """
    ingress = _ingress(partner)
    order = _order(ingress, partner, order_id)
    if change.dry_run:
        if as_json:
            print_json({"would_cancel": order_id, "status": order["status"], "steps": order["steps"]})
        else:
            say(f"{order_id} would be asked to be cancelled; it is {order['status']}.")
        return ExitCode.DONE
    change.confirm(f"Cancel {order_id} of {partner}?")
    missing = _missing(partner, order_id)
    answer = ingress.answer("POST", f"/v1/orders/{order_id}/cancel", missing=missing, json={"reason": change.reason})
    if as_json:
        print_json({"http_status": answer.status_code, **document_of(answer)})
    else:
        say(f"{order_id} is being cancelled; `tutti order watch {order_id}` shows how it ends")
    return ExitCode.DONE


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

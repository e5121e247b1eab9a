"""`tutti reconcile`: asks every service for its facts and says by id what does not add up."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.stack.cli.proof import KINDS, Doubt, Evidence, doubts, summary
from infra.stack.cli.sagas import PAGE_MAX, SAGAS
from infra.terminal.addresses import Addresses, read_addresses
from infra.terminal.client import Client
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure
from infra.terminal.operators import operator_of
from infra.terminal.options import Json
from infra.terminal.output import console, print_json, print_table
from infra.terminal.speaking import speaks

ROUNDS_MAX = 10
PAUSE_SECONDS = 1.0
PAGES_MAX = 1000
LETTERS_DAYS = 2
RESOLVED = "resolved"


@speaks
def reconcile(as_json: Json = False) -> ExitCode:
    """Prove that nothing is lost or doubled; exit code 1 and a list by id when something does not fit.

    Example: tutti reconcile --json
    """
    document = proven(read_addresses())
    if as_json:
        print_json(document)
    else:
        console.print(f"{document['orders']} sagas: {', '.join(f'{n} {state}' for state, n in document['in'].items()) or 'none'}")
        for kind in KINDS:
            rows = [(one["id"], one["detail"], one["command"]) for one in document[kind]]
            if rows:
                print_table(f"{len(rows)} {kind}", ("id", "what", "look into it with"), rows)
        console.print(
            "[green]nothing is lost, nothing is doubled[/green]" if document["ok"] else "[red]something does not fit[/red]"
        )
    return ExitCode.DONE if document["ok"] else ExitCode.SOME_FAILED


def proven(addresses: Addresses) -> dict[str, Any]:
    """The document. Asks until nothing is in doubt, at most ten times: a message on its way fits a second later."""
    doubtful: list[Doubt] = []
    evidence = gather(addresses)
    for _ in range(ROUNDS_MAX):
        doubtful = doubts(evidence)
        if not doubtful:
            break
        time.sleep(PAUSE_SECONDS)
        evidence = gather(addresses)
        again = set(doubts(evidence))
        doubtful = [doubt for doubt in doubtful if doubt in again]
    return summary(evidence, doubtful)


def gather(addresses: Addresses) -> Evidence:
    """One round: each service gives one snapshot of what it sent and received, one service after the other.

    A receiver that was asked before its sender may not have what the sender says that it sent. In no order of asking would every
    difference be true; so a difference counts only when two rounds have it (`proven`).
    """
    services = addresses.services()
    token = operator_of(addresses).token
    desk = Client(addresses.url("dead_letters"), token)
    facts = {name: Client(url, token).ask("GET", "/internal/reconcile") for name, url in services.items()}
    letters = _letters(desk)
    unresolved = [one for one in letters if one["state"] != RESOLVED]
    depths = {queue: depth for one in facts.values() for queue, depth in one.get("depths", {}).items()}
    return Evidence(
        facts=facts,
        sagas=_all(Client(addresses.url("orchestrator"), token), SAGAS, "sagas", {}),
        letters=frozenset((one["queue"], one["message_id"]) for one in letters),
        dead=frozenset((one["queue"], one["message_id"]) for one in unresolved),
        dead_operations=frozenset(one["operation_id"] for one in unresolved if one["operation_id"]),
        depths=depths | desk.ask("GET", "/internal/dead-queues"),
    )


def _letters(desk: Client) -> list[dict[str, Any]]:
    """Those that failed as long ago as the facts go back, and a day more for clocks that differ."""
    since = datetime.now(UTC) - timedelta(days=LETTERS_DAYS)
    return _all(desk, "/internal/dead-letter-identities", "letters", {"since": since.isoformat()})


def _all(client: Client, path: str, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Page after page of a list that is cut into pages by `after`."""
    rows: list[dict[str, Any]] = []
    after: Mapping[str, Any] = {}
    for _ in range(PAGES_MAX):
        page = client.ask("GET", path, params={**parameters, "limit": PAGE_MAX, **after})
        rows += page[name]
        if page["after"] is None:
            break
        after = {"after": page["after"]}
    else:
        raise Failure(f"more than {PAGE_MAX * PAGES_MAX} {name}; reconcile a shorter time")
    return rows

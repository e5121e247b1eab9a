"""`tutti reconcile`: asks every process for its facts and says by id what does not add up."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from infra.stack.cli.output import (
    DONE,
    SOME_FAILED,
    addresses,
    console,
    fail,
    print_json,
    print_table,
    request,
    token_of_operator,
)
from infra.stack.cli.proof import KINDS, Doubt, Evidence, doubts, summary
from infra.stack.cli.sagas import PAGE_MAX, url_of

ROUNDS_MAX = 10
PAUSE_SECONDS = 1.0
PAGES_MAX = 1000
LETTERS_DAYS = 2
RESOLVED = "resolved"


def reconcile(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Prove that nothing is lost or doubled; exit code 1 and a list by id when something does not fit.

    Example: tutti reconcile --json
    """
    document = proven(addresses())
    if as_json:
        print_json(document)
    else:
        console.print(
            f"{document['orders']} processes: {', '.join(f'{n} {state}' for state, n in document['in'].items()) or 'none'}"
        )
        for kind in KINDS:
            rows = [(one["id"], one["detail"], one["command"]) for one in document[kind]]
            if rows:
                print_table(f"{len(rows)} {kind}", ("id", "what", "look into it with"), rows)
        console.print(
            "[green]nothing is lost, nothing is doubled[/green]" if document["ok"] else "[red]something does not fit[/red]"
        )
    raise typer.Exit(DONE if document["ok"] else SOME_FAILED)


def proven(found: Mapping[str, Any]) -> dict[str, Any]:
    """The document. Asks until nothing is in doubt, at most ten times: a message on its way fits a second later."""
    doubtful: list[Doubt] = []
    evidence = gather(found)
    for _ in range(ROUNDS_MAX):
        doubtful = doubts(evidence)
        if not doubtful:
            break
        time.sleep(PAUSE_SECONDS)
        evidence = gather(found)
        again = set(doubts(evidence))
        doubtful = [doubt for doubt in doubtful if doubt in again]
    return summary(evidence, doubtful)


def gather(found: Mapping[str, Any]) -> Evidence:
    """Receivers are asked before senders would be wrong the other way round: a message counted as sent must be looked for later.

    So the senders' side (`emitted`) and the receivers' side come from each service's one snapshot, and a difference has to be
    seen in two rounds before it counts.
    """
    token = token_of_operator(found)
    facts = {name: _get(f"{url}/internal/reconcile", token) for name, url in found["services"].items()}
    letters = _letters(found, token)
    unresolved = [one for one in letters if one["state"] != RESOLVED]
    depths = {queue: depth for one in facts.values() for queue, depth in one.get("depths", {}).items()}
    return Evidence(
        facts=facts,
        sagas=_sagas(found, token),
        letters=frozenset((one["queue"], one["message_id"]) for one in letters),
        dead=frozenset((one["queue"], one["message_id"]) for one in unresolved),
        dead_operations=frozenset(one["operation_id"] for one in unresolved if one["operation_id"]),
        depths=depths | _get(f"{found['dead_letters']}/internal/dead-queues", token),
    )


def _sagas(found: Mapping[str, Any], token: str) -> list[dict[str, Any]]:
    return _all(url_of(found), token, "sagas", {})


def _letters(found: Mapping[str, Any], token: str) -> list[dict[str, Any]]:
    """Those that failed as long ago as the facts go back, and a day more for clocks that differ."""
    since = datetime.now(UTC) - timedelta(days=LETTERS_DAYS)
    return _all(f"{found['dead_letters']}/internal/dead-letter-identities", token, "letters", {"since": since.isoformat()})


def _all(url: str, token: str, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Page after page of a list that is cut into pages by `after`."""
    rows: list[dict[str, Any]] = []
    after: Mapping[str, Any] = {}
    for _ in range(PAGES_MAX):
        page = _get(url, token, {**parameters, "limit": PAGE_MAX, **after})
        rows += page[name]
        if page["after"] is None:
            break
        after = {"after": page["after"]}
    else:
        fail(SOME_FAILED, f"more than {PAGE_MAX * PAGES_MAX} {name}; reconcile a shorter time")
    return rows


def _get(url: str, token: str, parameters: Mapping[str, Any] | None = None) -> Any:
    response = request("GET", url, token, params=parameters)
    if response.is_error:
        fail(SOME_FAILED, f"{url}: {response.status_code} {response.text[:300]}")
    return response.json()

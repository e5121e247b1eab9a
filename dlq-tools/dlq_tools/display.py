"""How dead letters look on a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from infra.terminal.output import console, errors, id_column

BODY_LENGTH_MAX: Final = 20_000
ERROR_LENGTH_MAX: Final = 120
_COLOURS: Final = {
    "open": "red",
    "replaying": "yellow",
    "resolved": "green",
    "discarded": "dim",
    "parked": "blue",
}
_OUTCOMES: Final = {"resolved": "green", "failed-again": "red", "pending": "yellow"}


def table(items: Sequence[Mapping[str, Any]]) -> None:
    """Dead letters, one line each."""
    made = Table(id_column("id"), "state", "queue", "type", "error", "attempts", "last failed", box=None, header_style="bold")
    for item in items:
        state = f"[{_COLOURS[item['state']]}]{item['state']}[/]"
        error = f"{item['error_class']}: {item['error']}"[:ERROR_LENGTH_MAX]
        made.add_row(
            item["id"],
            state,
            escape(item["queue"]),
            escape(item["type"]),
            escape(error),
            str(item["attempts"]),
            item["last_failed_at"][:19],
        )
    console.print(made)


def letter(item: Mapping[str, Any]) -> None:
    """One dead letter, whole."""
    facts = Table(box=None, show_header=False)
    for name in ("id", "state", "queue", "type", "message_id", "correlation_id", "subject", "kind", "attempts", "first_failed_at",
                 "last_failed_at", "group", "revision"):  # fmt: skip
        facts.add_row(f"[bold]{name}[/]", escape(str(item[name])))
    console.print(facts)
    console.print(f"\n[bold red]{escape(item['error_class'])}[/]: {escape(item['error'])}")
    if item["failure"]["trace"]:
        console.print(escape(item["failure"]["trace"]), style="dim")
    console.print(f"\n[bold]headers[/] {escape(json.dumps(item['headers'], ensure_ascii=False))}")
    masked = " (personal data masked; --reveal shows it)" if item["body_masked"] else ""
    console.print(f"[bold]body[/]{masked}")
    body = item.get("body", item.get("body_base64", ""))
    console.print(Syntax(body[:BODY_LENGTH_MAX], "json", word_wrap=True, background_color="default"))
    if len(body) > BODY_LENGTH_MAX:
        console.print(f"... {len(body) - BODY_LENGTH_MAX} more characters; --json has them all", style="dim")
    history = Table("at", "what", "actor", "reason", box=None, header_style="bold")
    for entry in item["history"]:
        history.add_row(entry["at"][:19], escape(entry["what"]), escape(entry["actor"]), escape(entry["reason"]))
    console.print()
    console.print(history)


def replayed(made: Mapping[str, Any]) -> None:
    """What a replay did."""
    if made["state"] == "dry-run":
        console.print(f"{made['items']} would be replayed.")
    elif made["items"]:
        console.print(
            f"campaign {made['campaign']}: {made['items']} replayed, [green]{made['resolved']} resolved[/], "
            f"[red]{made['failed_again']} failed again[/], [yellow]{made['pending']} pending[/]"
        )
        if made["pending"]:
            console.print(f"See the results with: dlq campaign show {made['campaign']}", style="dim")
    _refusals(made)


def discarded(made: Mapping[str, Any]) -> None:
    """What a discard did."""
    console.print(f"{made['items']} would be discarded." if made["dry_run"] else f"{made['discarded']} discarded.")
    _refusals(made)


def campaigns(found: Sequence[Mapping[str, Any]]) -> None:
    made = Table(
        id_column("campaign"),
        "state",
        "items",
        "resolved",
        "failed again",
        "pending",
        "actor",
        "reason",
        box=None,
        header_style="bold",
    )
    for one in found:
        figures = (str(one[name]) for name in ("items", "resolved", "failed_again", "pending"))
        made.add_row(one["campaign"], one["state"], *figures, escape(one["actor"]), escape(one["reason"]))
    console.print(made)


def campaign(found: Mapping[str, Any]) -> None:
    campaigns([found])
    made = Table(id_column("id"), "replay", "outcome", box=None, header_style="bold")
    for one in found["results"]:
        made.add_row(one["id"], str(one["replay"]), f"[{_OUTCOMES[one['outcome']]}]{one['outcome']}[/]")
    console.print(made)


def retries(found: Sequence[Mapping[str, Any]]) -> None:
    made = Table(id_column("message"), "queue", "type", "attempts", "error", "due", box=None, header_style="bold")
    for one in found:
        error = f"{one['error_class']}: {one['error']}"[:ERROR_LENGTH_MAX]
        made.add_row(
            one["message_id"],
            one["queue"],
            escape(one["type"]),
            str(one["attempts"]),
            escape(error),
            str(one["due_at"])[:19],
        )
    console.print(made)


def _refusals(made: Mapping[str, Any]) -> None:
    for one in made["refused"]:
        errors.print(escape(f"{one['id']}: {one['reason']}"), style="yellow")
    for one in made["unknown"]:
        errors.print(escape(f"{one}: there is no such dead letter"), style="yellow")

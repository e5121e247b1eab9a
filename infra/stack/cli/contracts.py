"""`tutti contracts list|show|check`: what can be said, and whether an edit of it is compatible."""

from typing import Annotated

import typer

from contracts import publish
from contracts.registry import ENTRIES, UnknownMessage, entry
from infra.stack.cli.output import NOTHING_MATCHED, SOME_FAILED, Json, console, fail, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Messages: who owns, sends, receives and answers what.")


@app.command("list")
def list_messages(as_json: Json = False) -> None:
    """List every message. Example: tutti contracts list --json"""
    if as_json:
        print_json([publish.description(item) for item in ENTRIES])
        return
    rows = [
        (item.wire_name, "command" if item.is_command else "event", ", ".join(item.senders), ", ".join(item.receivers))
        for item in ENTRIES
    ]
    print_table(f"{len(rows)} messages", ("wire name", "kind", "senders", "receivers"), rows)


@app.command()
def show(wire_name: str, as_json: Json = False) -> None:
    """Show one message with its JSON Schema. Example: tutti contracts show credit.reserve-credit.v1"""
    try:
        item = entry(wire_name)
    except UnknownMessage as error:
        fail(NOTHING_MATCHED, str(error))
    document = {**publish.description(item), "schema": publish.schema(item.model)}
    if as_json:
        print_json(document)
        return
    console.print_json(data=document)


@app.command()
def check(
    as_json: Json = False, write: Annotated[bool, typer.Option("--write", help="Publish the schemas as they are now.")] = False
) -> None:
    """Compare the models with the published schemas; an incompatible edit is refused and needs a new version."""
    if write:
        publish.write()
    problems = publish.problems()
    if as_json:
        print_json([{"message": name, "problem": problem} for name, problem in problems])
    else:
        for name, problem in problems:
            console.print(f"{name}: {problem}", markup=False)
        if not problems:
            console.print(f"{len(ENTRIES)} messages agree with contracts/published")
    raise typer.Exit(SOME_FAILED if problems else 0)

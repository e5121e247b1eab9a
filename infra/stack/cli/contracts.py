"""`tutti contracts list|show|check`: what can be said, and whether an edit of it is compatible."""

from typing import Annotated

import typer

from contracts import publish
from contracts.registry import ENTRIES, UnknownMessage, entry
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import NotFound
from infra.terminal.options import Json
from infra.terminal.output import console, print_json, print_table, say
from infra.terminal.speaking import speaks

app = typer.Typer(no_args_is_help=True, help="Messages: who owns, sends, receives and answers what.")


@app.command("list")
@speaks
def list_messages(as_json: Json = False) -> ExitCode:
    """List every message. Example: tutti contracts list --json"""
    if as_json:
        print_json([publish.description(item) for item in ENTRIES])
        return ExitCode.DONE
    rows = [
        (item.wire_name, "command" if item.is_command else "event", ", ".join(item.senders), ", ".join(item.receivers))
        for item in ENTRIES
    ]
    print_table(f"{len(rows)} messages", ("wire name", "kind", "senders", "receivers"), rows)
    return ExitCode.DONE


@app.command()
@speaks
def show(wire_name: str, as_json: Json = False) -> ExitCode:
    """Show one message with its JSON Schema. Example: tutti contracts show credit.reserve-credit.v1"""
    try:
        item = entry(wire_name)
    except UnknownMessage as error:
        raise NotFound(str(error)) from error
    document = {**publish.description(item), "schema": publish.schema(item.model)}
    if as_json:
        print_json(document)
    else:
        console.print_json(data=document)
    return ExitCode.DONE


@app.command()
@speaks
def check(
    as_json: Json = False, write: Annotated[bool, typer.Option("--write", help="Publish the schemas as they are now.")] = False
) -> ExitCode:
    """Compare the models with the published schemas; an incompatible edit is refused and needs a new version."""
    if write:
        publish.write()
    problems = publish.problems()
    if as_json:
        print_json([{"message": name, "problem": problem} for name, problem in problems])
    else:
        for name, problem in problems:
            say(f"{name}: {problem}")
        if not problems:
            say(f"{len(ENTRIES)} messages agree with contracts/published")
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE

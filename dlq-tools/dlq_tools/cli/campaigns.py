"""`dlq campaign list|show`: what became of replays."""

from typing import Annotated

import typer

from dlq_tools import display
from dlq_tools.desk_client import find_desk
from infra.terminal.exit_codes import ExitCode
from infra.terminal.options import Json
from infra.terminal.output import print_json, say
from infra.terminal.speaking import speaks

app = typer.Typer(no_args_is_help=True, help="Replays and what became of them.")


@app.command("list", epilog="Example: dlq campaign list --json")
@speaks
def list_campaigns(as_json: Json = False) -> ExitCode:
    """Replays, the newest first."""
    found = find_desk().ask("GET", "/internal/campaigns")
    if as_json:
        print_json(found)
    elif found:
        display.campaigns(found)
    else:
        say("There has been no replay yet.")
    return ExitCode.DONE if found else ExitCode.NOTHING_MATCHED


@app.command("show", epilog="Example: dlq campaign show c_018f2b --json")
@speaks
def show_campaign(id: Annotated[str, typer.Argument(metavar="ID", help="The campaign.")], as_json: Json = False) -> ExitCode:
    """One replay, item by item."""
    found = find_desk().ask("GET", f"/internal/campaigns/{id}")
    if as_json:
        print_json(found)
    else:
        display.campaign(found)
    return ExitCode.DONE

"""`dlq retries list|now`: what waits for another try, in all processes of a stack."""

from typing import Annotated

import typer

from dlq_tools import display
from dlq_tools.desk_client import find_desk
from infra.terminal.changing import Change, changing
from infra.terminal.exit_codes import ExitCode
from infra.terminal.options import Json, given
from infra.terminal.output import print_json, say
from infra.terminal.speaking import speaks

app = typer.Typer(no_args_is_help=True, help="Messages that wait for another try, before they become dead letters.")


@app.command("list", epilog="Example: dlq retries list --json")
@speaks
def list_retries(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many of each process.")] = 100,
    as_json: Json = False,
) -> ExitCode:
    """What backs off, and until when, in all processes of this stack."""
    found = [
        {"process": name, **row}
        for name, process in find_desk().processes().items()
        for row in process.ask("GET", "/internal/retries", params={"limit": limit})
    ]
    found.sort(key=lambda row: str(row["due_at"]))
    if as_json:
        print_json(found)
    elif found:
        display.retries(found)
    else:
        say("Nothing waits for another try.")
    return ExitCode.DONE if found else ExitCode.NOTHING_MATCHED


@app.command("now", epilog='Example: dlq retries now 0191d2c8-7d5e --reason "the carrier is back" --yes')
@speaks
@given(change=changing)
def retry_now(
    change: Change,
    ids: Annotated[list[str], typer.Argument(metavar="MESSAGE_ID...", help="Messages by id.")],
    as_json: Json = False,
) -> ExitCode:
    """Try messages again at once instead of when they are due."""
    desk = find_desk()
    moved: set[str] = set()
    if not change.dry_run:
        change.confirm(f"Try {len(ids)} message(s) again now?")
        for process in desk.processes().values():
            moved.update(process.ask("POST", "/internal/retries/now", json=ids)["moved"])
    unknown = [one for one in ids if one not in moved and not change.dry_run]
    if as_json:
        print_json({"moved": sorted(moved), "unknown": unknown, "dry_run": change.dry_run})
    else:
        say(f"{len(ids)} message(s) would be tried again now, if they wait." if change.dry_run else f"{len(moved)} moved to now.")
    if change.dry_run:
        return ExitCode.DONE
    return ExitCode.NOTHING_MATCHED if not moved else ExitCode.SOME_FAILED if unknown else ExitCode.DONE

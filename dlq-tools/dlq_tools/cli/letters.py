"""`dlq list|show|replay|discard`: dead letters."""

import time
from typing import Annotated, Any, Final

import typer

from dlq_tools import display
from dlq_tools.cli.acting import Act, acts, ended
from dlq_tools.cli.options import filters
from dlq_tools.desk_client import Desk, find_desk
from infra.terminal.changing import stated
from infra.terminal.exit_codes import ExitCode
from infra.terminal.options import Actor, Json, given
from infra.terminal.output import print_json, say
from infra.terminal.speaking import speaks

POLL_SECONDS: Final = 0.2

app = typer.Typer()


@app.command("list", epilog="Example: dlq list --queue credit.commands --state open --since 24h")
@speaks
@given(filters=filters)
def list_dead_letters(
    filters: dict[str, Any],
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the newest first.")] = 100,
    as_json: Json = False,
) -> ExitCode:
    """Dead letters, those that failed last first."""
    found = find_desk().ask("GET", "/internal/dead-letters", params={**filters, "limit": limit})
    if as_json:
        print_json(found)
    elif found:
        display.table(found)
    else:
        say("No dead letter matches.")
    return ExitCode.DONE if found else ExitCode.NOTHING_MATCHED


@app.command(epilog='Example: dlq show dl_0a1b2c3d4e5f --reveal --reason "the partner asks"')
@speaks
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter.")],
    reveal: Annotated[bool, typer.Option("--reveal", help="Show personal data in the body; goes into the history.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; needed with --reveal.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> ExitCode:
    """One dead letter: its body, its failure, its history. Personal data is masked."""
    path = f"/internal/dead-letters/{id}"
    if reveal:
        why = stated(reason)
        desk = find_desk()
        found = desk.ask("POST", f"{path}/reveal", json={"reason": why, "actor": actor or desk.operator.name})
    else:
        found = find_desk().ask("GET", path)
    if as_json:
        print_json(found)
    else:
        display.letter(found)
    return ExitCode.DONE


@app.command(epilog='Example: dlq replay dl_0a1b2c3d4e5f --reason "limit service is back" --wait --yes')
@speaks
@acts("replay")
def replay(
    act: Act,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until each item is resolved or has failed again.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=3600.0, help="Seconds that --wait waits at most.")] = 60.0,
    as_json: Json = False,
) -> ExitCode:
    """Send dead letters to their queues again. What was handled already is not done twice."""
    made = act.carry_out()
    if wait and made["campaign"]:
        made = {**made, **_await_results(act.desk, made["campaign"], timeout)}
    if as_json:
        print_json(made)
    else:
        display.replayed(made)
    unfinished = wait and made["pending"] > 0
    return ended(made, failed=made["failed_again"] > 0 or unfinished)


@app.command(epilog='Example: dlq discard --group g_0a1b2c3d --reason "test orders" --yes')
@speaks
@acts("discard")
def discard(act: Act, as_json: Json = False) -> ExitCode:
    """Give dead letters up. They stay on record, and open again if they fail again."""
    made = act.carry_out()
    if as_json:
        print_json(made)
    else:
        display.discarded(made)
    return ended(made)


def _await_results(desk: Desk, campaign: str, seconds: float) -> dict[str, Any]:
    """The campaign's figures when no item waits any more, or when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = desk.ask("GET", f"/internal/campaigns/{campaign}")
        if not found["pending"] or time.monotonic() >= deadline:
            return {name: found[name] for name in ("items", "resolved", "failed_again", "pending", "state", "results")}
        time.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))

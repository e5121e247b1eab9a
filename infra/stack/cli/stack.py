"""`tutti up|down|status|doctor|reset|logs`: the private stack on this machine."""

import sys
from typing import Annotated

import typer

from infra.stack.cli.output import (
    DONE,
    NOTHING_MATCHED,
    REFUSED,
    SOME_FAILED,
    USAGE,
    Json,
    console,
    fail,
    print_json,
    print_table,
)
from infra.stack.local import doctor as examination
from infra.stack.local import stack
from infra.stack.local.home import AlreadyRunning, LocalError, open_home
from infra.stack.local.logs import Terminal
from infra.stack.local.platform import Options, bring_up
from infra.stack.local.supervisor import Supervisor

UP_SECONDS_MAX = 300.0


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready; `tutti down` stops it.")] = False,
    separate: Annotated[bool, typer.Option("--separate", help="Each service in a process of its own.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Do not load the sample company.")] = False,
) -> None:
    """Start the private stack and stay (Ctrl-C stops it), or return with --detach. Data persist in .tutti.

    Example: tutti up --detach
    """
    home = open_home()
    if detach:
        flags = [*(["--separate"] if separate else []), *(["--empty"] if empty else [])]
        try:
            if stack.status(home)["state"] != "down":
                raise AlreadyRunning(f"the stack of {home.path} runs already; `tutti status` shows it, `tutti down` ends it")
            stack.start_detached(home, [sys.executable, "-m", "infra.stack.cli.main", "up", *flags], UP_SECONDS_MAX)
        except LocalError as error:
            fail(SOME_FAILED, str(error))
        _address_table()
        return

    async def everything(supervisor: Supervisor) -> None:
        await bring_up(home, supervisor, Options(separate=separate, empty=empty))
        _address_table()

    try:
        stack.supervise(home, everything, Terminal())
    except LocalError as error:
        fail(SOME_FAILED, str(error))


def _address_table() -> None:
    found = open_home().addresses()
    rows = [
        ("partner HTTP", found["ingress"], f"curl -H 'Authorization: Bearer KEY' {found['ingress']}/v1/orders"),
        ("orchestrator", found["orchestrator"], "tutti saga list"),
        ("failure desk", found["dead_letters"], "dlq list"),
        ("carrier simulator", found["carrier"], f"curl {found['carrier']}/effects"),
    ]
    print_table("The stack is up. Data persist until `tutti reset`.", ("what", "address", "try"), rows)
    console.print(f"Keys, tokens and broker users: {open_home().addresses_file} (mode 0600)", soft_wrap=True)


def down() -> None:
    """Stop the stack, whoever started it and whatever was killed before; no process is left."""
    try:
        stack.down(open_home())
    except LocalError as error:
        fail(SOME_FAILED, str(error))


def status(as_json: Json = False) -> None:
    """Show each process. Works also while broker or database are down. Exit code 1 unless everything is up."""
    document = stack.status(open_home())
    if as_json:
        print_json(document)
    else:
        rows = [(row["name"], row["pid"], row["state"], row["restarts"], row["port"]) for row in document["processes"]]
        print_table(f"state: {document['state']}", ("name", "pid", "state", "restarts", "port"), rows)
        if document["state"] == "down":
            console.print("Start it with `tutti up`.")
    raise typer.Exit(DONE if document["state"] == "up" else SOME_FAILED)


def doctor(as_json: Json = False) -> None:
    """Check versions, disk, ports, servers and left-overs; each finding comes with the command that mends it."""
    findings = examination.examine(open_home())
    if as_json:
        print_json([{"name": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in findings])
    else:
        rows = [("ok" if one.ok else "MEND", one.name, one.detail, "" if one.ok else one.remedy) for one in findings]
        print_table("doctor", ("", "what", "found", "what to do"), rows)
    raise typer.Exit(DONE if all(one.ok for one in findings) else SOME_FAILED)


def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Stop the stack and delete its data: every order, key and log in .tutti."""
    home = open_home()
    if not yes and not sys.stdin.isatty():
        fail(USAGE, f"this deletes everything in {home.path}; say so with --yes")
    if not yes and not typer.confirm(f"Delete everything in {home.path}?"):
        fail(REFUSED, "nothing was deleted")
    try:
        stack.reset(home)
    except LocalError as error:
        fail(SOME_FAILED, str(error))


def logs(
    name: Annotated[str | None, typer.Argument(help="A process; without it their names are shown.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", help="How many lines from the end.")] = 200,
) -> None:
    """Show a process's log. Example: tutti logs orchestrator -f"""
    home = open_home()
    if name is None:
        for known in stack.log_names(home):
            print(known)
        return
    try:
        for line in stack.log_lines(home, name, last, follow):
            print(line)
    except LocalError as error:
        fail(NOTHING_MATCHED, str(error))
    except KeyboardInterrupt:
        return

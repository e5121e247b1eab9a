"""`tutti up|down|status|doctor|reset|logs`: the private stack on this machine.

Unlike commands that change orders, these want no reason: no history would keep it, and `tutti reset` deletes the histories. `up` and
`down` also do not ask, since data persist and each takes back the other.
"""

import sys
from typing import Annotated

import typer

from infra.stack.local import doctor as examination
from infra.stack.local import stack
from infra.stack.local.home import AlreadyRunning, Home, LocalError, open_home
from infra.stack.local.logs import Terminal
from infra.stack.local.supervisor import Supervisor
from infra.terminal.changing import confirm
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Misused, NotFound
from infra.terminal.options import DryRun, Json, Yes
from infra.terminal.output import print_json, print_table, say
from infra.terminal.speaking import speaks

UP_SECONDS_MAX = 300.0


@speaks
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready; `tutti down` stops it.")] = False,
    separate: Annotated[bool, typer.Option("--separate", help="Each service in a process of its own.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Do not load the sample company.")] = False,
    as_json: Json = False,
) -> ExitCode:
    """Start the private stack and stay (Ctrl-C stops it), or return with --detach. Data persist in .tutti.

    Example: tutti up --detach
    """
    if as_json and not detach:
        raise Misused("a stack that stays shows what its processes say; --json wants --detach")
    home = open_home()
    if detach:
        _start_detached(home, [*(["--separate"] if separate else []), *(["--empty"] if empty else [])])
        if as_json:
            print_json(stack.status(home))
        else:
            _address_table(home)
        return ExitCode.DONE

    # Here, because it brings the whole chassis along, for which every other command would wait half a second.
    from infra.stack.local.platform import Options, bring_up

    async def everything(supervisor: Supervisor) -> None:
        await bring_up(home, supervisor, Options(separate=separate, empty=empty))
        _address_table(home)

    stack.supervise(home, everything, Terminal())
    return ExitCode.DONE


def _start_detached(home: Home, flags: list[str]) -> None:
    if stack.status(home)["state"] != "down":
        raise AlreadyRunning(f"the stack of {home.path} runs already; `tutti status` shows it, `tutti down` ends it")
    stack.start_detached(home, [sys.executable, "-m", "infra.stack.cli.main", "up", *flags], UP_SECONDS_MAX)


def _address_table(home: Home) -> None:
    found = home.addresses()
    rows = [
        ("partner HTTP", found["ingress"], f"curl -H 'Authorization: Bearer KEY' {found['ingress']}/v1/orders"),
        ("orchestrator", found["orchestrator"], "tutti saga list"),
        ("failure desk", found["dead_letters"], "dlq list"),
        ("carrier simulator", found["carrier"], f"curl {found['carrier']}/effects"),
    ]
    print_table("The stack is up. Data persist until `tutti reset`.", ("what", "address", "try"), rows)
    say(f"Keys, tokens and broker users: {home.addresses_file} (mode 0600)")


@speaks
def down(as_json: Json = False) -> ExitCode:
    """Stop the stack, also one that was started elsewhere or killed in part; no process is left."""
    home = open_home()
    stack.down(home)
    if as_json:
        print_json(stack.status(home))
    return ExitCode.DONE


@speaks
def status(as_json: Json = False) -> ExitCode:
    """Show each process. Works also while broker or database are down. Exit code 1 unless everything is up."""
    document = stack.status(open_home())
    if as_json:
        print_json(document)
    else:
        rows = [(row["name"], row["pid"], row["state"], row["restarts"], row["port"]) for row in document["processes"]]
        print_table(f"state: {document['state']}", ("name", "pid", "state", "restarts", "port"), rows)
        if document["state"] == "down":
            say("Start it with `tutti up`.")
    return ExitCode.DONE if document["state"] == "up" else ExitCode.SOME_FAILED


@speaks
def doctor(as_json: Json = False) -> ExitCode:
    """Check versions, disk, ports, servers and left-overs; each finding comes with the command that mends it."""
    findings = examination.examine(open_home())
    if as_json:
        print_json([{"name": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in findings])
    else:
        rows = [("ok" if one.ok else "MEND", one.name, one.detail, "" if one.ok else one.remedy) for one in findings]
        print_table("doctor", ("", "what", "found", "what to do"), rows)
    return ExitCode.DONE if all(one.ok for one in findings) else ExitCode.SOME_FAILED


@speaks
def reset(yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> ExitCode:
    """Stop the stack and delete its data: every order, key and log in .tutti."""
    home = open_home()
    if not dry_run:
        confirm(f"Delete everything in {home.path}?", yes=yes, as_json=as_json)
        stack.reset(home)
    if as_json:
        print_json({"home": str(home.path), "dry_run": dry_run})
    elif dry_run:
        say(f"everything in {home.path} would be deleted")
    return ExitCode.DONE


@speaks
def logs(
    name: Annotated[str | None, typer.Argument(help="A process; without it their names are shown.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", help="How many lines from the end.")] = 200,
    as_json: Json = False,
) -> ExitCode:
    """Show a process's log. Example: tutti logs orchestrator -f"""
    if as_json and follow:
        raise Misused("a log that goes on is never a whole document; leave out --json or --follow")
    home = open_home()
    try:
        lines = stack.log_names(home) if name is None else stack.log_lines(home, name, last, follow)
        if as_json:
            print_json(list(lines))
        else:
            for line in lines:
                print(line)
    except LocalError as error:
        raise NotFound(str(error)) from error
    except KeyboardInterrupt:
        pass
    return ExitCode.DONE

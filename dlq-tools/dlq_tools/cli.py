"""`dlq`: dead letters from a terminal or a script. Exit codes: 0 done, 1 some items failed, 2 usage, 3 nothing matched, 4 refused,
5 the system cannot be reached.

With --json there is exactly one JSON document on stdout; words for people go to stderr.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import wraps
from inspect import Signature, signature
from typing import Annotated, Any, Final, NoReturn, ParamSpec

import typer

from dlq_tools import display
from dlq_tools.desk_client import (
    Desk,
    Misused,
    NotAllowed,
    NotFound,
    Unreachable,
    find_desk,
    request,
    request_at,
)

DONE, SOME_FAILED, USAGE, NOTHING_MATCHED, REFUSED, UNREACHABLE = range(6)
POLL_SECONDS: Final = 0.2

P = ParamSpec("P")

app = typer.Typer(
    name="dlq",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Dead letters: see what failed and why, send it again, or give it up.\n\n"
    "Exit codes: 0 done; 1 ran, but some items failed; 2 usage; 3 nothing matched; 4 refused; 5 the system cannot be reached.",
)
campaign_app = typer.Typer(no_args_is_help=True, help="Replays and what became of them.")
app.add_typer(campaign_app, name="campaign")
retries_app = typer.Typer(no_args_is_help=True, help="Messages that wait for another try, before they become dead letters.")
app.add_typer(retries_app, name="retries")


class StateName(StrEnum):
    """States that a dead letter can be in."""

    OPEN = "open"
    REPLAYING = "replaying"
    RESOLVED = "resolved"
    DISCARDED = "discarded"
    PARKED = "parked"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Only of this queue, for example credit.commands.")]
Type = Annotated[
    str | None,
    typer.Option("--type", help="Only messages of this type, for example credit.reserve-credit.v1."),
]
Group = Annotated[str | None, typer.Option("--group", help="Only with this signature.")]
OfState = Annotated[StateName | None, typer.Option("--state", help="Only in this state.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only what failed since: 2026-11-21, 2026-11-21T10:05:00Z, or 30m, 24h, 7d ago."),
]
Correlation = Annotated[str | None, typer.Option("--correlation-id", help="Only of this process.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who does it; default: the operator whose token is used.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters by id.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that this can be done with.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=10_000, help="At most so many, the oldest first.")]


def main() -> None:
    """The `dlq` command."""
    app()


def speaks(command: Callable[P, int]) -> Callable[P, None]:
    """Turns a command's result into its exit code, and what the desk says into words and the exit code of `public-face.md`."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            code = command(*args, **kwargs)
        except NotFound as error:
            _fail(str(error), NOTHING_MATCHED, as_json=as_json)
        except NotAllowed as error:
            _fail(str(error), REFUSED, as_json=as_json)
        except Misused as error:
            _fail(str(error), USAGE, as_json=as_json)
        except Unreachable as error:
            _fail(str(error), UNREACHABLE, as_json=as_json)
        raise typer.Exit(code)

    return run


@dataclass(frozen=True, slots=True)
class Act:
    """A change of dead letters: looked at first, confirmed, then done."""

    desk: Desk
    name: str
    selection: dict[str, Any]
    reason: str
    actor: str

    def carry_out(self, *, yes: bool, dry_run: bool, as_json: bool) -> dict[str, Any]:
        """What the desk did. Raises NotFound when nothing matches. Nobody at a terminal and no --yes is a wrong usage."""
        if not self.reason.strip():
            raise typer.BadParameter("say why", param_hint="--reason")
        if not dry_run and not yes:
            would = self._ask(dry_run=True)
            if would["items"]:
                _confirm(f"{self.name.capitalize()} {would['items']} dead letter(s)?", yes=yes, as_json=as_json)
        made = self._ask(dry_run=dry_run)
        if not made["items"] and not made["refused"]:
            unknown = ", ".join(made["unknown"])
            raise NotFound(f"no dead letter {unknown}; see `dlq list`" if unknown else "no dead letter matches; see `dlq list`")
        return made

    def _ask(self, *, dry_run: bool) -> dict[str, Any]:
        body = {"selection": self.selection, "reason": self.reason, "actor": self.actor, "dry_run": dry_run}
        answer: dict[str, Any] = request(self.desk, "POST", f"/internal/dead-letters/{self.name}", json=body)
        return answer


def _act(
    name: str,
    reason: Reason,
    ids: Ids = None,
    queue: Queue = None,
    type: Type = None,
    group: Group = None,
    state: OfState = None,
    since: Since = None,
    correlation_id: Correlation = None,
    limit: Limit = None,
    all: All = False,
    actor: Actor = None,
) -> Act:
    """The act that these options ask for. Raises BadParameter for a selection of nothing, or of two kinds."""
    filters = {
        "queue": queue,
        "type": type,
        "group": group,
        "state": state,
        "since": _since(since),
        "correlation_id": correlation_id,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    if not ids and not given and not all:
        raise typer.BadParameter("select dead letters: by id, by filters such as --queue, or --all", param_hint="SELECTION")
    if ids and (given or all):
        raise typer.BadParameter("ids stand alone; leave out filters and --all", param_hint="SELECTION")
    selection = {"ids": list(ids or ()), **given, "all": all, **({"limit": limit} if limit else {})}
    desk = find_desk()
    return Act(desk, name, selection, reason, actor or desk.actor)


def acts(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Gives a command the options of `_act`, and as its first argument the act that they ask for.

    Typer reads options from the signature, so the command shows one that is joined from both.
    """
    _, *asked = signature(_act).parameters.values()

    def joined(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def run(**given: Any) -> int:
            act = _act(name, **{option.name: given.pop(option.name) for option in asked})
            return command(act, **given)

        _, *own = signature(command).parameters.values()
        options = [*asked, *own]
        run.__dict__["__signature__"] = Signature(options)
        run.__annotations__ = {option.name: option.annotation for option in options}
        return run

    return joined


@app.command("list", epilog="Example: dlq list --queue credit.commands --state open --since 24h")
@speaks
def list_dead_letters(
    queue: Queue = None,
    type: Type = None,
    group: Group = None,
    state: OfState = None,
    since: Since = None,
    correlation_id: Correlation = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the newest first.")] = 100,
    as_json: Json = False,
) -> int:
    """Dead letters, those that failed last first."""
    filters = {
        "queue": queue,
        "type": type,
        "group": group,
        "state": state,
        "since": _since(since),
        "correlation_id": correlation_id,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    found = request(find_desk(), "GET", "/internal/dead-letters", params={**given, "limit": limit})
    if as_json:
        _print(found)
    elif found:
        display.table(found)
    else:
        display.say("No dead letter matches.")
    return DONE if found else NOTHING_MATCHED


@app.command(epilog='Example: dlq show dl_0a1b2c3d4e5f --reveal --reason "the partner asks"')
@speaks
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter.")],
    reveal: Annotated[bool, typer.Option("--reveal", help="Show personal data in the body; goes into the history.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; needed with --reveal.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> int:
    """One dead letter: its body, its failure, its history. Personal data is masked."""
    if reveal and not (reason or "").strip():
        raise typer.BadParameter("--reveal needs --reason: it is kept in the history", param_hint="--reason")
    desk = find_desk()
    if reveal:
        found = request(
            desk,
            "POST",
            f"/internal/dead-letters/{id}/reveal",
            json={"reason": reason, "actor": actor or desk.actor},
        )
    else:
        found = request(desk, "GET", f"/internal/dead-letters/{id}")
    if as_json:
        _print(found)
    else:
        display.letter(found)
    return DONE


@app.command(epilog='Example: dlq replay dl_0a1b2c3d4e5f --reason "limit service is back" --wait --yes')
@speaks
@acts("replay")
def replay(
    act: Act,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until each item is resolved or has failed again.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=3600.0, help="Seconds that --wait waits at most.")] = 60.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Send dead letters to their queues again. What was handled already is not done twice."""
    made = act.carry_out(yes=yes, dry_run=dry_run, as_json=as_json)
    if wait and made["campaign"]:
        made = {**made, **_await_results(act.desk, made["campaign"], timeout)}
    if as_json:
        _print(made)
    else:
        display.replayed(made, waited=wait)
    unfinished = wait and made["pending"] > 0
    return _code(made, failed=made["failed_again"] > 0 or unfinished)


@app.command(epilog='Example: dlq discard --group g_0a1b2c3d --reason "test orders" --yes')
@speaks
@acts("discard")
def discard(
    act: Act,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Give dead letters up. They stay on record, and open again if they fail again."""
    made = act.carry_out(yes=yes, dry_run=dry_run, as_json=as_json)
    if as_json:
        _print(made)
    else:
        display.discarded(made)
    return _code(made, failed=False)


@campaign_app.command("list", epilog="Example: dlq campaign list --json")
@speaks
def list_campaigns(as_json: Json = False) -> int:
    """Replays, the newest first."""
    found = request(find_desk(), "GET", "/internal/campaigns")
    if as_json:
        _print(found)
    elif found:
        display.campaigns(found)
    else:
        display.say("There has been no replay yet.")
    return DONE if found else NOTHING_MATCHED


@campaign_app.command("show", epilog="Example: dlq campaign show c_018f2b --json")
@speaks
def show_campaign(id: Annotated[str, typer.Argument(metavar="ID", help="The campaign.")], as_json: Json = False) -> int:
    """One replay, item by item."""
    found = request(find_desk(), "GET", f"/internal/campaigns/{id}")
    if as_json:
        _print(found)
    else:
        display.campaign(found)
    return DONE


@retries_app.command("list", epilog="Example: dlq retries list --json")
@speaks
def list_retries(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many of each process.")] = 100,
    as_json: Json = False,
) -> int:
    """What backs off, and until when, in all processes of this stack."""
    desk = find_desk()
    found = [
        {"process": name, **row}
        for name, url in _processes(desk).items()
        for row in request_at(url, desk.token, "GET", "/internal/retries", params={"limit": limit})
    ]
    found.sort(key=lambda row: str(row["due_at"]))
    if as_json:
        _print(found)
    elif found:
        display.retries(found)
    else:
        display.say("Nothing waits for another try.")
    return DONE if found else NOTHING_MATCHED


@retries_app.command("now", epilog='Example: dlq retries now 0191d2c8-7d5e --reason "the carrier is back" --yes')
@speaks
def retry_now(
    reason: Reason,
    ids: Annotated[list[str], typer.Argument(metavar="MESSAGE_ID...", help="Messages by id.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Try messages again at once instead of when they are due."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    desk = find_desk()
    moved: list[str] = []
    if not dry_run:
        _confirm(f"Try {len(ids)} message(s) again now?", yes=yes, as_json=as_json)
        for url in _processes(desk).values():
            moved += request_at(url, desk.token, "POST", "/internal/retries/now", json=ids)["moved"]
    unknown = [one for one in ids if one not in moved and not dry_run]
    document = {"moved": sorted(set(moved)), "unknown": unknown, "dry_run": dry_run}
    if as_json:
        _print(document)
    else:
        display.say(f"{len(set(moved))} moved to now.")
    if dry_run:
        return DONE
    return NOTHING_MATCHED if not moved else SOME_FAILED if unknown else DONE


def _code(made: dict[str, Any], *, failed: bool) -> int:
    if not made["items"]:
        return REFUSED
    return SOME_FAILED if failed or made["refused"] or made["unknown"] else DONE


def _await_results(desk: Desk, campaign: str, seconds: float) -> dict[str, Any]:
    """The campaign's figures when no item waits any more, or when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = request(desk, "GET", f"/internal/campaigns/{campaign}")
        if not found["pending"] or time.monotonic() >= deadline:
            return {name: found[name] for name in ("items", "resolved", "failed_again", "pending", "state", "results")}
        time.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))


_AGE: Final = re.compile(r"^(\d{1,5})([smhd])$")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _since(given: str | None) -> str | None:
    """A moment as the API takes it. A date or time without an offset is UTC."""
    if given is None:
        return None
    age = _AGE.match(given)
    if age:
        return (datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})).isoformat()
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise typer.BadParameter(
            f"{given!r} is no time; write 2026-11-21, 2026-11-21T10:05:00Z, or 24h", param_hint="--since"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Asks on a terminal. Elsewhere nobody can answer."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter("this changes dead letters and there is nobody to ask; add --yes", param_hint="--yes")
    typer.confirm(question, abort=True, err=True)


def _processes(desk: Desk) -> dict[str, str]:
    if not desk.processes:
        raise Unreachable("the processes of this stack are not known. Start it with: tutti up")
    return dict(desk.processes)


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None) + "\n")


def _fail(words: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        _print({"error": words, "exit_code": code})
    display.complain(words)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()

"""`tutti saga list|show|cancel`: sagas, the runs of workflows, as operators see them."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from infra.terminal.addresses import read_addresses
from infra.terminal.changing import Change, changing
from infra.terminal.client import Client, document_of
from infra.terminal.exit_codes import ExitCode
from infra.terminal.operators import Operator, operator_of
from infra.terminal.options import Actor, Json, given
from infra.terminal.output import console, print_json, print_table, say
from infra.terminal.speaking import speaks

app = typer.Typer(
    no_args_is_help=True, help="Sagas, the runs of workflows: where each one is, what it waits for, and what was done."
)
BAR_WIDTH = 24
PAGE_MAX = 1000
SAGAS = "/internal/sagas"


def _orchestrator() -> tuple[Client, Operator]:
    addresses = read_addresses()
    url = addresses.url("orchestrator")
    operator = operator_of(addresses)
    return Client(url, operator.token), operator


@app.command("list")
@speaks
def list_sagas(
    state: Annotated[list[str] | None, typer.Option(help="Only these states, for example --state stuck.")] = None,
    partner: Annotated[str | None, typer.Option(help="Only this partner's.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX)] = 50,
    as_json: Json = False,
) -> ExitCode:
    """List sagas, newest first. Example: tutti saga list --state stuck"""
    orchestrator, _ = _orchestrator()
    asked: dict[str, Any] = {"limit": limit, "state": state or None, "partner": partner, "workflow": workflow}
    rows = orchestrator.ask("GET", SAGAS, params={k: v for k, v in asked.items() if v is not None})["sagas"]
    if as_json:
        print_json(rows)
    else:
        print_table(
            f"{len(rows)} sagas",
            ("id", "workflow", "state", "subject", "partner", "started", "stuck"),
            [(r["id"], _workflow(r), r["state"], r["subject"], r["partner"], r["started_at"], r["stuck"]) for r in rows],
        )
    return ExitCode.DONE


def _workflow(document: Mapping[str, Any]) -> str:
    return f"{document['workflow']} v{document['version']}" if document["workflow"] else ""


@app.command()
@speaks
def show(saga: str, as_json: Json = False) -> ExitCode:
    """Show one saga by its id or its order's id: timeline, what it waits for, what was undone."""
    orchestrator, _ = _orchestrator()
    document = orchestrator.ask("GET", f"{SAGAS}/{saga}")
    if as_json:
        print_json(document)
    else:
        print_timeline(document)
    return ExitCode.DONE


@app.command()
@speaks
@given(change=changing)
def cancel(change: Change, saga: str, actor: Actor = None, as_json: Json = False) -> ExitCode:
    """Cancel a saga: what it did is undone. Exit code 4 when it is past the pivot or finished.

    Example: tutti saga cancel ord_… --reason "the buyer is bankrupt" --yes
    """
    orchestrator, operator = _orchestrator()
    # Looked up first: the orchestrator also takes a cancellation for a saga that is still to start, and so would take a mistyped id.
    document = orchestrator.ask("GET", f"{SAGAS}/{saga}")
    if change.dry_run:
        if as_json:
            print_json({"would_cancel": saga, "state": document.get("state"), "steps": document.get("steps", [])})
        else:
            say(f"{saga} would be cancelled; this is what it did so far:")
            print_timeline(document)
        return ExitCode.DONE
    change.confirm(f"Cancel {saga} and undo what it did?")
    asked = {"reason": change.reason, "actor": f"operator:{actor or operator.name}"}
    answer = orchestrator.answer("POST", f"{SAGAS}/{saga}/cancel", json=asked)
    if as_json:
        print_json({"http_status": answer.status_code, **document_of(answer)})
    else:
        say(f"{saga} is being cancelled; `tutti saga show {saga}` shows what is undone")
    return ExitCode.DONE


def print_timeline(document: Mapping[str, Any]) -> None:
    """The saga as bars over its time: one line a step, undo steps below their do."""
    state, workflow = document["state"], _workflow(document)
    console.print(
        f"{document['subject'] or '-'}  {workflow}  [bold]{state}[/bold]  saga {document['id']}", soft_wrap=True, highlight=False
    )
    for reason in document["reasons"]:
        console.print(f"  because {reason['code']}: {reason['detail']}", markup=False, soft_wrap=True)
    begin = _moment(document["started_at"])
    if begin is None:
        console.print("  was cancelled before its start", markup=False)
        return
    end = max((_moment(text) or 0.0 for text in _moments(document)), default=begin)
    span = max(end - begin, 0.001)
    ended = document["finished_at"] is not None
    for step in document["steps"]:
        _print_bar(step["id"], step["state"], step["attempts"], step, begin, span, ended=ended)
        if step["undo"] is not None:
            _print_bar(
                f"  undo {step['id']}", step["undo"]["state"], step["undo"]["attempts"], step["undo"], begin, span, ended=ended
            )
    console.print(f"  {'':<24}{'':<12}    0 ms{'':>{BAR_WIDTH - 10}}{span * 1000:.0f} ms")
    for wait in document["waits_for"]:
        console.print(f"  waits for {wait['step']} ({wait['direction']}) until {wait['by']}", markup=False)


def _moments(document: Mapping[str, Any]) -> list[str | None]:
    undos = [step["undo"] for step in document["steps"] if step["undo"]]
    return [
        document["finished_at"],
        *(part[name] for part in [*document["steps"], *undos] for name in ("sent_at", "answered_at")),
    ]


def _print_bar(name: str, state: str, attempts: int, part: Mapping[str, Any], begin: float, span: float, *, ended: bool) -> None:
    sent, answered = _moment(part["sent_at"]), _moment(part["answered_at"])
    if sent is None:
        console.print(f"  {name:<24}{state:<12}", markup=False)
        return
    # Without an answer it is still under way, or was given up when the saga ended.
    last = answered if answered is not None else min(time.time(), begin + span) if ended else time.time()
    start = min(int((sent - begin) / span * BAR_WIDTH), BAR_WIDTH - 1)
    length = max(1, min(int((last - sent) / span * BAR_WIDTH), BAR_WIDTH - start))
    again = f" ×{attempts}" if attempts > 1 else ""
    bar = " " * start + "█" * length
    console.print(
        f"  {name:<24}{state:<12}{bar:<{BAR_WIDTH}} {(last - sent) * 1000:.0f} ms{again}", markup=False, highlight=False
    )


def _moment(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None

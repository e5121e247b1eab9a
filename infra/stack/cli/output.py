"""How every command speaks: one JSON document with --json, a table for people, and exit codes that mean something.

0 done   1 ran, some items failed   2 usage   3 nothing matched   4 refused by policy or permission   5 cannot reach the system
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from infra.stack.local.home import Home, open_home

DONE: Final = 0
SOME_FAILED: Final = 1
USAGE: Final = 2
NOTHING_MATCHED: Final = 3
REFUSED: Final = 4
UNREACHABLE: Final = 5
HTTP_SECONDS_MAX: Final = 35.0
PIPE_COLUMNS: Final = 200

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

# What is piped into a file or a pager is not cut to the 80 columns that a terminal is taken to have.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS)
errors = Console(stderr=True)


def fail(code: int, message: str) -> NoReturn:
    """Says on stderr what happened and what to type next, and ends the command with the code."""
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def print_json(document: Any) -> None:
    """The one document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people; values are shown as they are, never as markup."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for position, column in enumerate(columns):
        # The first column is what the next command wants: an id cut at the terminal's width cannot be copied.
        table.add_column(column, no_wrap=position == 0, overflow="fold" if position else "ignore")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("[", "\\[")


def addresses(home: Home | None = None) -> Mapping[str, Any]:
    """addresses.json of the running stack. Ends the command with 5 and the remedy when there is none."""
    home = home or open_home()
    found = home.addresses()
    if not found or "ingress" not in found:
        fail(
            UNREACHABLE,
            f"no stack has been started in {home.path}; type `tutti up`, or set TUTTI_HOME to the home of one that runs",
        )
    return found


def token_of_operator(found: Mapping[str, Any]) -> str:
    """The operator's token: from TUTTI_OPERATOR_TOKEN, the file TUTTI_OPERATOR_TOKEN_FILE, or addresses.json."""
    if given := os.environ.get("TUTTI_OPERATOR_TOKEN"):
        return given
    if path := os.environ.get("TUTTI_OPERATOR_TOKEN_FILE"):
        return Path(path).read_text().strip()
    return str(found["operators"]["admin"]["token"])


def request(method: str, url: str, token: str, **arguments: Any) -> httpx2.Response:
    """One HTTP request. Ends the command with 5 when nobody answers, and with 4 when the credential is refused."""
    headers = {"Authorization": f"Bearer {token}", **arguments.pop("headers", {})}
    try:
        response = httpx2.request(method, url, headers=headers, timeout=HTTP_SECONDS_MAX, trust_env=False, **arguments)
    except httpx2.HTTPError as error:
        fail(UNREACHABLE, f"{url} does not answer ({type(error).__name__}); `tutti status` shows what runs, `tutti up` starts it")
    if response.status_code in (401, 403):
        fail(REFUSED, f"{url} refuses the credential: {detail(response)}")
    return response


def unless_refused(response: httpx2.Response, missing: str | None = None) -> httpx2.Response:
    """The answer, where it is none of refusal. Ends the command with 3 for 404 (saying `missing`), 4 for 409, 2 for 422, else 1."""
    if response.status_code == 404:
        fail(NOTHING_MATCHED, missing or detail(response))
    if response.is_error:
        fail({409: REFUSED, 422: USAGE}.get(response.status_code, SOME_FAILED), detail(response))
    return response


def detail(response: httpx2.Response) -> str:
    """What a problem document, or any other error answer, says."""
    try:
        document = response.json()
    except ValueError:
        return response.text[:300]
    if isinstance(document, dict):
        return str(document.get("detail") or document.get("title") or document)
    return str(document)[:300]

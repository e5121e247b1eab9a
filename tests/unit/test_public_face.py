"""What docs/public-face.md fixes is what the code has: paths, fields, states, exit codes, commands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dlq_tools.cli import app as dlq
from dlq_tools.domain import State as LetterState
from fastapi import APIRouter
from pydantic import SecretStr
from starlette.routing import Route

from infra.chassis import port
from infra.chassis.runtime import Runtime
from infra.stack.cli.main import app as tutti
from infra.stack.local.supervisor import State as ProcessState
from infra.terminal.exit_codes import ExitCode
from orchestrator.instance import State as SagaState
from orchestrator.instance import StepState
from services.ingress.domain import FINISHED, STATUSES
from services.ingress.finishes import Finishes
from services.ingress.http import openapi
from services.ingress.http.face import PartnerFace
from services.ingress.http.problems import TYPES
from services.ingress.settings import Settings
from services.ingress.wiring import build

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
FACE = (DOCS / "public-face.md").read_text()
EXIT_CODES = {
    "done": ExitCode.DONE,
    "ran, but some items failed": ExitCode.SOME_FAILED,
    "usage": ExitCode.USAGE,
    "nothing matched": ExitCode.NOTHING_MATCHED,
    "refused by policy or permission": ExitCode.REFUSED,
    "the system cannot be reached": ExitCode.UNREACHABLE,
}


def table(text: str, heading: str) -> dict[str, str]:
    """First cells and the rest of the rows of the table that begins with this heading."""
    rows = text.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [row.strip("| ").split(" | ", 1) for row in rows]
    return {first: rest[0] if rest else "" for first, *rest in cells}


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def calls(routes: list[Any]) -> set[tuple[str, str]]:
    found = [route for route in routes if isinstance(route, Route)]
    return {(method, route.path) for route in found for method in route.methods or () if method != "HEAD"}


@pytest.fixture(scope="module")
def partner_calls() -> set[tuple[str, str]]:
    settings = Settings(
        database_url="postgresql://ingress@nowhere.invalid/ingress",
        broker_url="amqp://nowhere.invalid/",
        operator_token="operator",
        api_key_pepper="a pepper of tests",
        orchestrator_url="http://nowhere.invalid",
        orchestrator_token="between us",
    )
    face = PartnerFace(Runtime(build(settings), settings), settings, Finishes(poll_seconds=1, waiters_max=1))
    return calls(face.application()._router.routes)


@pytest.fixture(scope="module")
def calls_of_every_process() -> set[tuple[str, str]]:
    # Routes are only listed here; none of their dependencies is asked.
    absent: Any = None
    router: APIRouter = port.routes(live=absent, ready=absent, engine=absent, token=SecretStr("operator"), reconcile=absent)
    return calls(router.routes)


def test_every_call_is_routed(partner_calls: set[tuple[str, str]], calls_of_every_process: set[tuple[str, str]]) -> None:
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/\S+)`", FACE))

    assert named - partner_calls - calls_of_every_process == set()
    assert partner_calls - named == set(), "a partner can call it, so it is fixed"


def test_an_order_has_the_fields_that_partners_read() -> None:
    fields = {name for cell in table(FACE, "field") for name in words(cell)}

    assert fields == set(openapi.document()["components"]["schemas"]["Order"]["properties"])


def test_an_error_has_the_members_that_partners_read() -> None:
    members = FACE.split("`application/problem+json` (RFC 9457): `", 1)[1].split("`", 1)[0].split()

    assert set(members) == set(openapi.document()["components"]["schemas"]["Problem"]["required"])


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_status_and_the_code_of_an_error_belong_together(page: Path) -> None:
    named = re.findall(r"\b([45][0-9]{2}) `([a-z-]+)`", page.read_text())

    assert [(status, code) for status, code in named if code not in TYPES or TYPES[code].status != int(status)] == []


def test_an_order_has_the_statuses_that_partners_read() -> None:
    before, ends = table(FACE, "field")["`status`"].split("one of the ends")
    explained = table((DOCS / "partners.md").read_text(), "`status`")

    assert set(words(ends)) == FINISHED
    assert set(words(before)) | set(words(ends)) == STATUSES
    assert {name for cell in explained for name in words(cell)} == STATUSES


def test_states_are_those_of_the_code() -> None:
    states = {what: set(words(cell)) for what, cell in table(FACE, "what").items()}

    assert states["process of an order"] == set(SagaState) - {SagaState.ABSENT}
    assert states["step of it"] == set(StepState)
    assert states["dead letter"] == set(LetterState) - {LetterState.ANNOUNCED}
    assert states["process of the stack"] <= set(ProcessState)


@pytest.mark.parametrize("page", ["public-face.md", "operators.md"])
def test_exit_codes_are_those_of_the_code(page: str) -> None:
    listed = table((DOCS / page).read_text(), "exit code")

    assert {int(code) for code in listed} == set(ExitCode)
    if page == "public-face.md":
        assert {meaning: int(code) for code, meaning in listed.items()} == EXIT_CODES


@pytest.mark.parametrize("program", ["tutti", "dlq"])
def test_every_command_is_named(program: str) -> None:
    missing = [
        name
        for name in commands(program, typer.main.get_command({"tutti": tutti, "dlq": dlq}[program]))
        if f"`{name}" not in FACE
    ]

    assert missing == []


def commands(name: str, command: Any) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield name
        return
    for part, inner in command.commands.items():
        yield from commands(f"{name} {part}", inner)


def test_what_is_measured_is_what_the_bench_reports() -> None:
    keys = {key for cell in table(FACE, "key") for key in words(cell)}
    source = (PROJECT / "tests/bench/__main__.py").read_text()

    assert {key for key in keys if f'"{key}"' not in source} == set()

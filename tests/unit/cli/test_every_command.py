"""What every command of `tutti` and `dlq` owes. Commands are found in the two programs: a new one is covered by being there."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
import typer.main
from dlq_tools.cli import app as dlq
from typer.testing import CliRunner, Result

from infra.stack.cli.main import app as tutti

PROGRAMS: dict[str, typer.Typer] = {"tutti": tutti, "dlq": dlq}
ORDER = Path(__file__).parents[3] / "docs/examples/order.json"
REASON = "a test's own"
ARGUMENTS = {"files": str(ORDER), "wire_name": "orders.order-accepted.v1"}

NEEDS_NO_STACK = {
    "tutti up": "it starts one",
    "tutti down": "what is down already is down",
    "tutti status": "it says so: the state is `down`, exit code 1",
    "tutti doctor": "it looks at the machine",
    "tutti reset": "it deletes what a stack that no longer runs left behind",
    "tutti logs": "it reads files, also those of a stack that has died",
    "tutti contracts list": "contracts are in the code",
    "tutti contracts show": "contracts are in the code",
    "tutti contracts check": "contracts are in the code",
}
READS = {
    *("tutti status", "tutti doctor", "tutti logs", "tutti reconcile"),
    *("tutti order show", "tutti order watch", "tutti saga list", "tutti saga show"),
    *("tutti contracts list", "tutti contracts show"),
    *("dlq list", "dlq campaign list", "dlq campaign show", "dlq retries list"),
}
CHANGES_WITHOUT_A_REASON = {
    "tutti up": "one's own stack; data persist, and `tutti down` takes it back",
    "tutti down": "one's own stack; data persist, and `tutti up` takes it back",
    "tutti reset": "it deletes the home in which a reason could be kept; it asks, and has --yes and --dry-run",
    "tutti order submit": "what a partner posts has no reason, and posting it again changes nothing",
    "tutti contracts check": "--write changes files of the project, whose history is git's",
    "dlq show": "only --reveal leaves a trace, and wants a reason itself",
}
REASON_IS_NOT_SENT = {"dlq retries now": "the processes' API takes ids alone"}


@dataclass(frozen=True)
class Command:
    """A command as typer knows it, and as it would be typed."""

    name: str
    parameters: tuple[Any, ...]

    @property
    def options(self) -> set[str]:
        return {option for parameter in self.parameters for option in parameter.opts}

    def typed(self, *further: str, reason: str = REASON) -> list[str]:
        """The words after the program's name: each argument, and a reason where one is wanted."""
        arguments = [ARGUMENTS.get(one.name, "x") for one in self.parameters if one.param_type_name == "argument"]
        reasons = ["--reason", reason] if self in CHANGING else []
        return [*self.name.split()[1:], *arguments, *reasons, *further]

    def run(self, *further: str, reason: str = REASON) -> Result:
        return CliRunner().invoke(PROGRAMS[self.name.split()[0]], self.typed(*further, reason=reason))


def commands(name: str, command: Any) -> Iterator[Command]:
    if not hasattr(command, "commands"):
        yield Command(name, tuple(command.params))
        return
    for part, inner in command.commands.items():
        yield from commands(f"{name} {part}", inner)


EVERY = [found for name, app in PROGRAMS.items() for found in commands(name, typer.main.get_command(app))]
CHANGING = [one for one in EVERY if one.name not in READS and one.name not in CHANGES_WITHOUT_A_REASON]


def each(found: list[Command]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", found, ids=[one.name for one in found])


class System(ThreadingHTTPServer):
    """All processes of a stack in one, which find everything and do everything, and note what they were asked to change."""

    asked: list[tuple[str, dict[str, Any]]]
    found: ClassVar[dict[str, Any]] = {
        "status": "running", "state": "running", "id": "x", "subject": None, "workflow": None, "reasons": [], "steps": [],
        "started_at": None, "items": 1, "discarded": 1, "refused": [], "unknown": [], "campaign": None, "resolved": 0,
        "failed_again": 0, "pending": 0, "dry_run": False, "moved": ["x"],
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, System)
        answer = json.dumps(self.server.found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        assert isinstance(self.server, System)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if not (isinstance(body, dict) and body.get("dry_run")):
            self.server.asked.append((self.path, body))
        self.do_GET()

    do_PUT = do_PATCH = do_DELETE = do_POST

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what is asked is no news in a test."""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of a stack that has never been started."""
    for name in [name for name in os.environ if name.startswith("TUTTI_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "home"
    monkeypatch.setenv("TUTTI_HOME", str(path))
    return path


@pytest.fixture
def system(home: Path) -> Iterator[System]:
    """A stack whose home names the one server as each of its processes."""
    with System(("127.0.0.1", 0), _Handler) as running:
        running.asked = []
        url = f"http://127.0.0.1:{running.server_address[1]}"
        home.mkdir()
        document = {
            **dict.fromkeys(("ingress", "orchestrator", "dead_letters"), url),
            "services": {"all": url},
            "partners": {"acme": {"api_key": "k"}},
            "operators": {"admin": {"token": "t"}},
        }
        (home / "addresses.json").write_text(json.dumps(document))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_the_exceptions_are_commands_that_exist() -> None:
    named = {*NEEDS_NO_STACK, *READS, *CHANGES_WITHOUT_A_REASON, *REASON_IS_NOT_SENT}

    assert named - {one.name for one in EVERY} == set()
    assert {one.name for one in CHANGING} == {
        "tutti order cancel", "tutti saga cancel", "dlq replay", "dlq discard", "dlq retries now",
    }  # fmt: skip


@each(EVERY)
def test_every_command_speaks_to_programs(command: Command) -> None:
    assert "--json" in command.options


@each(CHANGING)
def test_what_changes_something_says_why_and_asks_and_can_be_tried(command: Command) -> None:
    assert {"--reason", "--yes", "--dry-run"} <= command.options
    assert [one.required for one in command.parameters if "--reason" in one.opts] == [True]


@each([one for one in EVERY if one.name not in NEEDS_NO_STACK])
def test_without_a_stack_the_remedy_is_named(command: Command, home: Path) -> None:
    for_people, for_programs = command.run(), command.run("--json")

    assert (for_people.exit_code, for_people.stdout) == (5, ""), for_people.stderr
    assert "tutti up" in for_people.stderr
    assert for_programs.exit_code == 5
    said = json.loads(for_programs.stdout)
    assert (set(said), said["exit_code"]) == ({"error", "exit_code"}, 5)
    assert said["error"] in for_programs.stderr
    assert not home.exists()


@each([one for one in EVERY if one.name in NEEDS_NO_STACK and one.name != "tutti up"])
def test_what_needs_no_stack_gives_one_document_without_one(command: Command) -> None:
    further = ["--dry-run"] if "--dry-run" in command.options else []

    said = command.run("--json", *further)

    assert said.exit_code in (0, 1, 3), said.stderr
    assert json.loads(said.stdout) is not None


@each([*CHANGING, *(one for one in EVERY if one.name == "tutti reset")])
@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["for people", "for programs"])
def test_where_nobody_can_be_asked_nothing_is_changed(command: Command, json_: list[str], system: System) -> None:
    said = command.run(*json_)

    assert (said.exit_code, system.asked) == (2, []), said.stderr
    assert "--yes" in said.stderr
    assert [json.loads(said.stdout)["exit_code"]] == [2] if json_ else said.stdout == ""


@each(CHANGING)
@pytest.mark.parametrize("reason", ["", " \t"])
def test_a_reason_that_says_nothing_is_none(command: Command, reason: str, system: System) -> None:
    said = command.run("--yes", "--json", reason=reason)

    assert (said.exit_code, system.asked) == (2, [])
    assert "--reason" in json.loads(said.stdout)["error"]


@each(CHANGING)
@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["for people", "for programs"])
def test_what_is_only_tried_changes_nothing(command: Command, json_: list[str], system: System) -> None:
    said = command.run("--dry-run", *json_)

    assert (said.exit_code, system.asked, said.stderr) == (0, [], "")
    assert said.stdout
    assert not json_ or isinstance(json.loads(said.stdout), dict)


@each(CHANGING)
def test_what_is_done_is_done_for_a_reason_by_somebody(command: Command, system: System) -> None:
    said = command.run("--yes", "--json")
    [(_, sent)] = system.asked

    assert said.exit_code == 0, said.stderr
    assert isinstance(json.loads(said.stdout), dict)
    if command.name not in REASON_IS_NOT_SENT:
        assert sent["reason"] == REASON
    if "--actor" in command.options:
        assert sent["actor"] in ("admin", "operator:admin")


@each([one for one in CHANGING if "--actor" in one.options])
def test_a_token_of_ones_own_is_an_operators_and_another_name_can_be_given(
    command: Command, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTTI_OPERATOR_TOKEN", "of-somebody")

    command.run("--yes")
    command.run("--yes", "--actor", "mia")

    assert [sent["actor"].removeprefix("operator:") for _, sent in system.asked] == ["operator", "mia"]

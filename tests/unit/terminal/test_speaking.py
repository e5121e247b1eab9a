"""How a command ends: exit code, words, and for programs one document."""

import io
import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from infra.terminal.changing import Change, changing, confirm
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure, Misused, NotAllowed, NotFound, Unreachable
from infra.terminal.options import Json, given
from infra.terminal.output import print_json, print_table
from infra.terminal.speaking import speaks

EACH = [Failure, Misused, NotFound, NotAllowed, Unreachable]


def app_that(command: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)  # type: ignore[type-var]
    return app


def failing(failure: Failure) -> typer.Typer:
    @speaks
    def command(as_json: Json = False) -> ExitCode:
        raise failure

    return app_that(command)


@pytest.mark.parametrize("kind", EACH)
def test_a_failure_is_one_document_for_programs_and_words_for_people(kind: type[Failure]) -> None:
    said = CliRunner().invoke(failing(kind("the [pivot] is past")), ["--json"])

    assert said.exit_code == kind.code
    assert json.loads(said.stdout) == {"error": "the [pivot] is past", "exit_code": kind.code}
    assert said.stderr == "the [pivot] is past\n"


def test_the_exit_codes_are_those_that_scripts_are_written_against() -> None:
    assert [int(kind.code) for kind in EACH] == [1, 2, 3, 4, 5]
    assert int(ExitCode.DONE) == 0


def test_without_json_nothing_but_words_is_said() -> None:
    said = CliRunner().invoke(failing(NotFound("there is none; see `dlq list`")), [])

    assert (said.exit_code, said.stdout, said.stderr) == (3, "", "there is none; see `dlq list`\n")


def test_words_are_not_broken_in_the_middle_of_a_command_to_be_copied() -> None:
    words = "word " * 60 + "`tutti saga list`"

    assert CliRunner().invoke(failing(Failure(words)), []).stderr == f"{words}\n"


def changes(did: list[str]) -> typer.Typer:
    @speaks
    @given(change=changing)
    def command(change: Change, name: str, as_json: Json = False) -> ExitCode:
        change.confirm(f"Change {name}?")
        did.append(f"{name} because {change.reason}")
        return ExitCode.DONE

    return app_that(command)


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_where_nobody_can_be_asked_yes_has_to_be_said(json_: list[str]) -> None:
    did: list[str] = []

    said = CliRunner().invoke(changes(did), ["it", "--reason", "a test", *json_])

    assert (said.exit_code, did) == (2, [])
    assert "--yes" in said.stderr


@pytest.mark.parametrize("reason", ["", "  ", "\t\n"])
def test_a_reason_says_something(reason: str) -> None:
    did: list[str] = []

    said = CliRunner().invoke(changes(did), ["it", "--reason", reason, "--yes", "--json"])

    assert (said.exit_code, did) == (2, [])
    assert json.loads(said.stdout)["exit_code"] == 2
    assert "--reason" in said.stderr


def test_options_and_arguments_of_both_reach_the_command() -> None:
    did: list[str] = []

    said = CliRunner().invoke(changes(did), ["it", "--reason", "a test", "--yes"])

    assert (said.exit_code, said.stderr, did) == (0, "", ["it because a test"])


class Person(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_the_answer_decides(monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    monkeypatch.setattr(sys, "stdin", Person(f"{answer}\n"))

    if goes_on:
        confirm("Really?", yes=False)
    else:
        with pytest.raises(NotAllowed, match="nothing was changed"):
            confirm("Really?", yes=False)


def test_a_document_may_have_what_no_stream_takes(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "Zoë \ud800", "title": "\x1b]0;x\x07 \x9b2J"}

    print_json(document)

    out = capsys.readouterr().out
    assert json.loads(out) == document
    assert out.isascii()
    assert "\x1b" not in out
    assert out.startswith('{\n  "name"')


def test_a_table_shows_values_as_they_are_and_ids_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("two", ("id", "what"), [("x" * 70, "[red]no[/red] [1, 2]"), ("y", None)])

    out = capsys.readouterr().out
    assert "x" * 70 in out
    assert "[red]no[/red] [1, 2]" in out
    assert "None" not in out

"""`tutti up|reset|logs` where they refuse, and what they say of a home to programs."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.stack.cli.main import app


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("TUTTI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TUTTI_HOME", str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/credit.log").write_text("one\ntwo\n")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("words", [("up",), ("logs", "credit", "--follow")])
def test_what_never_ends_is_no_document(words: tuple[str, ...]) -> None:
    said = run(*words, "--json")

    assert (said.exit_code, json.loads(said.stdout)["exit_code"]) == (2, 2)


def test_logs_are_names_or_lines() -> None:
    assert json.loads(run("logs", "--json").stdout) == ["credit"]
    assert json.loads(run("logs", "credit", "-n", "1", "--json").stdout) == ["two"]
    assert run("logs", "credit").stdout == "one\ntwo\n"


def test_a_log_that_is_not_there_matches_nothing() -> None:
    said = run("logs", "tea", "--json")

    assert (said.exit_code, "credit" in said.stderr) == (3, True)


def test_a_reset_is_tried_or_done(home: Path) -> None:
    tried = run("reset", "--dry-run", "--json")
    left = sorted(home.iterdir())
    done = run("reset", "--yes", "--json")

    assert json.loads(tried.stdout) == {"home": str(home), "dry_run": True}
    assert left
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"home": str(home), "dry_run": False})
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_written_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTTI_HOME", os.devnull)

    said = run("status", "--json")

    assert (said.exit_code, json.loads(said.stdout)["exit_code"]) == (1, 1)
    assert "TUTTI_HOME" in said.stderr

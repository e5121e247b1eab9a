"""Where the stack is and as whom a command acts: the environment, a file, the home's addresses."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.terminal.addresses import home_path, read_addresses
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure, Misused, Unreachable
from infra.terminal.operators import Operator, operator_of

KNOWN = {"viewer": {"token": "t-viewer"}, "admin": {"token": "t-admin"}}


def write(home: Path, **document: Any) -> None:
    home.mkdir()
    (home / "addresses.json").write_text(json.dumps(document))


def acting() -> Operator:
    return operator_of(read_addresses())


def test_admin_acts_where_nobody_else_is_named(home: Path) -> None:
    write(home, operators=KNOWN)

    assert acting() == Operator("admin", "t-admin")


def test_a_token_from_the_environment_goes_first_and_keeps_its_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, operators=KNOWN)
    monkeypatch.setenv("TUTTI_OPERATOR_TOKEN", "t-viewer")

    assert acting() == Operator("viewer", "t-viewer")


def test_a_token_that_the_home_does_not_know_is_an_operators(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTTI_OPERATOR_TOKEN", "t-elsewhere")

    assert acting() == Operator("operator", "t-elsewhere")


def test_a_token_may_be_in_a_file(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t-viewer\n")
    write(home, operators=KNOWN)
    monkeypatch.setenv("TUTTI_OPERATOR_TOKEN_FILE", str(tmp_path / "token"))

    assert acting() == Operator("viewer", "t-viewer")


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_token_file_that_says_nothing_is_not_replaced_by_admins(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    write(home, operators=KNOWN)
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    monkeypatch.setenv("TUTTI_OPERATOR_TOKEN_FILE", str(tmp_path / "token"))

    with pytest.raises(Unreachable, match="TUTTI_OPERATOR_TOKEN_FILE"):
        acting()


def test_without_a_token_the_remedy_is_named(home: Path) -> None:
    write(home, operators={"viewer": KNOWN["viewer"]})

    with pytest.raises(Unreachable, match="tutti up"):
        acting()


def test_looking_for_a_stack_creates_nothing(home: Path) -> None:
    with pytest.raises(Unreachable, match="no stack has been started"):
        read_addresses().url("ingress")

    assert not home.exists()


@pytest.mark.parametrize("content", ["{", '{"a": \xff'])
def test_damaged_addresses_are_named(home: Path, content: str) -> None:
    home.mkdir()
    (home / "addresses.json").write_bytes(content.encode("latin-1"))

    with pytest.raises(Unreachable, match=r"addresses\.json cannot be read"):
        read_addresses()


def test_a_partner_that_is_not_there_is_wrong_usage_and_the_others_are_named(home: Path) -> None:
    write(home, partners={"acme": {"api_key": "k"}})

    assert read_addresses().api_key("acme") == "k"
    with pytest.raises(Misused, match="acme"):
        read_addresses().api_key("hooli")


def test_servers_alone_are_no_stack(home: Path) -> None:
    write(home, broker="amqp://x", database="postgresql://x")

    for ask in (lambda: read_addresses().url("ingress"), read_addresses().services, lambda: read_addresses().api_key("acme")):
        with pytest.raises(Failure) as failed:
            ask()
        assert failed.value.code is ExitCode.UNREACHABLE


def test_the_home_is_the_projects_unless_another_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_path() == home
    monkeypatch.delenv("TUTTI_HOME")

    assert home_path() == Path(__file__).parents[3] / ".tutti"

"""What a status means for the exit code, and whose words are shown."""

import json

import pytest

from infra.terminal.client import Client
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure
from tests.unit.terminal.conftest import Answering


def failure_of(server: Answering, status: int, body: bytes, missing: str | None = None) -> Failure:
    server.status, server.body = status, body
    with pytest.raises(Failure) as failed:
        Client(server.url, "t").ask("GET", "/any", missing=missing)
    return failed.value


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.USAGE),
        (401, ExitCode.REFUSED),
        (403, ExitCode.REFUSED),
        (404, ExitCode.NOTHING_MATCHED),
        (409, ExitCode.REFUSED),
        (415, ExitCode.SOME_FAILED),
        (422, ExitCode.USAGE),
        (429, ExitCode.SOME_FAILED),
        (500, ExitCode.UNREACHABLE),
        (502, ExitCode.UNREACHABLE),
        (503, ExitCode.UNREACHABLE),
        (302, ExitCode.UNREACHABLE),
    ],
)
def test_a_status_has_its_exit_code_and_the_words_of_who_answers(server: Answering, status: int, code: ExitCode) -> None:
    failure = failure_of(server, status, b'{"title": "No", "detail": "the pivot is past"}')

    assert failure.code is code
    assert "the pivot is past" in str(failure)


def test_who_has_better_words_for_a_404_says_them(server: Answering) -> None:
    assert str(failure_of(server, 404, b'{"detail": "not found"}', missing="no such order")) == "no such order"


def test_each_place_of_a_refused_input_is_named(server: Answering) -> None:
    problems = [{"loc": ["query", "state"], "msg": "is none"}, {"loc": ["query", "limit"], "msg": "is too large"}]

    words = str(failure_of(server, 422, json.dumps({"detail": problems}).encode()))

    assert words == "query/state: is none; query/limit: is too large"


@pytest.mark.parametrize("body", [b"<html>", b'"plain"', b"[1]", b"", b"{}"])
def test_an_error_is_an_error_however_it_is_written(server: Answering, body: bytes) -> None:
    assert failure_of(server, 409, body).code is ExitCode.REFUSED


def test_a_success_that_is_no_json_is_somebody_else_listening(server: Answering) -> None:
    failure = failure_of(server, 200, b"<html>")

    assert failure.code is ExitCode.UNREACHABLE
    assert server.url in str(failure)


def test_the_answer_is_a_document(server: Answering) -> None:
    server.body = b'{"items": 1}'

    assert Client(f"{server.url}/", "t").ask("GET", "/any") == {"items": 1}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[", "http://127.0.0.1:99999999"])
def test_without_an_answer_the_system_cannot_be_reached(url: str) -> None:
    with pytest.raises(Failure) as failed:
        Client(url, "t").ask("GET", "/any")

    assert failed.value.code is ExitCode.UNREACHABLE
    assert "tutti up" in str(failed.value)

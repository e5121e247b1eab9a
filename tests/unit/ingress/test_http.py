"""The parts of the HTTP side that need no request: headers, bodies, credentials, quotas, problems."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from services.ingress.http.body import check_media_type, parse_json
from services.ingress.http.credentials import Credentials, bearer
from services.ingress.http.preconditions import idempotency_key, is_known, preferred_wait
from services.ingress.http.problems import TYPES, Problem, documentation
from services.ingress.http.quota import Quotas
from services.ingress.keys import Account, ApiKey, new_key, parse_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEPPER = b"pepper"
ERRORS_PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in pairs])


def code(raised: pytest.ExceptionInfo[Problem]) -> str:
    return raised.value.kind.code


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        (" abc ", "abc"),
        ('"abc"', "abc"),
        ('"a,b"', "a,b"),
        (r'"a\"b\\c"', r'a"b\c'),
        ("a b", "a b"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("k" * 255, "k" * 255),
        ('"' + "k" * 255 + '"', "k" * 255),
    ],
)
def test_a_key_is_read_quoted_and_bare(value: str, key: str) -> None:
    assert idempotency_key(headers(("idempotency-key", value))) == key


@pytest.mark.parametrize("value", ["", " ", '""'])
def test_an_empty_key_is_no_key(value: str) -> None:
    with pytest.raises(Problem) as raised:
        idempotency_key(headers(("idempotency-key", value)))
    assert code(raised) == "idempotency-key-missing"


@pytest.mark.parametrize("value", ["k" * 256, "a,b", '"a', 'a"b"' + "\x00", "caf\xe9", '"a"b"', '"\x07"', r'"a\b"'])
def test_a_malformed_key_is_refused(value: str) -> None:
    with pytest.raises(Problem) as raised:
        idempotency_key(headers(("idempotency-key", value)))
    assert code(raised) == "idempotency-key-invalid"


def test_two_keys_are_one_too_many() -> None:
    with pytest.raises(Problem) as raised:
        idempotency_key(headers(("idempotency-key", "a"), ("idempotency-key", "a")))
    assert code(raised) == "idempotency-key-invalid"


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["wait=5"], 5),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=5; foo=bar"], 5),
        (["respond-async", "wait=7"], 7),
        (["wait=3, wait=9"], 3),
        (["wait=31"], 30),
        (["wait=999999999"], 30),
        (["wait=9999999999999"], None),
        (["wait=0"], None),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["wait"], None),
        (["await=5"], None),
    ],
)
def test_a_wish_to_wait_is_clamped_or_ignored(values: list[str], seconds: int | None) -> None:
    assert preferred_wait(headers(*[("prefer", value) for value in values]), 30) == seconds


@pytest.mark.parametrize(
    ("value", "known"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False), ("", False)],
)
def test_a_representation_is_known_by_its_tag(value: str, known: bool) -> None:
    assert is_known('"a"', headers(("if-none-match", value))) is known


@pytest.mark.parametrize("value", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'])
def test_plain_json_is_taken(value: str) -> None:
    check_media_type(headers(("content-type", value), ("content-encoding", "identity")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"\xff{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e400}',
        b'{"a":1,"a":1}',
        b'{"b":{"a":1,"a":1}}',
        b'{"a":"\\ud800"}',
        b'{"a":1}x',
        b"[" * 5000,
        b'{"a":' * 5000,
        b'{"a":' + b"1" * 5000 + b"}",
        b"[NaN]",
        b"tru",
        b"'a'",
    ],
)
def test_what_is_not_strict_json_is_400(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        parse_json(body)
    assert code(raised) == "invalid-json"


@pytest.mark.parametrize("body", [b"[]", b" [{}]", b"null", b"1", b'"a"', b"true"])
def test_json_that_is_no_object_violates_the_schema(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        parse_json(body)
    assert code(raised) == "validation-failed"
    assert [error.pointer for error in raised.value.errors] == [""]


def test_a_key_survives_its_text_and_never_shows_its_secret() -> None:
    key = new_key()

    assert parse_key(key.reveal()) == key
    assert key.secret not in repr(key)
    assert parse_key(key.reveal() + "\n") is None


def account(key: ApiKey, **changes: object) -> Account:
    given = {"scopes": frozenset[str](), "requests_per_minute": 1, **changes}
    return Account("acme", key.key_id, key.hashed(PEPPER), **given)  # type: ignore[arg-type]  # a table of changes


def test_a_key_opens_its_account_only_while_it_lives() -> None:
    key = new_key()
    later, earlier = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)

    assert account(key).opens_with(key, PEPPER, NOW)
    assert account(key, expires_at=later).opens_with(key, PEPPER, NOW)
    assert not account(key, expires_at=NOW).opens_with(key, PEPPER, NOW)
    assert not account(key, revoked_at=earlier).opens_with(key, PEPPER, NOW)
    assert not account(key).opens_with(key, b"another pepper", NOW)
    assert not account(key).opens_with(ApiKey(key.key_id, new_key().secret), PEPPER, NOW)


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer tk_short_x", "Token tk_12345678_" + "a" * 64]
)
def test_what_is_no_bearer_key_is_401(value: str | None) -> None:
    with pytest.raises(Problem) as raised:
        bearer(value)
    assert code(raised) == "unauthorized"
    assert "WWW-Authenticate" in raised.value.headers


async def test_an_account_is_looked_up_once_for_many_requests() -> None:
    key = new_key()
    asked: list[str] = []

    async def find(key_id: str) -> Account | None:
        asked.append(key_id)
        await asyncio.sleep(0)
        return account(key)

    credentials = Credentials(find, PEPPER, cache_seconds=60, cache_size_max=10, now=lambda: NOW)
    found = await asyncio.gather(*[credentials.account(key) for _ in range(20)])

    assert [one.partner_id for one in found if one] == ["acme"] * 20
    assert asked == [key.key_id]
    assert credentials.take_used() == {key.key_id}
    assert credentials.take_used() == set()


async def test_a_failed_look_up_is_not_remembered() -> None:
    key = new_key()
    answers: list[OSError | Account] = [OSError("away"), account(key)]

    async def find(_: str) -> Account | None:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    credentials = Credentials(find, PEPPER, cache_seconds=60, cache_size_max=10, now=lambda: NOW)
    with pytest.raises(OSError, match="away"):
        await credentials.account(key)

    assert await credentials.account(key) is not None


async def test_what_is_remembered_of_strangers_is_bounded() -> None:
    asked: list[str] = []

    async def find(key_id: str) -> Account | None:
        asked.append(key_id)
        return None

    credentials = Credentials(find, PEPPER, cache_seconds=60, cache_size_max=3, now=lambda: NOW)
    keys = [new_key() for _ in range(5)]
    for key in [*keys, keys[-1], keys[0]]:
        assert await credentials.account(key) is None

    assert asked == [key.key_id for key in [*keys, keys[0]]]


async def test_a_quota_counts_down_and_then_refuses() -> None:
    quotas = Quotas()

    seen = [await quotas.hit("acme", 2) for _ in range(3)]

    assert [(quota.allowed, quota.remaining) for quota in seen] == [(True, 1), (True, 0), (False, 0)]
    assert 1 <= seen[2].reset_seconds <= 60
    assert (await quotas.hit("globex", 2)).allowed
    assert dict(seen[0].headers())[b"ratelimit-policy"] == b'"requests";q=2;w=60'


def test_the_page_about_errors_is_generated() -> None:
    assert ERRORS_PAGE.read_text() == documentation(), "run: python -m services.ingress.http.problems > docs/errors.md"


def test_codes_are_their_own_keys() -> None:
    assert all(name == kind.code for name, kind in TYPES.items())

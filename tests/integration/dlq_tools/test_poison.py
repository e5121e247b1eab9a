"""Poison of every kind ends as a dead letter with its bytes intact, and whatever came beside it is handled."""

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pamqp.encode
import pytest

from infra.broker.publisher import Outgoing
from tests.integration.dlq_tools.system import System, limit_changed, structured
from tests.support.waiting import wait_until

NAME = "credit.limit-changed.v2"
DEAD_LETTER_SECONDS_MAX = 5.0
# Enough to share batches with each other and their neighbours.
TOGETHER = 6
OUT_OF_RANGE = datetime(2001, 1, 1, tzinfo=UTC)
NOT_UTF8 = "text/not-utf-8"


@dataclass(frozen=True)
class Poison:
    """A bad message. `user` publishes it; the administrator can do what no system's permissions allow."""

    name: str
    message: Outgoing
    user: str = "erp"
    extra: dict[str, Any] | None = None


def buyer(name: str) -> str:
    return "P-" + "".join(letter for letter in name if letter.isascii() and letter.isalnum())


def valid(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(limit_changed(buyer(name)).to_bytes())
    return document


def poisoned(name: str, body: bytes | None = None, user: str = "erp", **properties: Any) -> Poison:
    message = structured(limit_changed(buyer(name)), user)
    if body is not None:
        message = replace(message, body=body)
    if user == "admin":
        properties = {"user_id": "", **properties}
    return Poison(name, replace(message, **properties), user)


def with_properties(name: str, body: bytes, **extra: Any) -> Poison:
    return replace(poisoned(name, body), extra=extra)


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Poison:
    document = valid(name)
    change(document)
    return poisoned(name, json.dumps(document).encode())


def spliced(name: str, old: bytes, new: bytes) -> Poison:
    body = limit_changed(buyer(name)).to_bytes()
    assert old in body
    return poisoned(name, body.replace(old, new, 1))


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"end": "here"}
    for _ in range(depth):
        table = {"t": table}
    return table


def poison_set() -> list[Poison]:
    bomb = gzip.compress(b"\0" * 100_000_000, 9)
    typed = "credit.limit-changed."
    return [
        poisoned("malformed", b'{"specversion": "1.0", '),
        poisoned("empty", b""),
        poisoned("nul bytes", b"\x00\x00\x00"),
        changed("wrong type for a field", lambda d: d["data"].update(sequence="one")),
        changed("missing field", lambda d: d["data"].pop("limit")),
        changed("unknown message type", lambda d: d.update(type="credit.never-heard-of.v1")),
        poisoned("version too old", user="admin", body=_typed("v0"), routing_key=typed + "v0"),
        poisoned("version is no number", user="admin", body=_typed("vX"), routing_key=typed + "vX"),
        poisoned("wrong content type", content_type="text/plain"),
        poisoned("no content type", content_type=""),
        with_properties("gzip that is garbage", b"\x1f\x8bgarbage", content_encoding="gzip"),
        with_properties("gzip bomb", bomb, content_encoding="gzip"),
        with_properties("valid but said to be gzip", limit_changed("P-z").to_bytes(), content_encoding="gzip"),
        with_properties("reply wanted", b"{ reply", reply_to="credit.commands"),
        with_properties("expires", b"{ expires", expiration=60.0),
        with_properties("no message id", b"{ nameless", message_id=None),
        poisoned("gzip bomb twice", gzip.compress(bomb, 9)),
        poisoned("20 MiB", b'{"x": "' + b"x" * (20 * 1024 * 1024) + b'"}'),
        poisoned("nested 100,000 deep", b"[" * 100_000 + b"]" * 100_000),
        poisoned("objects nested 100,000 deep", b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
        spliced("escaped nul", b"annual review", rb"\u0000"),
        changed("escaped nul in the id", lambda d: d.update(id="a\u0000b")),
        spliced("lone surrogate", b"annual review", rb"\ud800"),
        spliced("invalid utf-8", b"annual review", b"\xff\xfe"),
        spliced("5,000-digit integer", b"1000000", b"9" * 5000),
        spliced("nan", b"1000000", b"NaN"),
        spliced("infinity", b"1000000", b"Infinity"),
        spliced("1e999", b"1000000", b"1e999"),
        spliced("the same key twice", b'"sequence":1', b'"sequence":1,"sequence":2'),
        poisoned("3 MB of empty objects", b"[" + b"{}," * 1_000_000 + b"{}]"),
        poisoned("100 KiB header", headers={"x-long": "x" * 100 * 1024}),
        poisoned("headers nested, body bad", b"{ headers nested, body bad", headers={"deep": nested(30)}),
        poisoned(
            "headers of odd types",
            b"{ headers of odd types",
            headers={"ce-id": 1.5, "list": [1, None], "bytes": bytearray(b"\xff")},
        ),
        poisoned("binary mode without attributes", b"{}", content_type="application/json"),
        poisoned("spoofed x-death", b"{ spoofed x-death", headers={"x-death": [{"queue": "other", "count": 99}]}),
        poisoned("spoofed x-failure", b"{ spoofed x-failure", headers={"x-failure": '{"id": "dl_spoofed", "queue": "other"}'}),
        poisoned(
            "spoofed replay", b"{ spoofed replay", headers={"x-replay": "dl_spoofed 7", "x-original-sender": "orchestrator"}
        ),
        poisoned("copies", b"{ copies", headers={"CC": ["pricing.commands"], "BCC": ["pricing.commands"]}),
        poisoned("type other than the routing key", changed("t", lambda d: d.update(type=f"{typed}v1")).message.body),
        poisoned("long routing key", user="admin", routing_key=typed + "v" * (255 - len(typed))),
        poisoned("time beyond every calendar", b"{1", timestamp=OUT_OF_RANGE),
        poisoned("content type is not utf-8", b"{2", content_type=NOT_UTF8),
    ]


def _typed(version: str) -> bytes:
    document = valid(version)
    document["type"] = f"credit.limit-changed.{version}"
    return json.dumps(document).encode()


@pytest.fixture
def frames_that_no_library_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two properties are marshalled as bytes that our own library refuses to write and to read."""
    text, moment = pamqp.encode.METHODS["shortstr"], pamqp.encode.METHODS["timestamp"]

    def bad_text(value: Any) -> bytes:
        return b"\x02\xff\xfe" if value == NOT_UTF8 else text(value)

    def bad_moment(value: Any) -> bytes:
        return struct.pack(">Q", 2**63) if value == OUT_OF_RANGE else moment(value)

    monkeypatch.setitem(pamqp.encode.METHODS, "shortstr", bad_text)
    monkeypatch.setitem(pamqp.encode.METHODS, "timestamp", bad_moment)


@pytest.mark.usefixtures("frames_that_no_library_writes")
async def test_poison_ends_as_a_dead_letter_with_its_bytes_and_its_neighbours_are_handled(system: System) -> None:
    poison = poison_set()
    async with system.running_desk(), system.running_credit():
        found: list[dict[str, Any]] = []
        for start in range(0, len(poison), TOGETHER):
            for position, one in enumerate(poison[start : start + TOGETHER], start):
                await system.publish("erp", structured(limit_changed(f"N-{position}a"), "erp"))
                if one.extra is None:
                    await system.publish(one.user, one.message)
                else:
                    await system.publish_as_it_is("erp", one.message, **one.extra)
                await system.publish("erp", structured(limit_changed(f"N-{position}b"), "erp"))
            found = await letters_of(system, min(start + TOGETHER, len(poison)))

        assert len(found) == len(poison), [item["error"] for item in found]
        bodies = {item["id"]: await system.letter_body(item["id"]) for item in found}
        missing = [one.name for one in poison if one.message.body not in bodies.values()]
        assert not missing
        assert {item["kind"] for item in found} == {"permanent"}
        assert {item["state"] for item in found} == {"open"}
        assert "dl_spoofed" not in bodies
        lines = await wait_until(
            lambda: system.rows("credit", "SELECT buyer_id FROM credit_line WHERE limit_minor > 0"),
            lambda rows: len(rows) >= 2 * len(poison),
        )
        assert {line[0] for line in lines} == {f"N-{n}{side}" for n in range(len(poison)) for side in "ab"}
        # Nothing of a bad message acted a second time.
        assert await system.rows("credit", "SELECT count(*) FROM outbox WHERE parked") == [(0,)]


async def letters_of(system: System, least: int) -> list[dict[str, Any]]:
    return await wait_until(
        lambda: system.letters(queue="credit.events"), lambda letters: len(letters) >= least, within=DEAD_LETTER_SECONDS_MAX
    )


async def test_a_version_that_is_too_new_waits_for_its_deployment(system: System) -> None:
    document = valid("new") | {"type": "credit.limit-changed.v9"}
    body = json.dumps(document).encode()
    message = poisoned("new", body, routing_key="credit.limit-changed.v9").message
    async with system.running_desk(), system.running_credit(unknown_version_attempts_max=2, retry_first_seconds=0.1):
        await system.publish("erp", message)

        [letter] = await wait_until(lambda: system.letters())

    assert letter["error_class"] == "UnknownVersion"
    assert letter["attempts"] == 2

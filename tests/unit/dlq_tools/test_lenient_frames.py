"""Frames that pamqp cannot read must not cost a connection."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import commands, decode, encode
from pamqp.header import ContentHeader

from infra.broker import lenient_frames


@pytest.fixture(autouse=True)
def lenient() -> Iterator[None]:
    methods, mapping = dict(decode.METHODS), dict(decode.TABLE_MAPPING)
    lenient_frames.install()
    yield
    decode.METHODS.update(methods)
    decode.TABLE_MAPPING.update(mapping)


def read(marshalled: bytes) -> commands.Basic.Properties:
    header = ContentHeader()
    header.unmarshal(marshalled)
    properties: commands.Basic.Properties = header.properties
    return properties


def written(**properties: Any) -> bytes:
    return ContentHeader(0, 1, commands.Basic.Properties(message_id="after", **properties)).marshal()


def test_what_can_be_read_is_read_as_before() -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    found = read(written(content_type="text/ü", timestamp=moment, headers={"a": {"b": [1, None, "x"]}}))
    assert (found.content_type, found.timestamp, found.headers) == ("text/ü", moment, {"a": {"b": [1, None, "x"]}})


def test_text_that_is_not_utf8_shows_its_bytes() -> None:
    found = read(written(content_type="ab").replace(b"\x02ab", b"\x02\xff\xfe"))
    assert (found.content_type, found.message_id) == ("\\xff\\xfe", "after")


def test_a_time_that_no_calendar_has_is_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encode.METHODS, "timestamp", lambda _: struct.pack(">Q", 2**63))
    found = read(written(timestamp=datetime.now(UTC)))
    assert found.timestamp == datetime.fromtimestamp(0, tz=UTC)


@pytest.mark.parametrize("broken", [b"\x01a?", b"\x01\xffS\x00\x00\x00\x01x", b"\x01aT" + b"\xff" * 8, b"\xf0a"])
def test_a_table_with_anything_unreadable_is_one_marker_and_what_follows_is_read(broken: bytes) -> None:
    whole = written(headers={"k": "value"})
    table = encode.field_table({"k": "value"})
    found = read(whole.replace(table, struct.pack(">I", len(broken)) + broken))
    assert found.headers is not None
    assert found.message_id == "after"

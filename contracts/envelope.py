"""The envelope: CloudEvents 1.0 on AMQP 0-9-1, strict in both directions.

We emit the structured mode (one JSON object in the body) and accept the binary mode too (`ce-` headers, the payload in the
body), as in the CloudEvents SDK and the Knative RabbitMQ binding. Every fault of a message is an
`EnvelopeError` with the attribute's name. What the payload means is not looked at here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import from_json, to_json

STRUCTURED: Final = "application/cloudevents+json"
JSON: Final = "application/json"
BODY_BYTES_MAX: Final = 256 * 1024
HEADER_BYTES_MAX: Final = 16 * 1024
ATTRIBUTE_LENGTH_MAX: Final = 255
TRACESTATE_LENGTH_MAX: Final = 512


class EnvelopeError(ValueError):
    """The message is no event of ours. `attribute` names the place: an attribute, `body`, `headers` or `content-type`."""

    def __init__(self, attribute: str, problem: str) -> None:
        self.attribute = attribute
        super().__init__(f"{attribute}: {problem}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds a payload. Names are those of the wire (lower case, no separators), so that each is searchable.

    `revision` counts how often an operator changed the intention. `actor` says who caused it (`partner:acme`). `dueby` is the
    moment after which the answer is useless. `receivedat`, `startedat`, `finishedat` and `dependencyms` travel with answers.
    """

    id: str
    source: str
    type: str
    time: datetime
    data: Mapping[str, Any] = field(repr=False)
    subject: str | None = None
    dataschema: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    operationid: str | None = None
    revision: int = 0
    actor: str | None = None
    partnerid: str | None = None
    dueby: datetime | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    receivedat: datetime | None = None
    startedat: datetime | None = None
    finishedat: datetime | None = None
    dependencyms: int | None = None

    def to_bytes(self) -> bytes:
        """The structured mode's body. Raises EnvelopeError when it is larger than a message may be."""
        document: dict[str, Any] = {"specversion": "1.0", "datacontenttype": JSON}
        for name in _ATTRIBUTES:
            value = getattr(self, name)
            if value is not None:
                document[name] = value
        document["data"] = self.data
        body = to_json(document)
        if len(body) > BODY_BYTES_MAX:
            raise EnvelopeError("body", f"has {len(body)} bytes, {BODY_BYTES_MAX} are allowed")
        return body


_ATTRIBUTES = tuple(item.name for item in fields(Envelope) if item.name != "data")
_MOMENTS = frozenset({"time", "dueby", "receivedat", "startedat", "finishedat"})
_NUMBERS = frozenset({"revision", "dependencyms"})
_RFC_3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_REQUIRED = ("id", "source", "type", "specversion")


def parse(body: bytes, content_type: str | None, headers: Mapping[str, Any], *, trusted: bool = False) -> Envelope:
    """Reads either mode. `trusted` senders are our own processes, whose serialiser cannot repeat a key.

    Raises EnvelopeError for anything that is not a well-formed event with a JSON object as its payload.
    """
    if len(body) > BODY_BYTES_MAX:
        raise EnvelopeError("body", f"has {len(body)} bytes, {BODY_BYTES_MAX} are allowed")
    media_type = (content_type or "").split(";", 1)[0].strip().lower()
    if media_type == STRUCTURED:
        document = parse_object(body, trusted=trusted)
        if "data_base64" in document:
            raise EnvelopeError("data_base64", "binary payloads are not accepted; send JSON in `data`")
        data = document.pop("data", None)
        content = document.pop("datacontenttype", None)
        content = JSON if content is None else content
        if not _is_json(content):
            raise EnvelopeError("datacontenttype", f"is {content!r}; send application/json")
        return _envelope(document, data)
    if media_type == JSON or media_type.endswith("+json"):
        attributes = {
            name[3:].lower(): _header_text(name, value) for name, value in headers.items() if name.lower().startswith("ce-")
        }
        if not attributes:
            raise EnvelopeError("headers", "no `ce-` headers; send CloudEvents in binary mode, or structured as " + STRUCTURED)
        return _envelope(attributes, parse_object(body, trusted=trusted))
    raise EnvelopeError("content-type", f"is {content_type!r}; send {STRUCTURED}, or {JSON} with `ce-` headers")


def parse_object(body: bytes, *, trusted: bool = False) -> dict[str, Any]:
    """One JSON object, without repeated keys, NaN, infinities, lone surrogates or deep nesting. Raises EnvelopeError."""
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise EnvelopeError("body", f"is not JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise EnvelopeError("body", f"is a JSON {type(document).__name__}, not an object")
    if not trusted:
        # The fast parser keeps the last of two equal keys; two readers of one message could then read two messages.
        json.loads(body, object_pairs_hook=_unique, parse_float=_finite)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise EnvelopeError("body", f"the key {repeated[:60]!r} stands twice in one object")
    return unique


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise EnvelopeError("body", f"the number {text[:30]} is out of range")
    return number


def _is_json(content: object) -> bool:
    media = str(content).split(";", 1)[0].strip().lower()
    return media == JSON or media.endswith("+json")


def _header_text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise EnvelopeError(name, "is not UTF-8") from None
    if not isinstance(value, str):
        raise EnvelopeError(name, f"is a {type(value).__name__}; header values are strings")
    return value


def _envelope(document: Mapping[str, Any], data: object) -> Envelope:
    for name in _REQUIRED:
        if name not in document:
            raise EnvelopeError(name, "is missing")
    if document["specversion"] != "1.0":
        raise EnvelopeError("specversion", f"is {str(document['specversion'])[:20]!r}; send 1.0")
    if not isinstance(data, dict):
        raise EnvelopeError("data", "is missing or not a JSON object")
    attributes: dict[str, Any] = {}
    for name in _ATTRIBUTES:
        value = document.get(name)
        if value is not None:
            attributes[name] = _attribute(name, value)
    for name in document:
        # CloudEvents 1.0, section 3.1: names are lower-case letters and digits. Unknown ones are allowed and ignored.
        if not (name.isascii() and name.isalnum() and name == name.lower()):
            raise EnvelopeError(str(name)[:60], "attribute names are lower-case letters and digits")
    attributes.setdefault("time", datetime.now(UTC))
    return Envelope(data=data, **attributes)


def _attribute(name: str, value: object) -> object:
    if name in _MOMENTS:
        return _moment(name, value)
    if name in _NUMBERS:
        return _number(name, value)
    limit = TRACESTATE_LENGTH_MAX if name == "tracestate" else ATTRIBUTE_LENGTH_MAX
    if not isinstance(value, str) or not value:
        raise EnvelopeError(name, "must be a string that is not empty")
    if len(value) > limit:
        raise EnvelopeError(name, f"has {len(value)} characters, {limit} are allowed")
    if not value.isprintable():
        raise EnvelopeError(name, "has control characters")
    return value


def _moment(name: str, value: object) -> datetime:
    try:
        # fromisoformat takes more than RFC 3339 allows, such as a time without seconds.
        moment = datetime.fromisoformat(value) if isinstance(value, str) and _RFC_3339.fullmatch(value) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise EnvelopeError(name, "must be an RFC 3339 time with an offset, for example 2026-11-21T10:05:00Z")
    return moment


def _number(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise EnvelopeError(name, "must be a whole number from 0 to 2147483647")

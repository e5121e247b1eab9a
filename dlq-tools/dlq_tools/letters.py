"""From a message of a `.dead` queue to the record of a failure. Never parses the body, and never raises: pure, total functions.

Two kinds arrive. The loop's own dead letters carry `x-failure` and `x-original`, and the broker vouches for their sender: the
service that owns the queue. Anything else comes from the broker itself, after its delivery limit; its headers are the first
sender's, who may have written anything into them, so nothing there is believed but the broker's own `x-death`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from contracts import operation_id
from contracts.message import owner_of
from contracts.registry import FAILURE_DESK, SERVICES
from dlq_tools.signatures import Signature, sign
from infra.chassis.dead_letters import ERROR_LENGTH_MAX, ORIGINAL_BYTES_MAX, TRACE_BYTES_MAX
from infra.chassis.decoding import REPLAY_HEADER, dead_letter_id, printable_headers

NAME_LENGTH_MAX: Final = 255
COUNT_MAX: Final = 2**31 - 1
KINDS: Final = frozenset({"permanent", "transient", "crash-loop"})
FAILURE_HEADER: Final = "x-failure"
ORIGINAL_HEADER: Final = "x-original"
DEATH_HEADER: Final = "x-death"


@dataclass(frozen=True, slots=True)
class Found:
    """A message as it lay in the dead queue of `queue`."""

    queue: str
    body: bytes = field(repr=False)
    headers: Mapping[str, Any] = field(repr=False)
    content_type: str | None
    content_encoding: str | None
    message_id: str | None
    type: str | None
    correlation_id: str | None
    sender: str | None
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One failure. `key` is the same for every copy of it; `id` is the dead letter's, to which several failures may belong.

    `original` is a JSON object: properties and headers of the message as it was first sent, as far as they are known.
    `correlation_id` is believed only from our own services, else empty.
    """

    key: str
    id: str
    identity: tuple[str, ...]
    queue: str
    type: str
    message_id: str
    source: str | None
    correlation_id: str
    operation_id: str | None
    subject: str
    partner_id: str | None
    kind: str
    error_class: str
    error: str
    trace: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    replay: int
    revision: int
    service: str
    service_version: str
    original: str
    body: bytes = field(repr=False)

    @property
    def step(self) -> str:
        """The step's name, where the operation id says it (`saga:step`)."""
        return operation_id.split(self.operation_id).step

    @property
    def signature(self) -> Signature:
        return sign(queue=self.queue, type=self.type, error_class=self.error_class, error=self.error, trace=self.trace)


def read(found: Found, now: datetime) -> Letter:
    """The record of any message whatsoever."""
    if found.sender != owner_of(found.queue) or DEATH_HEADER in found.headers or FAILURE_HEADER not in found.headers:
        return _from_broker(found, now)
    failure = _object(found.headers[FAILURE_HEADER])
    if failure is None:
        return _unreadable(found, now)
    return _from_loop(found, failure, now)


def _from_loop(found: Found, failure: Mapping[str, Any], now: datetime) -> Letter:
    identity = _identity(failure.get("identity")) or _identity_of_body(found)
    kind = failure.get("kind")
    last = _moment(failure.get("last_failed_at"), now)
    return Letter(
        key="loop:" + _digest(found, _text(found.message_id)),
        id=_text(failure.get("id")) or dead_letter_id(identity),
        identity=identity,
        queue=found.queue,
        type=_text(failure.get("type")),
        message_id=_text(failure.get("message_id")),
        source=_text(failure.get("source")) or None,
        correlation_id=_text(failure.get("correlation_id")),
        operation_id=_text(failure.get("operation_id")) or None,
        subject=_text(failure.get("subject")),
        partner_id=_text(failure.get("partner_id")) or None,
        kind=kind if isinstance(kind, str) and kind in KINDS else "permanent",
        error_class=_text(failure.get("error_class")) or "Unknown",
        error=_text(failure.get("error"), ERROR_LENGTH_MAX),
        trace=_text(failure.get("trace"), TRACE_BYTES_MAX),
        attempts=_count(failure.get("attempts"), least=1),
        first_failed_at=_moment(failure.get("first_failed_at"), last),
        last_failed_at=last,
        replay=_count(failure.get("replay")),
        revision=_count(failure.get("revision")),
        service=_text(failure.get("service")),
        service_version=_text(failure.get("service_version")),
        original=_original(found.headers.get(ORIGINAL_HEADER)),
        body=found.body,
    )


def _unreadable(found: Found, now: datetime) -> Letter:
    """The loop sent it, but its record of the failure cannot be read: the bytes are safe, the reason is in the service's log."""
    return _without_record(
        found,
        now,
        kind="permanent",
        error_class="UnreadableFailure",
        error=f"the {FAILURE_HEADER} header of {found.sender} cannot be read; the log of {found.sender} has the failure",
        attempts=1,
        original=_original(found.headers.get(ORIGINAL_HEADER)),
    )


def _from_broker(found: Found, now: datetime) -> Letter:
    deaths = found.headers.get(DEATH_HEADER)
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    reason = _text(death.get("reason")) or "unknown reason"
    keys = death.get("routing-keys")
    routing_key = _text(keys[0]) if isinstance(keys, list) and keys else ""
    at = death.get("time")
    original = {
        "content_type": _text(found.content_type) or None,
        "content_encoding": _text(found.content_encoding) or None,
        "message_id": _text(found.message_id) or None,
        "type": _text(found.type) or None,
        "user_id": _text(found.sender) or None,
        "exchange": _text(death.get("exchange")),
        "routing_key": routing_key,
        "deliveries": _count(found.headers.get("x-delivery-count")),
    }
    return _without_record(
        found,
        at.astimezone(UTC) if isinstance(at, datetime) else now,
        kind="broker",
        error_class=_class_of(reason),
        error=f"the broker gave it up ({reason}); the log of {owner_of(found.queue)} says why its process did not handle it",
        attempts=max(_count(original["deliveries"]), 1),
        original=_original({**original, "headers": printable_headers(found.headers)}),
    )


def _without_record(
    found: Found, at: datetime, *, kind: str, error_class: str, error: str, attempts: int, original: str
) -> Letter:
    identity = _identity_of_body(found)
    replayed, count = _replay_marker(found)
    ours = found.sender in SERVICES
    return Letter(
        key=f"{kind}:" + _digest(found, _text(found.message_id), json.dumps(printable_headers(found.headers))),
        id=replayed or dead_letter_id(identity),
        identity=identity,
        queue=found.queue,
        type=_text(found.type),
        message_id=_text(found.message_id),
        source=None,
        correlation_id=_text(found.correlation_id) if ours else "",
        operation_id=None,
        subject="",
        partner_id=None,
        kind=kind,
        error_class=error_class,
        error=error,
        trace="",
        attempts=attempts,
        first_failed_at=at,
        last_failed_at=at,
        replay=count,
        revision=0,
        service=owner_of(found.queue),
        service_version="",
        original=original,
        body=found.body,
    )


def _replay_marker(found: Found) -> tuple[str, int]:
    marker = found.headers.get(REPLAY_HEADER)
    if found.sender != FAILURE_DESK or not isinstance(marker, str):
        return "", 0
    letter, _, count = marker.partition(" ")
    return (_text(letter), int(count)) if count.isascii() and count.isdigit() and len(count) < 10 else ("", 0)


def _identity_of_body(found: Found) -> tuple[str, ...]:
    return (found.queue, "body:" + sha256(found.body).hexdigest()[:32])


def _identity(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        return ()
    return tuple(_text(part, 4 * NAME_LENGTH_MAX) for part in value[:10])


def _digest(found: Found, *parts: str) -> str:
    """Another copy of the same message has it, another message has not."""
    whole = sha256(found.body)
    for part in (found.queue, *parts):
        whole.update(b"\0" + part.encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def _class_of(reason: str) -> str:
    return "".join(word.capitalize() for word in reason.replace("-", "_").split("_"))[:60] or "Unknown"


def _object(value: object) -> dict[str, Any] | None:
    try:
        document = json.loads(value) if isinstance(value, str | bytes) else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _original(value: object) -> str:
    """Whatever it is, a JSON object that a row takes."""
    document = value if isinstance(value, Mapping) else _object(value)
    if document is None:
        return json.dumps({"headers": {}, "headers_cut": "the original properties and headers are not known"})
    try:
        whole = json.dumps(document)
    except (TypeError, ValueError, RecursionError):
        whole = ""
    if whole and len(whole) <= 2 * ORIGINAL_BYTES_MAX:
        return whole
    properties = {
        name: found
        for name, found in document.items()
        if isinstance(found, str | int | None) and len(str(found)) <= NAME_LENGTH_MAX
    }
    return json.dumps({**properties, "headers": {}, "headers_cut": "the original headers did not fit"})


def _text(value: object, length_max: int = NAME_LENGTH_MAX) -> str:
    """Text that the database and every terminal take: no NUL, no lone surrogates."""
    if not isinstance(value, str):
        return ""
    return value[:length_max].encode("utf-8", "backslashreplace").decode().replace("\x00", "\\0")[:length_max]


def _count(value: object, least: int = 0) -> int:
    return min(max(value, least), COUNT_MAX) if isinstance(value, int) and not isinstance(value, bool) else least


def _moment(value: object, otherwise: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else otherwise
    except (ValueError, OverflowError):
        return otherwise

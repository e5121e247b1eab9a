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
from contracts.deadletters import record
from contracts.deadletters.lenient import count, printable_headers
from contracts.deadletters.record import FAILURE_HEADER, ORIGINAL_HEADER, Original, Reading
from contracts.deadletters.replay import REPLAY_HEADER, Replay
from contracts.message import owner_of
from contracts.registry import FAILURE_DESK, SERVICES
from dlq_tools.signatures import Signature, sign

NAME_LENGTH_MAX: Final = 255
ORIGINAL_LENGTH_MAX: Final = 2 * record.ORIGINAL_BYTES_MAX
DEATH_HEADER: Final = "x-death"
DELIVERIES_HEADER: Final = "x-delivery-count"


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
    reading = record.read(found.headers)
    if FAILURE_HEADER in reading.unreadable:
        return _unreadable(found, reading, now)
    return _from_loop(found, reading, now)


def _from_loop(found: Found, reading: Reading, now: datetime) -> Letter:
    told, failure = reading.record, reading.record.failure
    identity = tuple(_text(part, 4 * NAME_LENGTH_MAX) for part in told.identity[:10]) or _identity_of_body(found)
    last = failure.last_failed_at or now
    return Letter(
        key="loop:" + _digest(found, _text(found.message_id)),
        id=_text(told.id) or record.dead_letter_id(identity),
        identity=identity,
        queue=found.queue,
        type=_text(told.type),
        message_id=_text(told.message_id),
        source=_text(told.source) or None,
        correlation_id=_text(told.correlation_id),
        operation_id=_text(told.operation_id) or None,
        subject=_text(told.subject),
        partner_id=_text(told.partner_id) or None,
        kind=failure.kind,
        error_class=_text(failure.error_class) or "Unknown",
        error=_text(failure.error, record.ERROR_LENGTH_MAX),
        trace=_text(failure.trace, record.TRACE_BYTES_MAX),
        attempts=failure.attempts,
        first_failed_at=failure.first_failed_at or last,
        last_failed_at=last,
        replay=told.replay,
        revision=told.revision,
        service=_text(told.service),
        service_version=_text(told.service_version),
        original=_original_told(reading),
        body=found.body,
    )


def _unreadable(found: Found, reading: Reading, now: datetime) -> Letter:
    """The loop sent it, but its record of the failure cannot be read: the bytes are safe, the reason is in the service's log."""
    return _without_record(
        found,
        now,
        kind="permanent",
        error_class="UnreadableFailure",
        error=f"the {FAILURE_HEADER} header of {found.sender} cannot be read; the log of {found.sender} has the failure",
        attempts=1,
        original=_original_told(reading),
    )


def _from_broker(found: Found, now: datetime) -> Letter:
    deaths = found.headers.get(DEATH_HEADER)
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    reason = _text(death.get("reason")) or "unknown reason"
    keys = death.get("routing-keys")
    routing_key = _text(keys[0]) if isinstance(keys, list) and keys else ""
    at = death.get("time")
    original = Original(
        content_type=_text(found.content_type) or None,
        content_encoding=_text(found.content_encoding) or None,
        message_id=_text(found.message_id) or None,
        type=_text(found.type) or None,
        user_id=_text(found.sender) or None,
        exchange=_text(death.get("exchange")),
        routing_key=routing_key,
        deliveries=count(found.headers.get(DELIVERIES_HEADER)) or 0,
        headers=printable_headers(found.headers),
    )
    return _without_record(
        found,
        at.astimezone(UTC) if isinstance(at, datetime) else now,
        kind="broker",
        error_class=_class_of(reason),
        error=f"the broker gave it up ({reason}); the log of {owner_of(found.queue)} says why its process did not handle it",
        attempts=max(original.deliveries, 1),
        original=_stored(original),
    )


def _without_record(
    found: Found, at: datetime, *, kind: str, error_class: str, error: str, attempts: int, original: str
) -> Letter:
    identity = _identity_of_body(found)
    replay = Replay.read(found.headers.get(REPLAY_HEADER)) if found.sender == FAILURE_DESK else None
    ours = found.sender in SERVICES
    return Letter(
        key=f"{kind}:" + _digest(found, _text(found.message_id), json.dumps(printable_headers(found.headers))),
        id=replay.dead_letter_id if replay else record.dead_letter_id(identity),
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
        replay=replay.count if replay else 0,
        revision=0,
        service=owner_of(found.queue),
        service_version="",
        original=original,
        body=found.body,
    )


def _identity_of_body(found: Found) -> tuple[str, ...]:
    return (found.queue, record.body_identity(found.body))


def _digest(found: Found, *parts: str) -> str:
    """Another copy of the same message has it, another message has not."""
    whole = sha256(found.body)
    for part in (found.queue, *parts):
        whole.update(b"\0" + part.encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def _class_of(reason: str) -> str:
    return "".join(word.capitalize() for word in reason.replace("-", "_").split("_"))[:60] or "Unknown"


def _original_told(reading: Reading) -> str:
    return record.unknown_original() if ORIGINAL_HEADER in reading.unreadable else _stored(reading.record.original)


def _stored(original: Original) -> str:
    """As a row takes it."""
    text = original.fitted(ORIGINAL_LENGTH_MAX).to_text()
    return text if len(text) <= ORIGINAL_LENGTH_MAX else record.unknown_original("the original properties did not fit")


def _text(value: object, length_max: int = NAME_LENGTH_MAX) -> str:
    """Text that the database and every terminal take: no NUL, no lone surrogates."""
    if not isinstance(value, str):
        return ""
    return value[:length_max].encode("utf-8", "backslashreplace").decode().replace("\x00", "\\0")[:length_max]

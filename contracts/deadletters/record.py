"""A dead letter's record: what the service that gives a message up tells the failure desk, beside the message's own bytes.

    x-original   the message as it was first sent: its properties, and its headers as far as they fit
    x-failure    who the message was, why it failed, how often

Both headers are JSON. One process writes them and another one reads them, of another release: `read` therefore takes any headers
whatsoever and says what it could not read. What `write` gives, `read` gives back.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal, get_args

from contracts.deadletters.lenient import Fields, json_object, printable_headers

FAILURE_HEADER: Final = "x-failure"
ORIGINAL_HEADER: Final = "x-original"

ORIGINAL_BYTES_MAX: Final = 16 * 1024
TRACE_BYTES_MAX: Final = 8 * 1024
ERROR_LENGTH_MAX: Final = 2000

Kind = Literal["permanent", "transient", "crash-loop"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
NOT_KNOWN: Final = "the original properties and headers are not known"


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Why a message is a dead letter. `attempts` counts every try of this delivery or row.

    The moments are None only in a record that does not say them readably.
    """

    kind: Kind
    error_class: str
    error: str
    attempts: int
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Original:
    """The message as it was first sent. `headers` are in their printable form; `headers_cut` says why they are not here.

    `more` is what a newer release has added: kept, since a letter outlives the process that reads it.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    message_id: str | None = None
    type: str | None = None
    user_id: str | None = None
    exchange: str = ""
    routing_key: str = ""
    deliveries: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    headers_cut: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_text(self) -> str:
        """For a header or a row: ASCII, so that its length is its size."""
        document = {
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "message_id": self.message_id,
            "type": self.type,
            "user_id": self.user_id,
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "deliveries": self.deliveries,
            "headers": self.headers,
        }
        if self.headers_cut is not None:
            document["headers_cut"] = self.headers_cut
        return json.dumps({**document, **self.more})

    def fitted(self, bytes_max: int = ORIGINAL_BYTES_MAX) -> "Original":
        """Itself where its text fits, otherwise without headers, saying so."""
        size = len(self.to_text())
        if size <= bytes_max:
            return self
        return replace(self, headers={}, headers_cut=f"{size} bytes of properties and headers did not fit", more={})


@dataclass(frozen=True, slots=True)
class Record:
    """One failure of one message. `id` is the dead letter's, to which several failures may belong; see `dead_letter_id`."""

    id: str
    identity: tuple[str, ...]
    queue: str
    service: str
    service_version: str
    failure: FailureReport
    replay: int
    type: str
    source: str | None
    message_id: str
    correlation_id: str
    subject: str
    operation_id: str | None
    revision: int
    partner_id: str | None
    original: Original

    def write(self) -> dict[str, str]:
        """The letter's headers."""
        context = {
            "id": self.id,
            "identity": list(self.identity),
            "queue": self.queue,
            "service": self.service,
            "service_version": self.service_version,
            "kind": self.failure.kind,
            "error_class": self.failure.error_class,
            "error": self.failure.error,
            "trace": self.failure.trace,
            "attempts": self.failure.attempts,
            "first_failed_at": _written(self.failure.first_failed_at),
            "last_failed_at": _written(self.failure.last_failed_at),
            "replay": self.replay,
            "type": self.type,
            "source": self.source,
            "message_id": self.message_id,
            "correlation_id": self.correlation_id,
            "subject": self.subject,
            "operation_id": self.operation_id,
            "revision": self.revision,
            "partner_id": self.partner_id,
        }
        return {ORIGINAL_HEADER: self.original.to_text(), FAILURE_HEADER: json.dumps(context, ensure_ascii=False)}


@dataclass(frozen=True, slots=True)
class Reading:
    """A record, and what of it could not be read: a header's name for all of it, otherwise names of its fields.

    What could not be read is empty in the record, as what is missing is.
    """

    record: Record
    unreadable: frozenset[str]


def read(headers: Mapping[str, Any]) -> Reading:
    """The record in any headers whatsoever. Never raises."""
    unreadable: set[str] = set()
    document = json_object(headers.get(FAILURE_HEADER))
    if document is None:
        unreadable.add(FAILURE_HEADER)
    fields = Fields(document or {}, unreadable)
    record = Record(
        id=fields.text("id"),
        identity=fields.texts("identity"),
        queue=fields.text("queue"),
        service=fields.text("service"),
        service_version=fields.text("service_version"),
        failure=_failure(fields),
        replay=fields.count("replay"),
        type=fields.text("type"),
        source=fields.text_or_none("source"),
        message_id=fields.text("message_id"),
        correlation_id=fields.text("correlation_id"),
        subject=fields.text("subject"),
        operation_id=fields.text_or_none("operation_id"),
        revision=fields.count("revision"),
        partner_id=fields.text_or_none("partner_id"),
        original=_original(headers.get(ORIGINAL_HEADER), unreadable),
    )
    return Reading(record, frozenset(unreadable))


def read_original(text: object) -> Original:
    """What `Original.to_text` wrote. Never raises: what cannot be read has its headers cut."""
    return _original(text, set())


def unknown_original(why: str = NOT_KNOWN) -> str:
    """The text of an original of which nothing is known, `why` instead of it."""
    return json.dumps({"headers": {}, "headers_cut": why})


def dead_letter_id(identity: Iterable[str]) -> str:
    """The dead letter's id, from its identity: the same failure of the same thing always joins the same dead letter."""
    return "dl_" + sha256("\0".join(identity).encode()).hexdigest()[:24]


def body_identity(body: bytes) -> str:
    """How a message is known whose own id cannot be read: by the hash of its bytes."""
    return "body:" + sha256(body).hexdigest()[:32]


def _failure(fields: Fields) -> FailureReport:
    return FailureReport(
        kind=fields.choice("kind", KINDS),
        error_class=fields.text("error_class"),
        error=fields.text("error"),
        attempts=fields.count("attempts", least=1),
        first_failed_at=fields.moment("first_failed_at"),
        last_failed_at=fields.moment("last_failed_at"),
        trace=fields.text("trace"),
    )


def _original(value: object, unreadable: set[str]) -> Original:
    document = value if isinstance(value, Mapping) else json_object(value)
    if document is None:
        unreadable.add(ORIGINAL_HEADER)
        return Original(headers_cut=NOT_KNOWN)
    fields = Fields(document, unreadable, "original.")
    return Original(
        content_type=fields.text_or_none("content_type"),
        content_encoding=fields.text_or_none("content_encoding"),
        message_id=fields.text_or_none("message_id"),
        type=fields.text_or_none("type"),
        user_id=fields.text_or_none("user_id"),
        exchange=fields.text("exchange"),
        routing_key=fields.text("routing_key"),
        deliveries=fields.count("deliveries"),
        headers=fields.table("headers"),
        headers_cut=_headers_cut(document, fields),
        more=printable_headers({name: found for name, found in document.items() if name not in _WRITTEN}),
    )


def _headers_cut(document: Mapping[str, Any], fields: Fields) -> str | None:
    """Why the headers are not here. A reason that is no text is one all the same: the letter must not go out without headers."""
    why = fields.text_or_none("headers_cut")
    return NOT_KNOWN if why is None and document.get("headers_cut") is not None else why


# `more` is no name of the wire: one day it may be.
_WRITTEN: Final = frozenset(Original.__slots__) - {"more"}


def _written(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None

"""What the loop sends to the failure desk when a message cannot be handled: a message of its own, with the bytes untouched.

Nothing of the original becomes a property or a header of the dead letter except inside one encoded header: a copied `CC`,
`user-id` or `expiration` would act a second time.
"""

import json
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from contracts.envelope import Envelope
from contracts.registry import SERVICES
from infra.broker.names import DEAD_LETTERS
from infra.chassis.decoding import Raw, Replay, dead_letter_id, printable_headers
from infra.chassis.outbox import OutboxRow, new_id

ORIGINAL_BYTES_MAX: Final = 16 * 1024
TRACE_BYTES_MAX: Final = 8 * 1024
ERROR_LENGTH_MAX: Final = 2000
CONTENT_TYPE: Final = "application/octet-stream"

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

Kind = Literal["permanent", "transient", "crash-loop"]


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Why a message is a dead letter. `attempts` counts every try of this delivery or row."""

    kind: Kind
    error_class: str
    error: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    trace: str = ""


def describe_failure(error: BaseException, kind: Kind, *, attempts: int, first: datetime, last: datetime) -> FailureRecord:
    """The record of an exception, with its trace from our own code, cut to 8 KiB from the front (the end says most)."""
    trace = "".join(traceback.format_exception(error))
    return FailureRecord(
        kind=kind,
        error_class=type(error).__name__,
        error=clean(str(error) or type(error).__name__)[:ERROR_LENGTH_MAX],
        attempts=attempts,
        first_failed_at=first,
        last_failed_at=last,
        trace=_tail(clean(re.sub(r'File "[^"]*/((?:services|orchestrator|infra|contracts|site-packages)/)', r'File "\1', trace))),
    )


def dead_letter(
    *,
    queue: str,
    service: str,
    version: str,
    raw: Raw,
    envelope: Envelope | None,
    identity: Sequence[str],
    replay: Replay | None,
    failure: FailureRecord,
) -> OutboxRow:
    """The outbox row that carries the message to `<queue>.dead`."""
    letter = replay.dead_letter_id if replay else dead_letter_id(identity)
    context = {
        "id": letter,
        "identity": list(identity),
        "queue": queue,
        "service": service,
        "service_version": version,
        "kind": failure.kind,
        "error_class": failure.error_class,
        "error": failure.error,
        "trace": failure.trace,
        "attempts": failure.attempts,
        "first_failed_at": failure.first_failed_at.isoformat(),
        "last_failed_at": failure.last_failed_at.isoformat(),
        "replay": replay.count if replay else 0,
        "type": (envelope.type if envelope else raw.type) or "",
        "source": envelope.source if envelope else None,
        "message_id": (envelope.id if envelope else raw.message_id) or "",
        "correlation_id": (envelope.correlationid if envelope else None) or "",
        "subject": (envelope.subject if envelope else None) or "",
        # The desk tells the orchestrator about this operation. What a system outside claims about one is not passed on.
        "operation_id": envelope.operationid if envelope and raw.sender in SERVICES else None,
        "revision": envelope.revision if envelope else 0,
        "partner_id": envelope.partnerid if envelope else None,
    }
    return OutboxRow(
        message_id=new_id(),
        exchange=DEAD_LETTERS,
        routing_key=queue,
        type="dead-letter",
        correlation_id=(envelope.correlationid if envelope else None) or letter,
        body=raw.body,
        content_type=CONTENT_TYPE,
        headers={"x-original": _original(raw), "x-failure": json.dumps(context, ensure_ascii=False)},
    )


def _original(raw: Raw) -> str:
    original = {
        "content_type": raw.content_type,
        "content_encoding": raw.content_encoding,
        "message_id": raw.message_id,
        "type": raw.type,
        "user_id": raw.sender,
        "exchange": raw.exchange,
        "routing_key": raw.routing_key,
        "deliveries": raw.deliveries,
    }
    whole = json.dumps({**original, "headers": printable_headers(raw.headers)})
    if len(whole) <= ORIGINAL_BYTES_MAX:
        return whole
    return json.dumps({**original, "headers": {}, "headers_cut": f"{len(whole)} bytes of properties and headers did not fit"})


def clean(message: str) -> str:
    """Text that every store and terminal takes: no lone surrogates, no control characters but line ends and tabs."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", message.encode("utf-8", "backslashreplace").decode())


def _tail(text: str) -> str:
    return text.encode()[-TRACE_BYTES_MAX:].decode("utf-8", "ignore")

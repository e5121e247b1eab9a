"""What the loop sends to the failure desk when a message cannot be handled: a message of its own, with the bytes untouched.

Nothing of the original becomes a property or a header of the dead letter except inside one encoded header: a copied `CC`,
`user-id` or `expiration` would act a second time.
"""

import re
import traceback
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from contracts.deadletters.lenient import printable_headers
from contracts.deadletters.record import (
    ERROR_LENGTH_MAX,
    TRACE_BYTES_MAX,
    FailureReport,
    Kind,
    Original,
    Record,
    dead_letter_id,
)
from contracts.deadletters.replay import Replay
from contracts.envelope import Envelope
from contracts.registry import SERVICES
from infra.broker.names import DEAD_LETTERS
from infra.chassis.decoding import Raw
from infra.chassis.outbox import OutboxRow, new_id

CONTENT_TYPE: Final = "application/octet-stream"

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def describe_failure(error: BaseException, kind: Kind, *, attempts: int, first: datetime, last: datetime) -> FailureReport:
    """The report of an exception, with its trace from our own code, cut to 8 KiB from the front (the end says most)."""
    trace = "".join(traceback.format_exception(error))
    return FailureReport(
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
    failure: FailureReport,
) -> OutboxRow:
    """The outbox row that carries the message to `<queue>.dead`."""
    letter = replay.dead_letter_id if replay else dead_letter_id(identity)
    record = Record(
        id=letter,
        identity=tuple(identity),
        queue=queue,
        service=service,
        service_version=version,
        failure=failure,
        replay=replay.count if replay else 0,
        type=(envelope.type if envelope else raw.type) or "",
        source=envelope.source if envelope else None,
        message_id=(envelope.id if envelope else raw.message_id) or "",
        correlation_id=(envelope.correlationid if envelope else None) or "",
        subject=(envelope.subject if envelope else None) or "",
        # The desk tells the orchestrator about this operation. What a system outside claims about one is not passed on.
        operation_id=envelope.operationid if envelope and raw.sender in SERVICES else None,
        revision=envelope.revision if envelope else 0,
        partner_id=envelope.partnerid if envelope else None,
        original=_original(raw).fitted(),
    )
    return OutboxRow(
        message_id=new_id(),
        exchange=DEAD_LETTERS,
        routing_key=queue,
        type="dead-letter",
        correlation_id=(envelope.correlationid if envelope else None) or letter,
        body=raw.body,
        content_type=CONTENT_TYPE,
        headers=record.write(),
    )


def _original(raw: Raw) -> Original:
    return Original(
        content_type=raw.content_type,
        content_encoding=raw.content_encoding,
        message_id=raw.message_id,
        type=raw.type,
        user_id=raw.sender,
        exchange=raw.exchange,
        routing_key=raw.routing_key,
        deliveries=raw.deliveries,
        headers=printable_headers(raw.headers),
    )


def clean(message: str) -> str:
    """Text that every store and terminal takes: no lone surrogates, no control characters but line ends and tabs."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", message.encode("utf-8", "backslashreplace").decode())


def _tail(text: str) -> str:
    return text.encode()[-TRACE_BYTES_MAX:].decode("utf-8", "ignore")

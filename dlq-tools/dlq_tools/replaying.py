"""From a dead letter to the message that goes to its queue again: the same bytes, the same way of saying what they are.

Whatever would act a second time (copies, expiry, replies, the broker's own death records) stays behind. The desk's trust must not
rub off on what it sends: who sent the message at first, over which exchange and with which routing key travels along, so that the
consumer checks it as it did then.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.deadletters.record import FAILURE_HEADER, ORIGINAL_HEADER, Original
from contracts.deadletters.replay import REPLAY_HEADER, FirstSending, Replay
from dlq_tools.domain import Refused
from infra.broker.lenient_frames import UNREADABLE
from infra.broker.names import REPLAY
from infra.chassis.outbox import OutboxRow, new_id

SHORT_TEXT_BYTES_MAX: Final = 255
HEADER_BYTES_MAX: Final = 48 * 1024

_LEFT_BEHIND: Final = frozenset({"cc", "bcc", FAILURE_HEADER, UNREADABLE})
_LEFT_BEHIND_PREFIXES: Final = (
    "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-stream-", REPLAY_HEADER, ORIGINAL_HEADER,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replayable:
    """What the desk has kept of a dead letter that is sent again as replay number `replays`."""

    id: str
    queue: str
    correlation_id: str
    operation_id: str | None
    original: Original
    body: bytes = field(repr=False)
    replays: int


def replay_row(letter: Replayable) -> OutboxRow | Refused:
    """The outbox row of the letter's replay. Its AMQP id is fresh: the inbox knows the id in the body.

    Refused where the original cannot be sent as it was: its headers did not fit into the dead letter.
    """
    original = letter.original
    if original.headers_cut:
        return Refused(f"its original headers are not known ({original.headers_cut}); let its sender send it again")
    headers = safe_headers(original.headers)
    if len(json.dumps(headers)) > HEADER_BYTES_MAX:
        return Refused("its original headers are too large to be sent again; let its sender send it again")
    first = FirstSending(original.user_id, original.exchange, original.routing_key, original.content_encoding)
    return OutboxRow(
        message_id=new_id(),
        exchange=REPLAY,
        routing_key=letter.queue,
        type=_short(original.type),
        correlation_id=_short(letter.correlation_id) or letter.id,
        body=letter.body,
        content_type=_short(original.content_type),
        headers={**headers, REPLAY_HEADER: Replay(letter.id, letter.replays).marker(), **first.write()},
        operation_id=letter.operation_id,
    )


def safe_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The original's headers without those that are the broker's, the desk's, or would send copies."""
    return {name: value for name, value in headers.items() if not _stays_behind(name.lower())}


def _stays_behind(name: str) -> bool:
    return name in _LEFT_BEHIND or name.startswith(_LEFT_BEHIND_PREFIXES)


def _short(text: str | None) -> str:
    """What fits into one of AMQP's short strings."""
    return (text or "").encode("utf-8", "backslashreplace")[:SHORT_TEXT_BYTES_MAX].decode("utf-8", "ignore")

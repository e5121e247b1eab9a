"""From a dead letter to the message that goes to its queue again: the same bytes, the same way of saying what they are.

Whatever would act a second time (copies, expiry, replies, the broker's own death records) stays behind. The desk's trust must not
rub off on what it sends: who sent the message at first, over which exchange and with which routing key travels along, so that the
consumer checks it as it did then.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from dlq_tools.adapters.postgres import Original
from dlq_tools.domain import Refused
from infra.broker.names import REPLAY
from infra.chassis.decoding import REPLAY_HEADER
from infra.chassis.outbox import OutboxRow, new_id

SENDER_HEADER: Final = "x-original-sender"
EXCHANGE_HEADER: Final = "x-original-exchange"
ROUTING_KEY_HEADER: Final = "x-original-routing-key"
ENCODING_HEADER: Final = "x-original-content-encoding"
SHORT_TEXT_BYTES_MAX: Final = 255
HEADER_BYTES_MAX: Final = 48 * 1024

_LEFT_BEHIND: Final = frozenset({"cc", "bcc", "x-failure", "x-unreadable"})
_LEFT_BEHIND_PREFIXES: Final = (
    "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-replay", "x-original", "x-stream-",
)  # fmt: skip


def replay_row(letter: Original) -> OutboxRow | Refused:
    """The outbox row of the letter's replay number `letter.replays`. Its AMQP id is fresh: the inbox knows the id in the body.

    Refused where the original cannot be sent as it was: its headers did not fit into the dead letter.
    """
    original = letter.original
    if original.get("headers_cut"):
        return Refused(f"its original headers are not known ({original['headers_cut']}); let its sender send it again")
    headers = safe_headers(original.get("headers"))
    if len(json.dumps(headers)) > HEADER_BYTES_MAX:
        return Refused("its original headers are too large to be sent again; let its sender send it again")
    headers[REPLAY_HEADER] = f"{letter.id} {letter.replays}"
    for header, name in (
        (SENDER_HEADER, "user_id"),
        (EXCHANGE_HEADER, "exchange"),
        (ROUTING_KEY_HEADER, "routing_key"),
        (ENCODING_HEADER, "content_encoding"),
    ):
        value = original.get(name)
        if isinstance(value, str) and value:
            headers[header] = value
    return OutboxRow(
        message_id=new_id(),
        exchange=REPLAY,
        routing_key=letter.queue,
        type=_short(original.get("type")),
        correlation_id=_short(letter.correlation_id) or letter.id,
        body=letter.body,
        content_type=_short(original.get("content_type")),
        headers=headers,
        operation_id=letter.operation_id,
    )


def safe_headers(headers: object) -> dict[str, Any]:
    """The original's headers without those that are the broker's, the desk's, or would send copies."""
    if not isinstance(headers, Mapping):
        return {}
    return {str(name): value for name, value in headers.items() if not _stays_behind(str(name).lower())}


def _stays_behind(name: str) -> bool:
    return name in _LEFT_BEHIND or name.startswith(_LEFT_BEHIND_PREFIXES)


def _short(value: object) -> str:
    """What fits into one of AMQP's short strings."""
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "backslashreplace")[:SHORT_TEXT_BYTES_MAX].decode("utf-8", "ignore")

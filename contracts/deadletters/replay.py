"""What the failure desk says beside the bytes that it sends again: which dead letter they are, and how they were first sent.

These headers count only from the desk's own broker user and only over the exchange of replays; from anybody else they mean nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

REPLAY_HEADER: Final = "x-replay"
SENDER_HEADER: Final = "x-original-sender"
EXCHANGE_HEADER: Final = "x-original-exchange"
ROUTING_KEY_HEADER: Final = "x-original-routing-key"
ENCODING_HEADER: Final = "x-original-content-encoding"
HEADERS: Final = frozenset({REPLAY_HEADER, SENDER_HEADER, EXCHANGE_HEADER, ROUTING_KEY_HEADER, ENCODING_HEADER})

_MARKER: Final = re.compile(r"([!-~]{1,255}) ([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Replay:
    """The failure desk sends a dead letter again: which one, for the how-manieth time."""

    dead_letter_id: str
    count: int

    def marker(self) -> str:
        """The text of the header, `dl_0a1b 1`."""
        return f"{self.dead_letter_id} {self.count}"

    @classmethod
    def read(cls, marker: object) -> "Replay | None":
        """What `marker` wrote; None for anything else."""
        found = _MARKER.fullmatch(marker) if isinstance(marker, str) else None
        return cls(dead_letter_id=found[1], count=int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class FirstSending:
    """Who sent a message at first, over which exchange, with which routing key and encoding, as far as it is known.

    The consumer checks a replay by these, as it checked the message then: the desk's trust must not rub off on what it sends.
    """

    sender: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    content_encoding: str | None = None

    def write(self) -> dict[str, str]:
        """The headers of what is known."""
        values = {
            SENDER_HEADER: self.sender,
            EXCHANGE_HEADER: self.exchange,
            ROUTING_KEY_HEADER: self.routing_key,
            ENCODING_HEADER: self.content_encoding,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def read(cls, headers: Mapping[str, Any]) -> "FirstSending":
        """From any headers whatsoever; what is no text, or an empty one, is not known."""
        return cls(
            sender=_known(headers.get(SENDER_HEADER)),
            exchange=_known(headers.get(EXCHANGE_HEADER)),
            routing_key=_known(headers.get(ROUTING_KEY_HEADER)),
            content_encoding=_known(headers.get(ENCODING_HEADER)),
        )


def _known(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

"""From bytes to a message that a route takes, or to the reason why not. Pure; nothing here touches broker or database."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from contracts.deadletters.lenient import printable_headers
from contracts.deadletters.record import body_identity
from contracts.deadletters.replay import HEADERS as REPLAY_HEADERS
from contracts.deadletters.replay import REPLAY_HEADER, FirstSending, Replay
from contracts.envelope import HEADER_BYTES_MAX, Envelope, EnvelopeError, parse
from contracts.message import Message, unversioned, version_of
from contracts.registry import COMMANDERS, FAILURE_DESK, REGISTRY, SERVICES, VERSIONS, upcast
from infra.broker.names import REPLAY
from infra.chassis.errors import Permanent, UnknownVersion
from infra.chassis.service import Direction, Route

OPERATION_ID_LENGTH_MAX: Final = 200
PROBLEMS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as the broker delivered it, or as a row kept it. `sender` is the broker-verified user, None if not stated.

    `replay` is the failure desk's marker, None for what is no replay; see `as_first_sent`.
    """

    body: bytes = field(repr=False)
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any] = field(repr=False)
    message_id: str | None
    type: str | None
    sender: str | None
    exchange: str
    routing_key: str
    deliveries: int = 0
    replay: str | None = None

    def to_json(self) -> bytes:
        """For a row. Headers keep their printable form; bodies stay as they are."""
        return json.dumps(
            {
                "body": base64.b64encode(self.body).decode(),
                "content_type": self.content_type,
                "content_encoding": self.content_encoding,
                "headers": printable_headers(self.headers),
                "message_id": self.message_id,
                "type": self.type,
                "sender": self.sender,
                "exchange": self.exchange,
                "routing_key": self.routing_key,
                "replay": self.replay,
            }
        ).encode()

    @classmethod
    def from_json(cls, row: bytes) -> "Raw":
        """Reads what `to_json` wrote. Rows live across deployments: what a newer process added is ignored, what an older one
        did not write has its default."""
        kept = json.loads(row)
        kept["body"] = base64.b64decode(kept["body"])
        return cls(**{name: value for name, value in kept.items() if name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message that a route takes. `type` is the wire name as sent, before upcasting."""

    raw: Raw
    envelope: Envelope
    message: Message
    route: Route
    replay: Replay | None


def read(raw: Raw) -> Envelope:
    """The envelope alone: who the message is. Raises Permanent with a text that names the place."""
    _check_headers(raw)
    if raw.content_encoding and raw.content_encoding.lower() not in ("utf-8", "identity"):
        raise Permanent(f"content-encoding {raw.content_encoding[:40]!r} is not accepted; send the body uncompressed")
    try:
        return parse(raw.body, raw.content_type, raw.headers, trusted=raw.sender in SERVICES)
    except EnvelopeError as error:
        raise Permanent(str(error)) from error


def resolve(raw: Raw, envelope: Envelope, routes: Mapping[str, Route]) -> Decoded:
    """The message and the route that takes it. Raises UnknownVersion or Permanent with a text that names the place."""
    _check_routing(raw, envelope)
    _check_operation(envelope)
    name, data = upcast(envelope.type, envelope.data, routes)
    route = routes.get(name)
    if route is None:
        raise _unroutable(envelope.type)
    if route.direction != "event":
        _check_command(raw, envelope)
    try:
        message = route.model.model_validate(data)
    except ValidationError as error:
        raise Permanent(f"{name} is not valid: {describe(error)}") from None
    return Decoded(raw=raw, envelope=envelope, message=message, route=route, replay=replay_of(raw))


def describe(error: ValidationError) -> str:
    """Each problem with its JSON pointer, without the values, which may be personal."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"/{'/'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in problems[:PROBLEMS_MAX]]
    more = len(problems) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def identity_of(queue: str, raw: Raw, envelope: Envelope | None, direction: Direction | None) -> tuple[str, ...]:
    """Consumer, operation and direction for a command; consumer, source and id for an event; else the body's hash."""
    if envelope is None:
        return (queue, body_identity(raw.body))
    if direction in ("do", "undo") and envelope.operationid:
        return (queue, envelope.operationid, direction)
    return (queue, envelope.source, envelope.id)


def _check_headers(raw: Raw) -> None:
    # A handful of short headers is the rule; only many or long ones are worth measuring.
    if raw.headers and sum(len(str(value)) + len(name) for name, value in raw.headers.items()) > HEADER_BYTES_MAX:
        raise Permanent(f"the headers are larger than {HEADER_BYTES_MAX} bytes; put data into the body")


def _check_routing(raw: Raw, envelope: Envelope) -> None:
    # The broker permits each user its own routing keys. A body that claims another type would walk around that.
    if raw.exchange and raw.routing_key != envelope.type:
        raise Permanent(
            f"type {envelope.type[:80]!r} was published with routing key {raw.routing_key[:80]!r}; they must be equal"
        )


def _check_operation(envelope: Envelope) -> None:
    if envelope.operationid and len(envelope.operationid) > OPERATION_ID_LENGTH_MAX:
        raise Permanent(f"operationid: has {len(envelope.operationid)} characters, {OPERATION_ID_LENGTH_MAX} are allowed")


def _check_command(raw: Raw, envelope: Envelope) -> None:
    if raw.sender not in COMMANDERS:
        raise Permanent(f"commands are accepted from {' and '.join(COMMANDERS)} only, not from {raw.sender!r}")
    if not envelope.operationid or not envelope.correlationid:
        raise Permanent("operationid and correlationid: a command needs both")


def _unroutable(wire_name: str) -> Permanent:
    name = unversioned(wire_name)
    if name in VERSIONS and version_of(wire_name) is not None and wire_name not in REGISTRY:
        known = ", ".join(f"v{version}" for version in VERSIONS[name])
        return UnknownVersion(f"{wire_name[:120]}: this process knows {known} of {name}; deploy consumers before producers")
    return Permanent(f"no route of this consumer takes {wire_name[:120]!r}; see `tutti contracts list`")


def as_first_sent(raw: Raw) -> Raw:
    """A replay as the message that it repeats: sender, exchange, routing key and encoding are those of the first sending.

    So a replay is checked as that was: the desk's trust must not carry what its sender was not trusted with. Anything that
    is no replay of the desk comes back as it is, whatever its headers say.
    """
    if raw.exchange != REPLAY or raw.sender != FAILURE_DESK:
        return raw
    marker = raw.headers.get(REPLAY_HEADER)
    first = FirstSending.read(raw.headers)
    return replace(
        raw,
        sender=first.sender,
        exchange=first.exchange or "",
        routing_key=first.routing_key or "",
        content_encoding=first.content_encoding,
        replay=marker if isinstance(marker, str) else "",
        headers={name: value for name, value in raw.headers.items() if name not in REPLAY_HEADERS},
    )


def replay_of(raw: Raw) -> Replay | None:
    """Which replay it is; None for what is none. Raises Permanent when the desk's marker is malformed."""
    if raw.replay is None:
        return None
    replay = Replay.read(raw.replay)
    if replay is None:
        raise Permanent(f"{REPLAY_HEADER}: a replay names its dead letter and its count, for example `dl_0a1b 1`")
    return replay

"""What a message is: frozen data with a wire name that outlives its class."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import JsonValue

from contracts.values import Value


class Message(Value):
    """A command or an event. `wire_name` is `owner.kebab-name.vN`, and the routing key as well.

    `subject_field` names the field that holds the business object's id (the order, the buyer, the item).
    """

    wire_name: ClassVar[str]
    kind: ClassVar[Literal["command", "event"]]
    subject_field: ClassVar[str] = "order_id"

    @property
    def subject(self) -> str:
        return str(getattr(self, self.subject_field))


class Command(Message):
    """Asks the owner for one effect. Answered exactly once per operation; a repetition gets the stored answer."""

    kind: ClassVar[Literal["command", "event"]] = "command"


class Event(Message):
    """States a fact, the answer to a command among them. Anyone may listen."""

    kind: ClassVar[Literal["command", "event"]] = "event"


def owner_of(wire_name: str) -> str:
    """`credit` for `credit.reserve-credit.v1`."""
    return wire_name.split(".", 1)[0]


def unversioned(wire_name: str) -> str:
    """`credit.reserve-credit` for `credit.reserve-credit.v1`."""
    return wire_name.rsplit(".", 1)[0]


def version_of(wire_name: str) -> int | None:
    """1 for `credit.reserve-credit.v1`; None when the name does not end in `.v` and a positive number."""
    tail = wire_name.rsplit(".", 1)[-1]
    if tail[:1] == "v" and tail[1:].isascii() and tail[1:].isdigit() and len(tail) <= 5 and tail[1] != "0":
        return int(tail[1:])
    return None


Json = Mapping[str, JsonValue]

"""What the engine decides: the saga after an input, what to send, and what to remember."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from contracts.message import Message
from orchestrator.instance import Instance


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent. A command has an operation and a direction; an event has neither."""

    message: Message
    message_id: str
    direction: Literal["do", "undo", "event"]
    operation_id: str | None = None
    due_by: datetime | None = None

    @property
    def wire_name(self) -> str:
        return self.message.wire_name


@dataclass(frozen=True, slots=True)
class History:
    """One line of what happened. `kind` is one of a few words; `message_id` is the message that came in or went out."""

    kind: str
    step: str | None = None
    message_id: str | None = None
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advance:
    """The saga after an input. `accepted` is False when it did not wait for it; `instance` is then the very same object."""

    instance: Instance
    messages: tuple[Outgoing, ...] = ()
    history: tuple[History, ...] = ()
    accepted: bool = True

    @property
    def next_timer_at(self) -> datetime | None:
        return self.instance.next_timer_at

"""The four exchanges, each named once. Queues are named in `contracts/registry.py`, by consumer and purpose."""

from typing import Final

COMMANDS: Final = "commands"
EVENTS: Final = "events"
DEAD_LETTERS: Final = "dead-letters"
REPLAY: Final = "replay"
EXCHANGE_OF: Final = {"command": COMMANDS, "event": EVENTS}

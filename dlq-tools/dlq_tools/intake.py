"""What has arrived from the dead queues, and in which order it may be acknowledged."""

import asyncio
from typing import Any

from aio_pika.abc import AbstractIncomingMessage

from dlq_tools.letters import Found


class Intake:
    """Deliveries of one channel by their tags, given out in the order of tags without gaps. Bounded by the prefetch counts."""

    def __init__(self) -> None:
        self._deliveries: dict[int, Found] = {}
        self._next_tag = 1
        self.wake = asyncio.Event()
        self.ended = False
        self.reason = "the connection was closed"

    async def take(self, queue: str, message: AbstractIncomingMessage) -> None:
        """A message from the dead queue of `queue`."""
        self._deliveries[message.delivery_tag or 0] = _found(queue, message)
        self.wake.set()

    def end(self, _: Any = None, error: BaseException | None = None) -> None:
        """The channel or its connection has gone, and its tags with it."""
        self.ended = True
        self.reason = str(error) or type(error).__name__ if error is not None else self.reason
        self.wake.set()

    def next_batch(self, size_max: int, bytes_max: int) -> list[tuple[Found, int]]:
        """At least one, where there is one, and its tag; at most `bytes_max` together unless a single one is larger."""
        batch: list[tuple[Found, int]] = []
        size = 0
        self.wake.clear()
        while len(batch) < size_max and (found := self._deliveries.get(self._next_tag)) is not None:
            size += len(found.body)
            if batch and size > bytes_max:
                break
            batch.append((found, self._next_tag))
            del self._deliveries[self._next_tag]
            self._next_tag += 1
        if self.ended:
            self.wake.set()
        return batch


def _found(queue: str, message: AbstractIncomingMessage) -> Found:
    return Found(
        queue=queue,
        body=message.body,
        headers=message.headers or {},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        message_id=message.message_id,
        type=message.type,
        correlation_id=message.correlation_id if isinstance(message.correlation_id, str) else None,
        sender=message.user_id,
    )

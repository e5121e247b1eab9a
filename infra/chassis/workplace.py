"""Where one loop works: for which service, on which consumer, with which settings. The same for the loop and for each of its batches."""

from dataclasses import dataclass, replace

from infra.chassis.service import Consumer
from infra.chassis.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Workplace:
    """`external` says that the service has dependencies. Only then may a decision make calls, and the loop looks for calls that are over."""

    service: str
    version: str
    consumer: Consumer
    settings: ServiceSettings
    external: bool

    @property
    def queue(self) -> str:
        return self.consumer.queue

    def consuming(self, consumer: Consumer) -> "Workplace":
        """The same place with another consumer of the same queue."""
        assert consumer.queue == self.queue
        return replace(self, consumer=consumer)

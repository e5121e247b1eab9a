"""What the failure desk tells Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge

COLLECTED: Final = Counter("tutti_dead_letters_collected_total", "Failures recorded by the collector", ("queue", "kind"))
WAITING: Final = Gauge("tutti_dead_letters", "Dead letters that wait for somebody; see runbooks/dead-letters.md", ("state",))

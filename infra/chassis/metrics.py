"""What every process tells Prometheus. Labels are names from code, never ids; units are seconds."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

MESSAGES: Final = Counter(
    "tutti_messages_handled_total", "Inputs of the loop by what became of them", ("service", "message", "outcome")
)
BATCHES: Final = Histogram(
    "tutti_batch_seconds", "One batch from its first statement to its commit", ("service", "queue"),
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)  # fmt: skip
BATCH_SIZE: Final = Histogram(
    "tutti_batch_messages", "Inputs in one batch", ("service", "queue"), buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
TROUBLE: Final = Counter(
    "tutti_transaction_trouble_total", "Transactions that were tried again, by reason", ("service", "queue", "reason")
)
PUBLISHED: Final = Counter("tutti_messages_published_total", "Outbox rows by the broker's word on them", ("service", "outcome"))
OUTBOX_DEPTH: Final = Gauge("tutti_outbox_rows", "Committed messages that the broker has not confirmed", ("service",))
OUTBOX_AGE: Final = Gauge("tutti_outbox_oldest_seconds", "Age of the oldest such message", ("service",))
OUTBOX_PARKED: Final = Gauge(
    "tutti_outbox_parked_rows", "Messages that the broker refuses; see runbooks/outbox-parked.md", ("service",)
)
RETRIES: Final = Gauge("tutti_retry_rows", "Messages that wait for another try", ("service",))
CALLS: Final = Counter("tutti_calls_total", "Requests to systems outside by result", ("service", "dependency", "outcome"))
CALL_SECONDS: Final = Histogram("tutti_call_seconds", "Duration of requests to systems outside", ("service", "dependency"))
CONSUMER_UP: Final = Gauge("tutti_consumer_up", "1 while the queue has a consumer of this process", ("service", "queue"))
CONSUMER_RESTARTS: Final = Counter(
    "tutti_consumer_restarts_total", "Times the watchdog had to subscribe again", ("service", "queue")
)
ACKNOWLEDGE_ERRORS: Final = Counter(
    "tutti_acknowledge_errors_total", "Acknowledgements on channels that had died (harmless)", ("service",)
)
DATABASE_UP: Final = Gauge("tutti_database_up", "0 while the loop waits for its database", ("service",))

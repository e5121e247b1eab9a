"""What becomes of a message that failed: it waits as a row for its next try, or it is a dead letter. Its neighbours go on."""

from dataclasses import dataclass
from datetime import datetime

from contracts.deadletters.record import Kind
from infra.chassis import retries
from infra.chassis.batch.work import Work
from infra.chassis.dead_letters import clean, dead_letter, describe_failure
from infra.chassis.decoding import identity_of
from infra.chassis.errors import Transient, UnknownVersion
from infra.chassis.inputs import Arrival
from infra.chassis.retries import Retry
from infra.chassis.workplace import Workplace


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One failure of a message: how many it has had, this included, and when the first was."""

    error: Exception
    attempts: int
    first: datetime


class Failing:
    """The one answer to every exception of a decision."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._settings = workplace.settings

    def fail(self, arrival: Arrival, error: Exception, work: Work, *, final: bool = False) -> str:
        """Lets the message wait, or makes it a dead letter; returns which. A `final` failure has spent its budget already."""
        waited = arrival.retry
        failed = _Attempt(error, (waited.attempts if waited else 0) + 1, waited.first_failed_at if waited else work.now)
        key = arrival.key
        if isinstance(error, Transient | UnknownVersion) and key is not None and key not in work.handled and not final:
            delay = self._delay(failed, work.now)
            if delay is not None:
                work.retries.append(_retry(arrival, failed, delay))
                work.marks[key] = "retrying"
                return "retrying"
        self._bury(arrival, failed, work)
        return "dead"

    def _delay(self, failed: _Attempt, now: datetime) -> float | None:
        patient = isinstance(failed.error, UnknownVersion)
        return retries.delay_seconds(
            self._settings,
            attempts=failed.attempts,
            first=failed.first,
            now=now,
            retry_after=getattr(failed.error, "retry_after_seconds", None),
            attempts_max=self._settings.unknown_version_attempts_max if patient else self._settings.retry_attempts_max,
        )

    def _bury(self, arrival: Arrival, failed: _Attempt, work: Work) -> None:
        direction = arrival.direction if arrival.operation_id is not None else "event"
        kind: Kind = "crash-loop" if arrival.crashed else "transient" if isinstance(failed.error, Transient) else "permanent"
        work.rows.append(
            dead_letter(
                queue=self._workplace.queue,
                service=self._workplace.service,
                version=self._workplace.version,
                raw=arrival.raw,
                envelope=arrival.envelope,
                identity=identity_of(self._workplace.queue, arrival.raw, arrival.envelope, direction),
                replay=arrival.replay,
                failure=describe_failure(failed.error, kind, attempts=failed.attempts, first=failed.first, last=work.now),
            )
        )
        if arrival.key is not None and arrival.key not in work.handled:
            work.marks[arrival.key] = "dead"
        operation = work.operation_of(arrival.operation_id)
        if operation is not None:
            operation.changed = True
            operation.bury(direction, dead=True)


def _retry(arrival: Arrival, failed: _Attempt, delay_seconds: float) -> Retry:
    assert arrival.envelope is not None
    assert arrival.key is not None
    return Retry(
        key=arrival.key,
        type=arrival.envelope.type,
        operation_id=arrival.envelope.operationid,
        correlation_id=arrival.envelope.correlationid,
        raw=arrival.raw,
        attempts=failed.attempts,
        first_failed_at=failed.first,
        delay_seconds=delay_seconds,
        error_class=type(failed.error).__name__,
        error=clean(str(failed.error)),
    )

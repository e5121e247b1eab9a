"""Tells the failure desk what became of a replay, so that a dead letter is resolved by proof and not by hope."""

from contracts.deadletters.record import dead_letter_id
from contracts.deadletters.replay import Replay
from contracts.deadletters.v1 import ReplayHandled
from infra.chassis.batch.work import Work
from infra.chassis.decoding import Decoded
from infra.chassis.operations import Operation, Verdict
from infra.chassis.outbox import encode
from infra.chassis.workplace import Workplace


class Reporting:
    """Writes a proof for each verdict on a replay."""

    def __init__(self, workplace: Workplace) -> None:
        self._service = workplace.service
        self._queue = workplace.queue

    def report(self, decoded: Decoded, verdict: Verdict, work: Work) -> None:
        """The verdict on a message, where it is a replay."""
        if decoded.replay is not None:
            self._emit(decoded, decoded.replay, verdict, work)

    def report_outcome(self, decoded: Decoded, operation: Operation, work: Work) -> None:
        """Reports a replay that ran, and a re-send that succeeded after an earlier message of its operation had become a dead letter."""
        direction = decoded.route.direction
        was_dead = operation.bury(direction, dead=False)
        if decoded.replay is not None:
            self.report(decoded, Verdict.RUN, work)
        elif was_dead:
            letter = dead_letter_id((self._queue, operation.id, direction))
            self._emit(decoded, Replay(letter, 0), Verdict.RUN, work)

    def _emit(self, decoded: Decoded, replay: Replay, verdict: Verdict, work: Work) -> None:
        proof = ReplayHandled.model_validate(
            {
                "dead_letter_id": replay.dead_letter_id,
                "queue": self._queue,
                "replay": replay.count,
                "operation_id": decoded.envelope.operationid,
                "revision": decoded.envelope.revision,
                "verdict": verdict.value,
            }
        )
        work.rows.append(encode(self._service, proof, decoded.envelope, now=work.now))

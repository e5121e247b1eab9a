"""`command`: asks the owner of something for one effect, until it answers or the step's patience is at an end."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from contracts.message import Message
from contracts.registry import REGISTRY
from orchestrator.instance import StepState
from orchestrator.language import CommandPart, RetryPart, UndoPart
from orchestrator.patience import Retry
from orchestrator.steps.kind import Kind, StepCheck
from orchestrator.steps.step import Draft, GivenUp, Step, Verdict
from orchestrator.template import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStep(Step):
    """Each attempt repeats the same operation. `patience` is the longest time from the first attempt to giving up."""

    template: Template
    timeout: timedelta = timedelta(seconds=30)
    retry: Retry | None = None
    patience: timedelta = field(init=False)

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        object.__setattr__(self, "patience", (self.retry or Retry()).patience(self.timeout))

    def begin(self, draft: Draft) -> Verdict:
        record = draft.record(self)
        message = self.template.compose(draft.names())
        first = record.sent_at or draft.now
        message_id = draft.send(self, message, None if self.beyond_pivot else first + self.patience)
        attempt = record.attempts + 1
        due_at = draft.now + self.timeout
        draft.put(
            self,
            replace(record, state=StepState.SENT, attempts=attempt, message_id=message_id, sent_at=first, due_at=due_at),
        )
        draft.log("sent", self, message_id, type=message.wire_name, attempt=attempt)
        return None

    def due(self, draft: Draft) -> Verdict:
        record = draft.record(self)
        retry = self.retry or (draft.limits.persist if self.beyond_pivot else Retry())
        delay = retry.delay(record.attempts, draft.random())
        assert record.sent_at is not None
        in_budget = retry.budget is None or draft.now + delay <= record.sent_at + retry.budget
        again = record.attempts < retry.attempts and in_budget and not draft.cancelling
        if not again and not self.beyond_pivot:
            return GivenUp(StepState.TIMED_OUT, "step-timed-out", f"{self.id} gave no answer in time")
        waits = round(delay.total_seconds() * 1000)
        due_at = draft.now + delay
        draft.put(self, replace(record, state=StepState.BACKOFF, due_at=due_at, backoff_ms=record.backoff_ms + waits))
        draft.log("backing-off", self, attempts=record.attempts, delay_ms=waits)
        return None

    def is_asked_by(self, wire_name: str) -> bool:
        return wire_name == self.template.wire_name


def _compile(part: CommandPart, check: StepCheck) -> Step:
    entry = check.message(part.word, part.command, command=True)
    template = check.template(part.word, entry, part.with_)
    assert part.answers is not None
    assert part.timeout is not None
    undo = check.undo(part.undo, entry, template, part.timeout) if isinstance(part.undo, UndoPart) else None
    return CommandStep(
        **check.frame(),
        template=template,
        answers=check.answers(entry, part.answers),
        timeout=part.timeout,
        retry=_retry(part.retry, check) if part.retry else None,
        undo=undo,
    )


def _retry(part: RetryPart, check: StepCheck) -> Retry:
    if part.most < part.first:
        check.report(("retry", "most"), "the longest pause is shorter than the first", "raise `most` or lower `first`")
    if part.budget is not None and part.budget <= part.first:
        check.report(("retry", "budget"), "the budget is over before the first pause", "raise `budget`")
    return Retry(part.attempts, part.first, part.factor, part.most, part.jitter == "full", part.budget)


def _answers(part: CommandPart) -> Mapping[str, tuple[type[Message], ...]]:
    return {
        outcome: tuple(REGISTRY[wire_name].model for wire_name in wire_names if wire_name in REGISTRY)
        for outcome, wire_names in (part.answers or {}).items()
    }


KIND = Kind(_compile, _answers)

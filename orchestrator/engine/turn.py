"""One call of `advance`: a draft of the next instance, thrown away unless the input was waited for."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from pydantic import JsonValue

from contracts import operation_id
from contracts.message import Message
from orchestrator.engine.outputs import Advance, History, Outgoing
from orchestrator.engine.reasons import DETAIL_LENGTH_MAX, REASONS_MAX
from orchestrator.inputs import Started
from orchestrator.instance import AT_REST, Compensation, Instance, Reason, State, StepRecord, Stuck
from orchestrator.names import EvaluationError, Names
from orchestrator.patience import Limits
from orchestrator.steps.step import Step
from orchestrator.template import Template
from orchestrator.workflow import Workflow


class Turn:
    """The draft. It keeps what is decided and says what expressions see; what follows from what is decided elsewhere."""

    def __init__(
        self,
        workflow: Workflow,
        instance: Instance,
        now: datetime,
        new_id: Callable[[], str],
        random: Callable[[], float],
        limits: Limits,
    ) -> None:
        self.workflow = workflow
        self.before = instance
        self.now = now
        self.new_id = new_id
        self.random = random
        self.limits = limits
        self.state = instance.state
        self.ending = instance.ending
        self.reasons = instance.reasons
        self.input = instance.input
        self.steps: dict[str, StepRecord] = dict(instance.steps)
        self.plan: dict[str, Compensation] = {entry.step: entry for entry in instance.plan}
        self.cancellation = instance.cancellation
        self.stuck = instance.stuck
        self.started: Started | None = None
        self._messages: list[Outgoing] = []
        self._history: list[History] = []
        self._names: Names | None = None

    # Where the saga stands.

    @property
    def frozen(self) -> bool:
        return self.stuck is not None and self.stuck.frozen

    def not_moving(self) -> str | None:
        """Why nothing but a person moves it, if so."""
        if self.state in AT_REST:
            return f"the process is {self.state.value}"
        if self.frozen:
            return "the process is frozen until a person has looked at it"
        return None

    def step_of(self, name: str) -> Step | None:
        """The step of this saga that an operation id names."""
        named = operation_id.split(name)
        return self.workflow.by_id.get(named.step) if named.saga == self.before.id and self.steps else None

    @property
    def cancelling(self) -> bool:
        return self.cancellation is not None

    def record(self, step: Step) -> StepRecord:
        return self.steps[step.id]

    def is_due(self, moment: datetime | None) -> bool:
        return moment is not None and moment <= self.now

    def names(self) -> Names:
        """What expressions see now. A step that has no answer is there with its outcome only."""
        if self._names is None:
            values: dict[str, JsonValue] = {
                self.workflow.input_name: dict(self.input),
                "process": {
                    "id": self.before.id,
                    "workflow": self.workflow.name,
                    "version": self.workflow.version,
                    "subject": self.started.subject if self.started else self.before.subject,
                    "partner": self.started.partner if self.started else self.before.partner,
                    "reasons": [{"code": reason.code, "detail": reason.detail} for reason in self.reasons],
                },
            }
            for step in self.workflow.steps:
                record = self.steps.get(step.id, _NOT_BEGUN)
                values[step.name] = {**(record.answer or {}), "outcome": record.outcome or record.state.value}
            self._names = Names(values)
        return self._names

    # What is decided.

    def begin(self, event: Started, record: StepRecord) -> None:
        """The saga has begun, with every step at this record."""
        self.started = event
        self.steps = {step.id: record for step in self.workflow.steps}
        self._names = None

    def put(self, step: Step, record: StepRecord) -> None:
        self.steps[step.id] = record
        self._names = None

    def because(self, *reasons: Reason) -> None:
        self.reasons = (self.reasons + reasons)[:REASONS_MAX]
        self._names = None

    def log(self, kind: str, step: Step | None = None, message_id: str | None = None, **detail: JsonValue) -> None:
        self._history.append(History(kind, step.id if step else None, message_id, detail))

    def send(self, step: Step, message: Message, due_by: datetime | None) -> str:
        """Sends the step's do; the id of the message."""
        return self._out(Outgoing(message, self.new_id(), "do", operation_id.of(self.before.id, step.id), due_by))

    def send_undo(self, step: Step, message: Message) -> str:
        """Sends the step's undo, under the same operation; the id of the message."""
        return self._out(Outgoing(message, self.new_id(), "undo", operation_id.of(self.before.id, step.id)))

    def emit(self, template: Template) -> str:
        """Publishes an event; the id of the message. Raises EvaluationError."""
        return self._out(Outgoing(template.compose(self.names()), self.new_id(), "event"))

    def freeze(self, reason: str) -> None:
        self.stick(reason, self.limits.owner, frozen=True)

    def stick(self, reason: str, owner: str, *, frozen: bool) -> None:
        self.state = State.STUCK
        self.stuck = Stuck(reason[:DETAIL_LENGTH_MAX], owner, self.now, self.now + self.limits.alert_every, frozen)
        self.log("stuck", owner=owner, reason=reason[:DETAIL_LENGTH_MAX])

    def end(self, ending: State) -> None:
        """Announces the end, and is over; frozen where it cannot be announced."""
        template = self.workflow.ends[ending.value]
        self.ending = ending
        try:
            message_id = self.emit(template)
        except EvaluationError as error:
            self.freeze(f"the end {ending.value} cannot be announced: {error}")
            return
        self.state = ending
        self.log("finished", message_id=message_id, state=ending.value, type=template.wire_name)

    def result(self) -> Advance:
        resting = self.state in AT_REST
        next_timer_at = None if resting else min(self._moments(), default=None)
        # Invariant 1. A violation is a defect of the engine, and the database's own check stands behind it. The moment may have
        # come already, but for a timer: after a pause answers are taken before the timers that fell due meanwhile.
        assert resting or next_timer_at is not None
        instance = replace(
            self.before,
            state=self.state,
            ending=self.ending,
            reasons=self.reasons,
            input=self.input,
            steps=self.steps,
            plan=tuple(self.plan.values()),
            cancellation=self.cancellation,
            stuck=None if resting else self.stuck,
            next_timer_at=next_timer_at,
            finished_at=(self.before.finished_at or self.now) if resting else None,
        )
        if self.started is not None:
            instance = replace(
                instance,
                workflow=self.workflow.name,
                version=self.workflow.version,
                subject=self.started.subject,
                partner=self.started.partner,
                actor=self.started.actor,
                traceparent=self.started.traceparent,
                started_at=self.now,
            )
        return Advance(instance, tuple(self._messages), tuple(self._history))

    def _out(self, message: Outgoing) -> str:
        self._messages.append(message)
        return message.message_id

    def _moments(self) -> list[datetime]:
        moments: list[datetime | None] = [self.stuck.alert_at if self.stuck is not None else None]
        if not self.frozen:
            moments += [record.due_at for record in self.steps.values()]
            moments += [entry.due_at for entry in self.plan.values()]
        return [moment for moment in moments if moment is not None]


_NOT_BEGUN = StepRecord()

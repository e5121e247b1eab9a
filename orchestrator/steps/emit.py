"""`emit`: tells whoever listens that something is so, and is done at once."""

from dataclasses import dataclass, replace

from orchestrator.language import EmitPart
from orchestrator.steps.kind import Kind, StepCheck
from orchestrator.steps.step import DONE, Draft, Step, Verdict
from orchestrator.template import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitStep(Step):
    """Nobody answers, and nothing can be taken back: who has heard it has heard it."""

    template: Template

    def begin(self, draft: Draft) -> Verdict:
        message_id = draft.emit(self.template)
        draft.put(self, replace(draft.record(self), attempts=1, sent_at=draft.now))
        draft.log("emitted", self, message_id, type=self.template.wire_name)
        return DONE

    def is_asked_by(self, wire_name: str) -> bool:
        return wire_name == self.template.wire_name


def _compile(part: EmitPart, check: StepCheck) -> Step:
    entry = check.message(part.word, part.emit, command=False)
    return EmitStep(**check.frame(), template=check.template(part.word, entry, part.with_))


KIND: Kind[EmitPart] = Kind(_compile, lambda part: {})

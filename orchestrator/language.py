"""The words of a workflow definition, as models. What is not here is refused by name; the JSON Schema is made from this.

What the words mean together (do the messages exist, can the step start) is checked in `checks/`.
"""

import json
import re
import sys
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

SCHEMA_ID: Final = "https://tutti.example/schemas/workflow-v1.json"
STEPS_MAX: Final = 100
EXPRESSION_LENGTH_MAX: Final = 2000
DURATION_MAX: Final = timedelta(days=400)
_DURATION = re.compile(r"P(?:(\d+)W|(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?)")


def parse_duration(text: object) -> timedelta:
    """An ISO 8601 duration in weeks, days, hours, minutes and seconds. Months and years have no fixed length: refused.

    Raises ValueError for anything else, for nothing, and for more than 400 days.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is no ISO 8601 duration; write for example PT30S, PT5M, PT8H or P2D")
    weeks, days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    duration = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta() < duration <= DURATION_MAX:
        raise ValueError(f"{text!r} must be more than nothing and at most {DURATION_MAX.days} days")
    return duration


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"}),
]
Kebab = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=60)]
WireName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+\.v[1-9]\d{0,3}$", max_length=200)]
Cel = Annotated[str, StringConstraints(min_length=1, max_length=EXPRESSION_LENGTH_MAX)]
# A number or a truth value needs no quotes: in CEL it looks the same.
CelOrLiteral = Annotated[
    Cel,
    BeforeValidator(lambda value: json.dumps(value) if isinstance(value, bool | int) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": EXPRESSION_LENGTH_MAX},
                {"type": "integer"},
                {"type": "boolean"},
            ]
        }
    ),
]
Mapping = Annotated[dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], CelOrLiteral], Field(max_length=60)]
OneOrMore = Annotated[
    tuple[WireName, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1, max_length=10),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Answers = Annotated[dict[Kebab, OneOrMore], Field(min_length=1, max_length=10)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)


class StartPart(Part):
    """The event that begins a process, and the condition on its payload under which it does."""

    on: WireName
    when: Cel | None = None


class RetryPart(Part):
    """When a step that gives no answer is sent again: pauses grow by `factor` from `first` to `most`."""

    attempts: Annotated[int, Field(ge=1, le=100, strict=True)]
    first: Duration = timedelta(seconds=1)
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    most: Duration = timedelta(minutes=1)
    jitter: Literal["full", "none"] = "full"
    budget: Duration | None = None


class UndoPart(Part):
    """What takes the step back. Without `with` its fields are those that the step's own command was given."""

    command: WireName
    with_: Mapping | None = Field(default=None, alias="with")
    answers: Answers
    owner: Kebab
    timeout: Duration | None = None


class StepPart(Part):
    """What steps of every kind may say. A kind adds its own words; the first of them, `word`, tells it from the others."""

    word: ClassVar[str]

    id: Kebab
    after: Annotated[tuple[Kebab, ...], Field(max_length=STEPS_MAX)] = ()
    when: Cel | None = None
    undo: UndoPart | Literal["none"] | None = None
    because: Words | None = None
    pivot: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_says_nothing(cls, said: Any) -> Any:
        # What was once published is read for ever, and a word of another kind was allowed to stand there with null.
        idle = {"command", "emit", "answers", "timeout", "retry"}
        return {word: value for word, value in said.items() if value is not None or word not in idle}


class CommandPart(StepPart):
    """A step that asks the owner of the command for one effect, and goes by its answer."""

    word: ClassVar[str] = "command"

    command: WireName
    with_: Mapping = Field(default_factory=dict, alias="with")
    answers: Answers | None = None
    timeout: Duration | None = None
    retry: RetryPart | None = None

    # Afterwards, and not by required fields: a misspelt word is found first, at its own place.
    @model_validator(mode="after")
    def _ends_in_time(self) -> "CommandPart":
        if self.answers is None or self.timeout is None:
            raise ValueError("a command needs `answers` and a `timeout`, or the process could wait for ever")
        return self


class EmitPart(StepPart):
    """A step that publishes an event, and is done at once."""

    word: ClassVar[str] = "emit"

    emit: WireName
    with_: Mapping = Field(default_factory=dict, alias="with")
    undo: Literal["none"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_done_at_once(cls, said: Any) -> Any:
        if any(said.get(word) for word in ("answers", "timeout", "retry", "pivot")) or isinstance(said.get("undo"), dict):
            raise ValueError("`emit` is done at once: it has no answers, timeout, retry, pivot or undo command")
        return said


_Kinds = Annotated[CommandPart, Tag(CommandPart.word)] | Annotated[EmitPart, Tag(EmitPart.word)]
KINDS: Final[tuple[type[StepPart], ...]] = tuple(get_args(kind)[0] for kind in get_args(_Kinds))


def _word_of(said: Any) -> str | None:
    """The kind whose word stands there. Where a misspelt one does, the kind that it has most in common with will name it."""
    if not isinstance(said, dict):
        return None
    found = [kind.word for kind in KINDS if said.get(kind.word) is not None]
    words = {kind.word: _words_of(kind) for kind in KINDS}
    if not found and not said.keys() <= set().union(*words.values()):
        return max(words, key=lambda word: len(said.keys() & words[word]))
    return found[0] if len(found) == 1 else None


def _words_of(kind: type[StepPart]) -> set[str]:
    return {info.alias or name for name, info in kind.model_fields.items()}


AnyStepPart = Annotated[
    _Kinds,
    Discriminator(
        _word_of,
        custom_error_type="kind_of_step",
        custom_error_message=f"a step has either {' or '.join(f'`{kind.word}`' for kind in KINDS)}",
    ),
]


class EndPart(Part):
    """The event that tells of an end."""

    emit: WireName
    with_: Mapping = Field(default_factory=dict, alias="with")


class FinishPart(Part):
    """One event for each way in which a process can end."""

    completed: EndPart
    refused: EndPart
    cancelled: EndPart
    failed: EndPart


class WorkflowPart(Part):
    """A workflow definition, one version of it."""

    workflow: Kebab
    version: Annotated[int, Field(ge=1, le=9999, strict=True)]
    describe: Words
    start: StartPart
    input: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
    steps: Annotated[tuple[AnyStepPart, ...], Field(min_length=1, max_length=STEPS_MAX)]
    finish: FinishPart


def place_of(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Where in the text an error of these models stands: its location without the names of the alternatives it was tried on."""
    if loc[:1] == ("steps",):
        loc = loc[:2] + loc[3:]
    return tuple(part for part in loc if part not in ("UndoPart", "literal['none']"))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a definition, for editors and other programs."""
    schema = WorkflowPart.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def json_schema_text() -> str:
    """The text of `orchestrator/workflows/schema.json`; `python -m orchestrator.language > FILE` writes it."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema_text())

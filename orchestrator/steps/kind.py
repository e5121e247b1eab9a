"""What the checks may ask of a kind of step, and what a kind may ask of the checks while it compiles a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from keyword import iskeyword
from typing import Any, Generic, Protocol, TypedDict, TypeVar

from pydantic import BaseModel

from contracts.registry import Entry
from orchestrator.language import StepPart, UndoPart
from orchestrator.names import Expression
from orchestrator.steps.step import Step
from orchestrator.template import Template, Undo

P = TypeVar("P", bound=StepPart)


class Frame(TypedDict):
    """What steps of all kinds have: arguments of `Step`, checked and compiled."""

    id: str
    after: tuple[str, ...]
    when: Expression | None
    because: str | None
    pivot: bool
    beyond_pivot: bool
    dependents: frozenset[str]


class StepCheck(Protocol):
    """The checks, as the kind of one step sees them. What they find is reported at the place of the word, and they go on.

    A word is a key of the step's own text, or several for what stands deeper: `("retry", "most")`.
    """

    def frame(self) -> Frame: ...
    def report(self, words: tuple[str, ...], problem: str, remedy: str) -> None: ...
    def message(self, word: str, wire_name: str, *, command: bool) -> Entry | None:
        """The registry's entry of a message that the step sends."""

    def template(self, word: str, entry: Entry | None, given: Mapping[str, str]) -> Template:
        """The message that the word names, with the fields given under `with`."""

    def answers(self, entry: Entry | None, given: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        """Wire name to outcome, of the word `answers`."""

    def expression(self, word: str, text: str) -> Expression | None: ...
    def undo(self, part: UndoPart, do: Entry | None, do_template: Template, timeout: timedelta) -> Undo:
        """What takes the step back: by default with the fields and the timeout of its do."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[P]):
    """One kind: how its part of a definition becomes a step, and what expressions may read of it.

    `answers` has for each possible outcome the models of the answers that mean it; a kind with `refused` can be refused.
    """

    compile: Callable[[P, StepCheck], Step]
    answers: Callable[[P], Mapping[str, tuple[type[BaseModel], ...]]]


def kind_of(part: StepPart) -> Kind[Any]:
    """`KIND` in the module that is named after the kind's word; `await_.py` for a word that Python keeps."""
    word = f"{part.word}_" if iskeyword(part.word) else part.word
    kind = import_module(f"{__package__}.{word}").KIND
    assert isinstance(kind, Kind)
    return kind

"""Why a saga ends as it does, in words that every receiver of its end can store."""

from typing import Final

from orchestrator.inputs import Answer
from orchestrator.instance import Reason

DETAIL_LENGTH_MAX: Final = 1000
REASONS_MAX: Final = 50


def reason(code: str, detail: str) -> Reason:
    """A reason of our own. Its text is cut to what is stored."""
    # Reasons quote other systems, and whoever hears of the end stores them: no database takes a NUL in a text.
    return Reason(code, detail[:DETAIL_LENGTH_MAX].replace("\x00", "\ufffd") or code)


def reasons_of(answer: Answer) -> tuple[Reason, ...]:
    """The reasons that a refusal gives; where it gives none, its own name is the reason."""
    found = answer.data.get("reasons")
    given = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    short = answer.wire_name.split(".")[1]
    if not given:
        return (Reason(short, f"{answer.wire_name} was answered"),)
    return tuple(reason(str(item.get("code", short)), str(item.get("detail", short))) for item in given)

"""Why a list was not taken into use; without it, a half-read list would clear whom it should find."""

from dataclasses import dataclass
from typing import Final

PROBLEMS_SHOWN_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line of a list file. It never quotes the line: lists hold names of real people."""

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.line is None else f"{self.file}:{self.line}: {self.what}"


class ListRefusedError(Exception):
    """A list cannot be used as it is; the remedy is to repair or replace the files named in `problems`."""

    def __init__(self, folder: str, problems: tuple[Problem, ...]) -> None:
        shown = "; ".join(map(str, problems[:PROBLEMS_SHOWN_MAX]))
        more = len(problems) - PROBLEMS_SHOWN_MAX
        super().__init__(f"list in {folder} refused: {shown}" + (f"; and {more} more" if more > 0 else ""))
        self.problems = problems

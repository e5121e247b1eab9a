"""Which migrations may run when: a migration's name says it, and what is due follows from the names alone. Pure.

    NNNN_pre_what.py     applied before the new code is started; the last release's code must live with it; so is the first of a line
    NNNN_post_what.py    applied when no process of the last release runs any more

A line (the chassis', a service's own) is one chain, so a pre migration that comes after a post one cannot be applied without it.
That happens when a release is skipped, or when the last one's post migrations were forgotten. It is refused: only people know
which processes still run.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

_NAME: Final = re.compile(r"(?P<number>[0-9]{4})_(?:(?P<phase>pre|post)_)?[a-z0-9_]+")
_FIRST: Final = "0001"


class Phase(StrEnum):
    """An upgrade in PRE applies pre migrations only, for the last release still runs; one in POST applies everything."""

    PRE = "pre"
    POST = "post"


class PhaseError(ValueError):
    """A migration's name says no phase, or a pre migration waits behind a post one; the text says what to do."""


def phase_of(name: str) -> Phase:
    """The phase of a migration by its file's name without `.py`. Raises PhaseError."""
    found = _NAME.fullmatch(name)
    if found is not None and found["number"] == _FIRST:
        return Phase.PRE
    if found is None or found["phase"] is None:
        raise PhaseError(f"the migration {name} must be called NNNN_pre_what or NNNN_post_what (CONTRIBUTING.md, A migration)")
    return Phase(found["phase"])


def due(line: Sequence[str], applied: int, phase: Phase) -> Sequence[str]:
    """What an upgrade in this phase applies of a line, whose first `applied` names are in the database already.

    Nobody uses a line of which nothing is applied: all of it is due in either phase. Raises PhaseError.
    """
    phases = [phase_of(name) for name in line]
    waiting = line[applied:]
    if phase is Phase.POST or not applied or Phase.POST not in phases[applied:]:
        return waiting
    first = phases.index(Phase.POST, applied)
    if Phase.PRE in phases[first:]:
        raise PhaseError(
            f"{line[phases.index(Phase.PRE, first)]} comes after {line[first]}, which an earlier release left for its end: apply that"
            " release's post migrations with its own code first; or stop every process and apply all of them: --phase post"
        )
    return line[applied:first]

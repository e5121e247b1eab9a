"""What every command that changes something is told, and how it asks before it does."""

import sys
from dataclasses import dataclass

import typer

from infra.terminal.failures import Misused, NotAllowed
from infra.terminal.options import DryRun, Json, Reason, Yes


@dataclass(frozen=True, slots=True)
class Change:
    """Why something is to be changed, and whether after a question, without one (`yes`) or not at all, only described (`dry_run`)."""

    reason: str
    yes: bool
    dry_run: bool
    as_json: bool

    def confirm(self, question: str) -> None:
        """Returns when it may be done. Raises what `confirm` raises."""
        confirm(question, yes=self.yes, as_json=self.as_json)


def changing(reason: Reason, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> Change:
    """The options of a command that changes something. Raises Misused for a reason that says nothing."""
    return Change(stated(reason), yes, dry_run, as_json)


def stated(reason: str | None) -> str:
    """The reason. Raises Misused where there is nothing but blanks: it is kept, and somebody will read it."""
    if not (reason or "").strip():
        raise Misused("say why, with --reason: it is kept in the history")
    return str(reason)


def confirm(question: str, *, yes: bool, as_json: bool = False) -> None:
    """Asks on a terminal. Raises Misused where nobody can answer, and NotAllowed when the answer is no.

    With `as_json` a program has asked. It cannot answer, even if it was started from a terminal.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise Misused("this changes something and there is nobody to ask; add --yes")
    if not typer.confirm(question, err=True):
        raise NotAllowed("nothing was changed")

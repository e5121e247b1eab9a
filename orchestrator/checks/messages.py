"""Messages that a definition names: whether they exist, may be sent there, and what a command can be answered with."""

import difflib
from collections.abc import Iterable, Mapping

from contracts.message import Command
from contracts.registry import ORCHESTRATOR, REGISTRY, Entry
from orchestrator.source import Path, Source
from orchestrator.steps.step import DONE, REFUSED


def entry_of(source: Source, wire_name: str, path: Path, *, command: bool) -> Entry | None:
    """The registry's entry; None, and a finding, where there is none or it is of the other kind."""
    entry = REGISTRY.get(wire_name)
    if entry is None:
        source.report(
            path,
            f"there is no message {wire_name}",
            nearest(wire_name, REGISTRY, "see `tutti contracts list`"),
        )
        return None
    if issubclass(entry.model, Command) != command:
        is_a, word = ("an event", "emit") if command else ("a command", "command")
        source.report(path, f"{wire_name} is {is_a}", f"use it under `{word}`, or name another message")
        return None
    if path[0] != "start" and ORCHESTRATOR not in entry.senders:
        source.report(
            path,
            f"the orchestrator may not send {wire_name}",
            "add it to the senders in contracts/registry.py",
        )
    if command and not entry.receivers:
        source.report(path, f"nobody handles {wire_name} yet", "deploy its service, or leave the step out")
    return entry


def outcomes_of(source: Source, entry: Entry | None, given: Mapping[str, tuple[str, ...]], at: Path) -> dict[str, str]:
    """Wire name to outcome. Together they must be exactly what the command can be answered with."""
    outcomes: dict[str, str] = {}
    possible = {model.wire_name: outcome for outcome, model in entry.answers.items()} if entry else {}
    for outcome, wire_names in given.items():
        for wire_name in wire_names:
            path = (*at, outcome)
            if entry is not None and wire_name not in possible:
                source.report(
                    path,
                    f"{entry.wire_name} is never answered with {wire_name}",
                    nearest(wire_name, possible, "its answers are " + ", ".join(possible)),
                )
            elif wire_name in outcomes:
                source.report(path, f"{wire_name} stands for two outcomes", "keep one of the two")
            elif possible.get(wire_name) == REFUSED and outcome == DONE:
                source.report(
                    path,
                    f"{wire_name} is a refusal",
                    "put it under `refused`, or an outcome of its own name",
                )
            outcomes[wire_name] = outcome
    missing = [name for name in possible if name not in outcomes]
    if missing:
        source.report(
            at,
            f"nothing is said for the answer {', '.join(missing)}",
            "put each under an outcome",
            at_key=True,
        )
    if DONE not in outcomes.values():
        source.report(at, "no answer means `done`", "put the answer that means success under `done`", at_key=True)
    return outcomes


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for a name that is not known: the one that was meant, perhaps."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{found[0]}`?" if found else otherwise

"""Saga runs that somebody else's library tests, restated as data: our engine sends the same in the same order."""

import json
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from contracts.message import Command, Event, Message
from orchestrator.engine import Answer, Started, advance
from orchestrator.expressions import Language
from orchestrator.instance import Instance, State
from orchestrator.steps.command import CommandStep
from orchestrator.steps.emit import EmitStep
from orchestrator.steps.step import Step
from orchestrator.template import Template, Undo
from orchestrator.workflow import ENDS, Workflow
from tests.support.shared_data import SHARED
from tests.unit.orchestrator.test_engine import NOW

FILE = SHARED / "workflow" / "saga-scenarios.json"
SCENARIOS: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.is_file() else []


def model(name: str, base: type[Message]) -> type[Message]:
    made: type[Message] = create_model(name, __base__=base)
    made.wire_name = f"saga.{name.lower()}.v1"
    return made


def template(name: str, base: type[Message]) -> Template:
    return Template(model(name, base), ())


def step_of(raw: dict[str, Any], before: list[str], language: Language, types: dict[str, type[BaseModel]]) -> Step:
    """A command is answered; what the other library does within its own process is a command to a local owner here."""
    name = f"step-{raw['step']}"
    when = language.compile(f"data.{raw['when']} == true", types) if "when" in raw else None
    if "notification" in raw:
        return EmitStep(
            id=name,
            template=template(raw["notification"], Event),
            after=tuple(before),
            when=when,
            because="nobody answers it",
        )
    do = raw.get("command") or raw["local"]
    undo = raw.get("compensate_command") or raw.get("compensate") or raw.get("compensate_notification")
    return CommandStep(
        id=name,
        template=template(do, Command),
        after=tuple(before),
        when=when,
        answers={f"{do}.done": "done", f"{do}.no.v1": "refused"},
        undo=Undo(template(undo, Command), {f"{undo}.done": "done"}, "somebody", timedelta(seconds=30)) if undo else None,
        because=None if undo else "it changes nothing",
    )


def workflow_of(scenario: dict[str, Any]) -> Workflow:
    data = {key: (bool | None, None) for key in (raw.get("when") for raw in scenario["steps"]) if key}
    types = {"data": create_model("Data", **data)}  # type: ignore[call-overload]  # names come from the file
    language = Language(frozenset({"data"}))
    steps: list[Step] = []
    for raw in scenario["steps"]:
        steps.append(step_of(raw, [step.id for step in steps], language, types))
    return Workflow(
        name="scenario",
        version=1,
        content_hash="",
        describe="",
        start_on="saga.started.v1",
        start_when=None,
        input_name="data",
        steps=tuple(
            replace(step, dependents=frozenset(later.id for later in steps[number + 1 :])) for number, step in enumerate(steps)
        ),
        ends={end: template(f"End{end}", Event) for end in ENDS},
    )


@pytest.mark.skipif(not SCENARIOS, reason=f"{FILE.name} is not beside the project; see README.md there for its origin")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_it_sends_what_the_other_library_sends(scenario: dict[str, Any]) -> None:
    workflow = workflow_of(scenario)
    remote = {raw.get("command") for raw in scenario["steps"]} | {raw.get("compensate_command") for raw in scenario["steps"]}
    replies = [entry["reply"] for entry in scenario["trace"] if "reply" in entry]
    locals_failing = {name for name, value in scenario["data"].items() if value == "throws"}
    ids = count()
    trace: list[str] = []

    def feed(instance: Instance, event: Any) -> Instance:
        made = advance(workflow, instance, event, now=NOW, new_id=lambda: f"m{next(ids)}", random=lambda: 0.5)
        for message in made.messages:
            name = type(message.message).__name__
            if name in remote:
                trace.append(name)
                reply = replies.pop(0)
            else:
                if message.direction == "event" and not name.startswith("End"):
                    trace.append(name)
                reply = "failure" if name in locals_failing else "success"
            if message.operation_id is not None:
                queue.append(
                    Answer(message.operation_id, f"{name}.done" if reply == "success" else f"{name}.no.v1", {}, f"a{next(ids)}")
                )
        return made.instance

    queue: list[Answer] = []
    payload = {raw["when"]: None for raw in scenario["steps"] if "when" in raw}
    instance = feed(Instance("s"), Started({**payload, **scenario["data"]}, "start"))
    while queue:
        instance = feed(instance, queue.pop(0))

    assert trace == [entry.get("sent") or entry["notified"] for entry in scenario["trace"] if "reply" not in entry]
    assert instance.state is (State.COMPLETED if scenario["outcome"] == "completed" else State.REFUSED)

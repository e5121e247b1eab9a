"""Loads workflow definitions: text in, a `Workflow` that can run out, or every finding with its place and remedy."""

import hashlib
from pathlib import Path
from typing import Final

import rfc8785
from pydantic import ValidationError

from orchestrator.checks import Checker
from orchestrator.language import WorkflowPart, place_of
from orchestrator.source import DefinitionError, Finding, Source, read
from orchestrator.workflow import Workflow

WORKFLOWS: Final = Path(__file__).parent / "workflows"


def load(text: str, file: str = "definition") -> Workflow:
    """Reads, checks and compiles one definition. `file` is the name that findings carry. Raises DefinitionError."""
    source = read(text, file)
    part = _parse(source) if not source.findings else None
    if part is None:
        raise DefinitionError(source.findings)
    workflow = Checker(part, source, content_hash(source.document)).compile()
    if workflow is None:
        raise DefinitionError(source.findings)
    return workflow


def load_file(path: Path) -> Workflow:
    """Loads `NAME/vN.yaml`; its path must say what it contains."""
    file = f"{path.parent.name}/{path.name}"
    workflow = load(path.read_text(encoding="utf-8"), file)
    expected = f"{workflow.name}/v{workflow.version}.yaml"
    if file != expected:
        raise DefinitionError(
            [
                Finding(
                    file,
                    1,
                    1,
                    f"this is {workflow.name} version {workflow.version}",
                    f"move it to {expected}",
                )
            ]
        )
    return workflow


def load_all(root: Path = WORKFLOWS) -> tuple[Workflow, ...]:
    """All definitions below `root`, by name and version. Raises one DefinitionError with the findings of all files."""
    findings: list[Finding] = []
    workflows: list[Workflow] = []
    for path in sorted(root.glob("*/v*.yaml")):
        try:
            workflows.append(load_file(path))
        except DefinitionError as error:
            findings += error.findings
    if findings:
        raise DefinitionError(findings)
    return tuple(sorted(workflows, key=lambda workflow: (workflow.name, workflow.version)))


def content_hash(document: object) -> str:
    """What a version says, without comments and layout: SHA-256 over its canonical JSON (RFC 8785)."""
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()  # type: ignore[arg-type]  # YAML's core schema is JSON


def _parse(source: Source) -> WorkflowPart | None:
    try:
        return WorkflowPart.model_validate(source.document)
    except ValidationError as error:
        for item in error.errors():
            path = place_of(item["loc"])
            if item["type"] == "extra_forbidden":
                source.report(
                    path,
                    f"`{path[-1]}` is no word of the language here",
                    "take it out; docs/workflow-language.md lists the words",
                    at_key=True,
                )
            elif item["type"] == "missing":
                source.report(
                    path[:-1],
                    f"`{path[-1]}` is missing",
                    "add it; docs/workflow-language.md says what it means",
                )
            else:
                source.report(path, item["msg"].removeprefix("Value error, "), "see docs/workflow-language.md")
        return None

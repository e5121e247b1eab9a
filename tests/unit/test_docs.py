"""What pages and modules say exists: links, paths, commands with their options, messages, examples.

A module's docstring is read like a page, since nothing else would notice that it speaks of what is gone.
"""

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dlq_tools.cli import app as dlq

from contracts import publish
from contracts.orders.v1 import OrderBody
from contracts.registry import REGISTRY
from infra.stack.cli.main import app as tutti
from services.ingress.http.openapi import ORDER_EXAMPLE
from services.ingress.intake import read_order

PROJECT = Path(__file__).parents[2]
FOLDERS = ("contracts", "docs", "dlq-tools", "infra", "orchestrator", "services", "tests")
PRODUCT = ("contracts", "dlq-tools", "infra", "orchestrator", "services")
PAGES = sorted(
    {page for kind in ("*.md", "docs/**/*.md", *(f"{folder}/**/README.md" for folder in PRODUCT)) for page in PROJECT.glob(kind)}
)
MODULES = sorted(module for folder in PRODUCT for module in (PROJECT / folder).rglob("*.py"))
PAGE_IDS = [str(page.relative_to(PROJECT)) for page in PAGES]
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
PYTHON = re.compile(r"(\.venv/bin/)?python3?")
PROGRAMS: dict[str, Any] = {"tutti": typer.main.get_command(tutti), "dlq": typer.main.get_command(dlq)}
OPTION = re.compile(r"--?[a-z]")
MESSAGE = re.compile(rf"\b(?:{'|'.join(sorted({name.split('.')[0] for name in REGISTRY}))})\.[a-z-]+\.v[0-9]+\b")
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*{{}}-]*[\w/*}}]")
# Words in capitals stand for something, as in `services/NAME/migrations/`; `notification` is the example of CONTRIBUTING.
PLACEHOLDER = re.compile(r"[A-Z]{3,}|vN|\bN\b|[*…{}]|\.\.\.|/notification\b")


def code(text: str) -> Iterator[str]:
    """Lines of code blocks, and code within lines."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line for block in blocks for line in block.splitlines())
    without = re.sub(r"^```[a-z]*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line[4:] for line in without.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", without)


def commands(text: str) -> Iterator[list[str]]:
    """Calls of make, tutti, dlq and `python -m`, as words."""
    for line in code(text):
        for part in re.split(r"&&|;|\||\s#\s|&\s*$", line.split("  #")[0]):
            try:
                words = shlex.split(part)
            except ValueError:
                # The separator stood within quotes: what is left of it has the command and some of its options.
                words = part.split()
            while words and re.fullmatch(r"[A-Z_]+=\S*|\$", words[0]):
                words.pop(0)
            if len(words) > 1 and words[0].removeprefix(".venv/bin/") in ("make", *PROGRAMS):
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]
            if len(words) > 2 and PYTHON.fullmatch(words[0]) and words[1] == "-m":
                yield ["python -m", *words[2:]]


def problem(words: list[str]) -> str | None:
    """What does not exist in this command."""
    program, *rest = words
    if missing := missing_paths(filter(PATH.fullmatch, rest), PROJECT):
        return f"no file {missing[0]}"
    if program == "make":
        target = rest[0]
        return None if target in TARGETS else f"no target {target}"
    if program == "python -m":
        return problem_of_module(rest)
    command = PROGRAMS[program]
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if OPTION.match(word) and word.split("=")[0] not in options]
    return f"no option {unknown[0]}" if unknown else None


def problem_of_module(words: list[str]) -> str | None:
    """What does not exist in a call of a module. Options are looked for where argparse spells them, in our own modules only."""
    name, *rest = words
    if PLACEHOLDER.search(name):
        return None
    spec = importlib.util.find_spec(name) if importlib.util.find_spec(name.split(".")[0]) else None
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    if spec is None or spec.origin is None:
        return f"no module {name} that can be run"
    file = Path(spec.origin)
    ours = file.is_relative_to(PROJECT) and ".venv" not in file.parts
    unknown = [word for word in rest if ours and OPTION.match(word) and f'"{word.split("=")[0]}"' not in file.read_text()]
    return f"no option {unknown[0]}" if unknown else None


def docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())) or ""


def missing_paths(words: Iterable[str], own: Path) -> list[str]:
    """Paths that lead nowhere, from the project's root or the page's own folder."""
    return [word for word in words if not PLACEHOLDER.search(word) and not any((at / word).exists() for at in (PROJECT, own))]


def unknown_messages(text: str) -> set[str]:
    return set(MESSAGE.findall(text)) - set(REGISTRY)


def wrong_commands(text: str) -> list[tuple[str, str]]:
    found = [(" ".join(words), problem(words)) for words in commands(text)]
    return [(command, wrong) for command, wrong in found if wrong]


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\[[^\]\n]+\]\(([^)\s]+)\)", page.read_text())
    local = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:", link)]

    assert [link for link in local if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_paths_exist(page: Path) -> None:
    named = [word for span in re.findall(r"`([^`\n]+)`", page.read_text()) for word in span.split()]
    paths = [word for word in named if PATH.match(word) or (page.name == "README.md" and word.endswith(".py"))]

    assert missing_paths(paths, page.parent) == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_commands_exist_with_their_options(page: Path) -> None:
    assert wrong_commands(page.read_text()) == []


def test_the_readme_names_commands_that_this_test_sees() -> None:
    seen = [" ".join(words[:2]) for words in commands((PROJECT / "README.md").read_text())]

    assert {"make demo", "make test", "tutti up", "tutti reconcile", "dlq list"} <= set(seen)


@pytest.mark.parametrize(
    "words",
    [
        ["make", "tea"],
        ["tutti", "brew"],
        ["tutti", "saga", "brew"],
        ["dlq", "list", "--milk"],
        ["python -m", "infra.tea"],
        ["python -m", "infra.stack.local.servers", "--milk"],
    ],
)
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    assert problem(words) is not None


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_messages_that_a_page_names_are_registered(page: Path) -> None:
    assert unknown_messages(page.read_text()) == set()


def test_what_modules_say_of_themselves_exists() -> None:
    found: dict[str, list[object]] = {}
    for module in MODULES:
        text = docstring(module)
        paths = {*PATH.findall(text), *re.findall(r"[\w/.-]+\.py\b", text)}
        wrong = [*missing_paths(paths, module.parent), *wrong_commands(text), *unknown_messages(text)]
        if wrong:
            found[str(module.relative_to(PROJECT))] = wrong

    assert found == {}


def test_the_list_of_messages_is_that_of_the_registry() -> None:
    assert (PROJECT / "docs/messages.md").read_text() == publish.message_list(), "run: python -m contracts.publish"


def test_the_published_schemas_are_those_of_the_models() -> None:
    assert publish.problems() == []


def test_the_example_order_is_an_order_for_contract_and_partner_and_the_one_that_openapi_shows() -> None:
    example = json.loads((PROJECT / "docs/examples/order.json").read_text())

    assert OrderBody.model_validate(example).order_number == "PO-1001"
    assert read_order(example).lines[0].sku == "P-100"
    assert example == ORDER_EXAMPLE


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_json_in_a_page_is_json(page: Path) -> None:
    for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        json.loads(block)


def test_each_library_is_argued_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[\[<>=~! ]", one)[0] for one in listed}
    argued = set(re.findall(r"`([a-z0-9-]+)`", (PROJECT / "docs/adr/0002-libraries.md").read_text()))

    assert {name for name in names if not name.startswith("types-")} - argued == set()


@pytest.mark.parametrize("page", sorted((PROJECT / "docs/adr").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_says_how_we_would_notice_that_it_was_wrong(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)

    assert headings == ["Context", "Decision", "Consequences", "How we would notice that it was wrong"]

"""What CONTRIBUTING says of commits is what the log shows, and `make help` lists what the Makefile has."""

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# The commits before it were written before the rules.
RULES_SINCE = "7c099cb"
SUBJECT_LENGTH_MAX = 72
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home|tmp|Users)/\S")


def commits() -> list[tuple[str, str, str]]:
    """(id, subject, body) of each commit since the rules. Skips where there is no such history, as in an image or a shallow clone."""
    form = "--format=%h%x1f%s%x1f%b%x1e"
    found = subprocess.run(
        ["git", "log", "--no-merges", form, f"{RULES_SINCE}..HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"this checkout has no history since {RULES_SINCE}: {found.stderr.strip()[:200]}")
    records = [record.strip("\n").split("\x1f") for record in found.stdout.split("\x1e") if record.strip()]
    return [(one[0], one[1], one[2].strip()) for one in records]


def problems(subject: str, body: str) -> list[str]:
    found = []
    if len(subject) >= SUBJECT_LENGTH_MAX:
        found.append(f"a subject of {len(subject)} characters")
    if not body:
        found.append("no body that says why")
    if MACHINE_PATHS.search(f"{subject}\n{body}"):
        found.append("a path of a machine")
    return found


def test_the_log_follows_the_rules_of_contributing() -> None:
    wrong = {f"{commit} {subject}": found for commit, subject, body in commits() if (found := problems(subject, body))}

    assert wrong == {}, "see CONTRIBUTING.md, Committing"


@pytest.mark.parametrize(
    ("subject", "body"),
    [("x" * 72, "Because."), ("Short", ""), ("Short", "Found in /tmp/here."), ("See /work/main", "Because.")],
)
def test_a_commit_that_breaks_a_rule_is_noticed(subject: str, body: str) -> None:
    assert problems(subject, body) != []


def test_help_lists_every_target() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)

    assert sorted(listed) == sorted(phony[1].split())

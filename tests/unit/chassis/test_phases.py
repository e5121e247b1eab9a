"""What is due of a line of migrations follows from their names; and the names of ours are right."""

import re
from pathlib import Path

import pytest

from infra.chassis.phases import Phase, PhaseError, due, phase_of
from infra.chassis.schema import CHASSIS, migrations_of
from infra.stack.local.layout import PACKAGES

FOLDERS = {"chassis": CHASSIS / "migrations", **{name: migrations_of(package) for name, package in PACKAGES.items()}}
SAID = re.compile(r'^(revision|down_revision) = "?([\w]+)"?$', re.MULTILINE)
LINE = ("0001_orders", "0002_pre_add", "0003_pre_fill", "0004_post_drop", "0005_post_check")


def scripts(folder: Path | None) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py") if folder else []


@pytest.mark.parametrize("name", FOLDERS)
def test_each_migration_of_ours_says_its_phase_and_follows_the_one_before(name: str):
    before = "None"
    for number, path in enumerate(scripts(FOLDERS[name]), start=1):
        said = dict(SAID.findall(path.read_text()))
        phase_of(path.stem)
        assert path.stem.startswith(f"{number:04}_"), path
        assert said == {"revision": f"{name}_{number:04}", "down_revision": before}, path
        before = said["revision"]


@pytest.mark.parametrize(
    ("name", "phase"),
    [("0001_orders", Phase.PRE), ("0002_pre_add", Phase.PRE), ("0017_post_drop_old", Phase.POST), ("0001_post_box", Phase.PRE)],
)
def test_a_name_says_the_phase_and_the_first_of_a_line_is_pre(name: str, phase: Phase):
    assert phase_of(name) is phase


@pytest.mark.parametrize("name", ["0002_add", "0002_Pre_add", "2_pre_add", "0002_pre", "0002-pre-add", "0002_pre_", "0002_post"])
def test_a_name_that_says_no_phase_is_refused(name: str):
    with pytest.raises(PhaseError, match=re.escape(name)):
        due(["0001_orders", name], 1, Phase.PRE)


@pytest.mark.parametrize(
    ("applied", "pre", "post"),
    [
        (0, LINE, LINE),  # Nobody uses it yet.
        (1, LINE[1:3], LINE[1:]),
        (2, LINE[2:3], LINE[2:]),
        (3, (), LINE[3:]),
        (4, (), LINE[4:]),
        (5, (), ()),
    ],
)
def test_pre_stops_before_the_first_post_and_post_applies_the_rest(applied: int, pre: tuple[str, ...], post: tuple[str, ...]):
    assert due(LINE, applied, Phase.PRE) == pre
    assert due(LINE, applied, Phase.POST) == post


@pytest.mark.parametrize("applied", [1, 2, 3])
def test_a_pre_migration_behind_an_unapplied_post_one_is_refused_unless_everything_is_asked_for(applied: int):
    line = (*LINE, "0006_pre_next")

    with pytest.raises(PhaseError, match=r"0006_pre_next comes after 0004_post_drop"):
        due(line, applied, Phase.PRE)
    assert due(line, applied, Phase.POST) == line[applied:]
    assert due(line, 5, Phase.PRE) == ("0006_pre_next",)
    assert due(line, 0, Phase.PRE) == line

"""A service's schema through two releases: what is applied while old processes run, and what only afterwards."""

import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from infra.chassis.phases import Phase, PhaseError
from infra.chassis.schema import upgrade

SERVICE, PACKAGE = "toy", "toy_of_phases"
MIGRATION = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "toy_{number}", {before!r}, {labels!r}, None


def upgrade():
    op.execute("{statement}")
"""


class Toy:
    """A package with a line of migrations that grows from release to release."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / PACKAGE / "migrations"
        self._folder.mkdir(parents=True)
        for directory in (self._folder, self._folder.parent):
            (directory / "__init__.py").touch()

    def release(self, name: str, statement: str) -> None:
        number = name.partition("_")[0]
        before = None if number == "0001" else f"toy_{int(number) - 1:04}"
        labels = (SERVICE,) if before is None else None
        (self._folder / f"{name}.py").write_text(
            MIGRATION.format(number=number, before=before, labels=labels, statement=statement)
        )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Toy(tmp_path)
    made.release("0001_box", "CREATE TABLE box (old int)")
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


async def columns(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'box' ORDER BY 1")
        return [row["column_name"] for row in rows]
    finally:
        await connection.close()


async def test_what_old_code_cannot_live_with_waits_for_the_post_phase(database_url: str, toy: Toy):
    await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.PRE)
    toy.release("0002_pre_add", "ALTER TABLE box ADD COLUMN new int")
    toy.release("0003_post_drop", "ALTER TABLE box DROP COLUMN old")

    for _ in range(2):
        assert await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.PRE) == ("0003_post_drop",)
        assert await columns(database_url) == ["new", "old"]
    for _ in range(2):
        assert await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.POST) == ()
        assert await columns(database_url) == ["new"]


async def test_a_new_database_gets_everything_in_either_phase(database_url: str, toy: Toy):
    toy.release("0002_post_drop", "ALTER TABLE box DROP COLUMN old")
    toy.release("0003_pre_add", "ALTER TABLE box ADD COLUMN new int")

    assert await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.PRE) == ()
    assert await columns(database_url) == ["new"]


async def test_a_forgotten_post_migration_stops_the_next_release_before_anything_is_changed(database_url: str, toy: Toy):
    await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.PRE)
    toy.release("0002_pre_add", "ALTER TABLE box ADD COLUMN new int")
    toy.release("0003_post_drop", "ALTER TABLE box DROP COLUMN old")
    toy.release("0004_pre_next", "ALTER TABLE box ADD COLUMN next int")

    with pytest.raises(PhaseError, match="0004_pre_next comes after 0003_post_drop"):
        await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.PRE)
    assert await columns(database_url) == ["old"]
    await upgrade(database_url, SERVICE, PACKAGE, phase=Phase.POST)
    assert await columns(database_url) == ["new", "next"]

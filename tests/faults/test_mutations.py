"""Guards against tests that prove nothing: with one protection turned off in a copy of the tree, a chosen test goes red.

Each copy differs in one line. The tests run on the servers of this one, in databases and virtual hosts of their own.
"""

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.platform import clean_environment
from tests.support.servers import TestServers

TREE = Path(__file__).parents[2]
COPIED = ("contracts", "dlq-tools", "infra", "orchestrator", "services", "tests", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*_cache", ".hypothesis")
SECONDS_MAX = 100
TESTS_FAILED = 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line that protects, what stands there instead, and the test that must notice."""

    protects: str
    file: str
    line: str
    instead: str
    test: str


MUTATIONS = (
    Mutation(
        "inbox",
        "infra/chassis/inbox.py",
        "    return Received(new, {operation_id: operation_id in own for operation_id, _ in claimed}, now)\n",
        "    return Received(set(asked), {operation_id: operation_id in own for operation_id, _ in claimed}, now)\n",
        "tests/integration/chassis/test_one_operation.py::test_the_same_message_twice_in_one_batch_and_again_later_has_one_effect_and_one_answer",
    ),
    Mutation(
        "operations",
        "infra/chassis/operation_rows.py",
        "    return {**new, **await lock(connection, known)} if known else new\n",
        "    return {**new, **{one: Operation(id=one, correlation_id=correlations[one]) for one in known}}\n",
        "tests/integration/chassis/test_one_operation.py::test_a_repeated_command_gets_the_stored_answer_again_and_its_side_events_are_not_repeated",
    ),
    Mutation(
        "natural key",
        "services/credit/migrations/0001_credit_lines.py",
        "            CONSTRAINT credit_hold_one_per_operation PRIMARY KEY (operation_id),\n",
        "",
        "tests/faults/test_walls.py::test_a_second_effect_of_one_operation_is_refused_by_its_table[credit]",
    ),
    Mutation(
        "relay lock",
        "infra/chassis/relay.py",
        " FOR UPDATE SKIP LOCKED)\n",
        ")\n",
        "tests/faults/test_walls.py::test_two_sweepers_at_the_same_moment_take_different_rows",
    ),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.protects.replace(" ", "-"))
async def test_without_its_protection_the_suite_goes_red(servers: TestServers, tmp_path: Path, mutation: Mutation) -> None:
    copy = _copy(tmp_path)
    file = copy / mutation.file
    text = file.read_text()
    assert text.count(mutation.line) == 1, f"{mutation.file} has changed; say here which line protects now"
    file.write_text(text.replace(mutation.line, mutation.instead))

    code, output = await _run(copy, servers, mutation.test)

    assert code == TESTS_FAILED, output
    assert "1 failed" in output, output


async def test_the_same_tests_are_green_in_an_unchanged_copy(servers: TestServers, tmp_path: Path) -> None:
    code, output = await _run(_copy(tmp_path), servers, *(mutation.test for mutation in MUTATIONS))

    assert code == 0, output


def _copy(directory: Path) -> Path:
    copy = directory / "tree"
    for name in COPIED:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=NOT_COPIED)
        else:
            shutil.copy(source, copy / name)
    return copy


async def _run(copy: Path, servers: TestServers, *tests: str) -> tuple[int, str]:
    """pytest in the copy, on the same servers: its exit code, and what it printed."""
    environment = {
        **clean_environment(),
        # What was asked of this run is not asked of that one.
        "PYTEST_ADDOPTS": "",
        "TUTTI_TEST_HOME": str(servers.home.path),
        # Before the checkout that the environment's installation points to.
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "dlq-tools")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests),
        cwd=copy, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    return process.returncode or 0, output.decode()

"""The container files pass their linters, all rules on, any finding fails."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LINT_SECONDS_MAX = 60


def lint(program: str, *arguments: str) -> None:
    found = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=LINT_SECONDS_MAX,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_dockerfile_passes_hadolint():
    lint("hadolint", "--failure-threshold", "style", "infra/docker/Dockerfile")


def test_the_compose_file_passes_compose_lint():
    config = "infra/docker/compose-lint.yml"
    # --no-env and --no-merge-overrides: what somebody has beside it on this machine is not the project's.
    lint(
        *("compose-lint", "check", "--strict-config", "--fail-on", "low", "--config", config),
        *("--no-env", "--no-merge-overrides", "docker-compose.yml"),
    )

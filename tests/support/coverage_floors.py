"""`python -m tests.support.coverage_floors`: the share of lines and branches that the tests reach, for each package.

A floor is what was reached when it was set, rounded down, and is only ever raised: a change that lowers it has left something
untested. Processes that a test starts are not measured, so what runs only in them counts as missed (the supervisor's children, jobs).
"""

import io
import sys
from pathlib import Path
from typing import Final

from coverage import Coverage

PROJECT: Final = Path(__file__).parents[2]
FLOORS: Final = {
    "contracts": 0,
    "services": 0,
    "orchestrator": 0,
    "dlq-tools/dlq_tools": 0,
    "infra/broker": 0,
    "infra/chassis": 0,
    "infra/terminal": 0,
    "infra/stack": 0,
}


def reached(coverage: Coverage, package: str) -> float:
    """Percent of the package's lines and branches."""
    return coverage.report(include=[f"{PROJECT / package}/*"], file=io.StringIO(), skip_empty=True)


def main() -> int:
    """1 and the names of the packages that are below their floor; a package far above it is named too, as a hint."""
    coverage = Coverage(data_file=str(PROJECT / ".coverage"))
    coverage.load()
    below = []
    for package, floor in FLOORS.items():
        percent = reached(coverage, package)
        print(
            f"{package:22} {percent:5.1f} % of lines and branches, floor {floor} %{'' if percent < floor + 2 else ': raise it'}"
        )
        if percent < floor:
            below.append(package)
    if below:
        print(f"below the floor: {', '.join(below)}; `coverage report -m --include='PACKAGE/*'` shows what no test reaches")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every version of every workflow that is known here: those of the files, and older ones that sagas still run on."""

from collections.abc import Iterable, Iterator

from infra.chassis.errors import UnknownVersion
from orchestrator.workflow import Workflow


class Catalogue:
    """Workflows by name and version. Grows when a saga turns up that runs on a version not known yet."""

    def __init__(self, workflows: Iterable[Workflow]) -> None:
        self._workflows: dict[tuple[str, int], Workflow] = {}
        self._starting: dict[str, tuple[Workflow, ...]] = {}
        for workflow in workflows:
            self.add(workflow)

    def add(self, workflow: Workflow) -> None:
        """Adds a version; one that is there already is replaced."""
        self._workflows[workflow.name, workflow.version] = workflow
        newest: dict[str, Workflow] = {}
        for _, known in sorted(self._workflows.items()):
            newest[known.name] = known
        self._starting = {
            start: tuple(known for known in newest.values() if known.start_on == start)
            for start in {known.start_on for known in newest.values()}
        }

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._workflows

    def __iter__(self) -> Iterator[Workflow]:
        return iter(self._workflows.values())

    def get(self, name: str, version: int) -> Workflow:
        """The version that a saga is pinned to. Raises UnknownVersion, so that its message waits for somebody who knows it."""
        try:
            return self._workflows[name, version]
        except KeyError:
            raise UnknownVersion(f"workflow {name} version {version} is not known here; deploy the version that has it") from None

    def started_by(self, wire_name: str) -> tuple[Workflow, ...]:
        """The newest version of each workflow that this event may start."""
        return self._starting.get(wire_name, ())

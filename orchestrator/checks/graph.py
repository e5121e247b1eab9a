"""Which step waits for which: their order, who comes before whom, and what cannot be ordered."""

from collections.abc import Mapping

from orchestrator.checks.messages import nearest
from orchestrator.language import StepPart, WorkflowPart
from orchestrator.source import Path, Source


class Graph:
    """The steps of one definition by their `after`. Whatever cannot be is reported, and left out of the order's argument."""

    def __init__(self, part: WorkflowPart, source: Source) -> None:
        self._source = source
        self.steps: Mapping[str, StepPart] = {step.id: step for step in part.steps}
        self.index = {step.id: number for number, step in enumerate(part.steps)}
        self._after = {step.id: self._known(step) for step in part.steps}
        self.order = self._ordered()
        """The steps so that each comes after all that it waits for; steps that cannot be ordered come last."""
        self.upstream: dict[str, frozenset[str]] = {}
        for name in self.order:
            before = self._after[name]
            self.upstream[name] = frozenset(before).union(*(self.upstream.get(item, ()) for item in before))

    def path(self, step: str) -> Path:
        """Where the step stands in the text. Of two steps of one name it is the last."""
        return ("steps", self.index[step])

    def dependents(self, step: str) -> frozenset[str]:
        """All steps that come after it, however far."""
        return frozenset(name for name, earlier in self.upstream.items() if step in earlier)

    def _known(self, step: StepPart) -> tuple[str, ...]:
        known = []
        for position, name in enumerate(step.after):
            path: Path = (*self.path(step.id), "after", position)
            if name not in self.index:
                self._source.report(path, f"there is no step `{name}`", nearest(name, self.index, "name a step of this file"))
            elif name in known:
                self._source.report(path, f"`{name}` stands here twice", "keep one of the two")
            else:
                known.append(name)
        return tuple(known)

    def _ordered(self) -> list[str]:
        order: list[str] = []
        waiting = list(self._after)
        while waiting:
            ready = [name for name in waiting if all(earlier in order for earlier in self._after[name])]
            if not ready:
                break
            order.append(ready[0])
            waiting.remove(ready[0])
        self._report_unordered(waiting)
        return [*order, *waiting]

    def _report_unordered(self, waiting: list[str]) -> None:
        cycles = _cycles(self._after)
        for cycle in cycles:
            self._source.report(
                (*self.path(cycle[0]), "after"),
                f"these steps wait for each other: {' -> '.join((*cycle, cycle[0]))}",
                "take one of the names out of an `after`",
                at_key=True,
            )
        in_cycles = {name for cycle in cycles for name in cycle}
        for name in waiting:
            if name not in in_cycles:
                self._source.report(
                    (*self.path(name), "id"),
                    f"`{name}` can never start: it waits for steps that wait for each other",
                    "resolve the cycle before it",
                )


def _cycles(after: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each group of steps that wait for each other, once, as a walk along `after`."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for start in after:
        walk = _walk_back(start, after)
        if walk is not None and not any(set(walk) & group for group in found):
            found[frozenset(walk)] = walk
    return list(found.values())


def _walk_back(goal: str, after: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The shortest way from `goal` along `after` back to itself."""
    frontier: list[tuple[str, tuple[str, ...]]] = [(goal, (goal,))]
    seen: set[str] = set()
    while frontier:
        name, path = frontier.pop(0)
        for earlier in after[name]:
            if earlier == goal:
                return path
            if earlier not in seen:
                seen.add(earlier)
                frontier.append((earlier, (*path, earlier)))
    return None

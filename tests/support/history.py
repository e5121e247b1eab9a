"""What clients were told, by key and id and not by number, so that a lost order and a bug of the counting cannot be confused."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class History:
    """Append-only; with a path also as lines of JSON, to be read after a failed run."""

    def __init__(self, path: Path | None = None) -> None:
        self.attempts: dict[str, int] = defaultdict(int)
        self.ids: dict[str, set[str]] = defaultdict(set)
        self.unknowns: dict[str, list[str]] = defaultdict(list)
        self.refusals: dict[str, str] = {}
        self.cancellations: dict[str, str] = {}
        self.faults: list[str] = []
        self._file = path.open("a", buffering=1) if path else None

    def posted(self, key: str) -> None:
        self.attempts[key] += 1
        self._write("posted", key=key)

    def accepted(self, key: str, order_id: str) -> None:
        """A 2xx: the promise that the order exists."""
        self.ids[key].add(order_id)
        self._write("accepted", key=key, order_id=order_id)

    def refused(self, key: str, status: int, text: str) -> None:
        """A definite 4xx: nothing was to happen."""
        self.refusals[key] = f"HTTP {status} {text[:300]}"
        self._write("refused", key=key, status=status)

    def unknown(self, key: str, how: str) -> None:
        """No answer, or one that promises nothing either way."""
        self.unknowns[key].append(how)
        self._write("unknown", key=key, how=how)

    def cancelling(self, key: str, how: str) -> None:
        """What the request to cancel was answered."""
        self.cancellations[key] = how
        self._write("cancelling", key=key, how=how)

    def fault(self, what: str) -> None:
        """Something was broken on purpose, and is known to have broken."""
        self.faults.append(what)
        self._write("fault", what=what)

    @property
    def open_keys(self) -> set[str]:
        """Posted and never definitely answered: these orders exist once or not at all."""
        return self.attempts.keys() - self.ids.keys() - self.refusals.keys()

    def accepted_ids(self) -> set[str]:
        return {order_id for ids in self.ids.values() for order_id in ids}

    def summary(self) -> str:
        unknown = sum(map(len, self.unknowns.values()))
        return (
            f"{len(self.attempts)} orders in {sum(self.attempts.values())} posts: {len(self.ids)} accepted, {len(self.refusals)} refused, "
            f"{len(self.open_keys)} never answered, {unknown} answers unknown; faults: {', '.join(_counted(self.faults)) or 'none'}"
        )

    def _write(self, kind: str, **facts: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"at": time.time(), "kind": kind, **facts}) + "\n")


def _counted(words: Iterable[str]) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for word in words:
        counts[word] += 1
    return [f"{word} x{count}" if count > 1 else word for word, count in counts.items()]

"""Keeps the lists in force up to date; without it, a new list would wait for the next restart.

The files are looked at every few seconds. When they changed, the new list is read beside the message loop, in
a thread, and takes the place of the old one as a whole, between two batches. A list that cannot be read, or
that lost most of its entries, is refused with a logged error and a gauge that says so, and the old one stays in
force until the files change again. Files replaced one after the other do no harm: the mixture is refused, or
replaced soon after.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from services.compliance.adapters.denied_parties import ENTRIES_FILE, LIST_FILES, read_denied_parties
from services.compliance.adapters.refusal import ListRefusedError, Problem
from services.compliance.adapters.trade_rules import RULE_FILES, read_trade_rules
from services.compliance.domain import ScreeningLists
from services.compliance.metrics import LISTS_REFUSED

log = structlog.get_logger(__name__)

SHARE_OF_ENTRIES_KEPT_MIN: Final = 0.5
"""A new list with less than this share of the entries in force is taken for a truncated download."""

_Fingerprint = tuple[tuple[str, int, int, int], ...]


class ListSource:
    """The lists in force, from a folder in the SDN format and a folder with the trade rules.

    The two folders may be the same. Not safe for several threads: one message loop calls it.
    """

    def __init__(
        self,
        sdn_folder: Path,
        rules_folder: Path,
        *,
        check_every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        """Read the first lists. Raises ListRefusedError: a service that cannot screen must not start."""
        self._sdn_folder = sdn_folder
        self._rules_folder = rules_folder
        self._check_every_seconds = check_every_seconds
        self._clock = clock
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="denied-parties")
        self._owns_executor = executor is None
        self._reading: Future[ScreeningLists] | None = None
        self._next_check = clock() + check_every_seconds
        self._fingerprint = self._look()
        self._lists = self._read()
        self.problem: str | None = None
        """Why the newest files are not in force; None when they are. The log says why, a gauge only that they are not."""
        self._note(None)
        log.info("lists loaded", list_version=self._lists.version, entries=len(self._lists.denied))

    def current(self) -> ScreeningLists:
        """The lists in force now; cheap enough for every batch, since it never reads a list itself."""
        if self._reading is not None:
            if self._reading.done():
                done, self._reading = self._reading, None
                self._adopt(done)
        elif self._clock() >= self._next_check:
            self._next_check = self._clock() + self._check_every_seconds
            seen = self._look()
            if seen != self._fingerprint:
                # Remembered before reading: files that change meanwhile look changed at the next check, and a
                # refused list is not read again until somebody repairs it.
                self._fingerprint = seen
                self._reading = self._executor.submit(self._read)
        return self._lists

    def close(self) -> None:
        """Give up watching; repeated calls change nothing. Waits for a list that is being read."""
        if self._owns_executor:
            self._executor.shutdown(cancel_futures=True)

    def _adopt(self, reading: Future[ScreeningLists]) -> None:
        old = self._lists
        try:
            new = reading.result()
            _refuse_if_shrunk(str(self._sdn_folder), old, new)
        except (ListRefusedError, OSError) as error:
            self._note(str(error))
            log.error("new lists refused, old ones stay in force", problem=str(error), list_version=old.version)
            return
        self._lists = new
        self._note(None)
        log.info("lists replaced", old_version=old.version, list_version=new.version, entries=len(new.denied))

    def _note(self, problem: str | None) -> None:
        self.problem = problem
        LISTS_REFUSED.set(problem is not None)

    def _read(self) -> ScreeningLists:
        return ScreeningLists(denied=read_denied_parties(self._sdn_folder), rules=read_trade_rules(self._rules_folder))

    def _look(self) -> _Fingerprint:
        paths = [self._sdn_folder / file for file in LIST_FILES]
        paths += [self._rules_folder / file for file in RULE_FILES]
        seen = []
        for path in paths:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            seen.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(seen)


def _refuse_if_shrunk(folder: str, old: ScreeningLists, new: ScreeningLists) -> None:
    before, after = len(old.denied), len(new.denied)
    if after < before * SHARE_OF_ENTRIES_KEPT_MIN:
        what = f"{after} entries where {before} are in force: restart the service if this is meant"
        raise ListRefusedError(folder, (Problem(ENTRIES_FILE, None, what),))

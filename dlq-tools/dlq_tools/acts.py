"""What operators do with dead letters: each act is one transaction over a frozen set, with actor and reason in the history."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dlq_tools.adapters import campaigns, letters, reading
from dlq_tools.adapters.filters import Filters
from dlq_tools.domain import DeadLetter, HistoryEntry, Refused
from dlq_tools.replaying import replay_row
from dlq_tools.settings import Settings
from infra.chassis.outbox import OutboxRow, new_id

_NOW: Final = text("SELECT now()")


class TooMany(Exception):
    """The selection is larger than one act may be; the text says what to type instead."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What an act is about. `limit` takes the oldest so many; None means all that match, up to what one act may be."""

    filters: Filters
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Author:
    """Who does it, and why."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """What an act did, or with a dry run would do. `refused` maps ids to reasons; `unknown` are ids that do not exist."""

    letters: tuple[DeadLetter, ...]
    refused: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    campaign: str | None = None

    @property
    def matched(self) -> int:
        return len(self.letters) + len(self.refused)


async def discard(
    connection: AsyncConnection, selection: Selection, author: Author, settings: Settings, *, dry_run: bool
) -> Done:
    """Gives dead letters up. What is being replayed, resolved or discarded already is refused."""
    now, found, unknown = await _freeze(connection, selection, settings)
    patience = timedelta(seconds=settings.replay_patience_seconds)
    kept, refused = _sort((letter, letter.discard(now=now, patience=patience)) for letter in found)
    if kept and not dry_run:
        await letters.update_lives(connection, kept)
        await letters.insert_history(
            connection, [HistoryEntry(one.id, now, "discarded", author.actor, author.reason) for one in kept]
        )
    return Done(tuple(kept), tuple(refused), unknown)


async def replay(
    connection: AsyncConnection, selection: Selection, author: Author, settings: Settings, *, dry_run: bool
) -> tuple[Done, list[OutboxRow]]:
    """Freezes the set, marks it as replaying and makes the messages, to be committed together. Raises TooMany."""
    now, found, unknown = await _freeze(connection, selection, settings)
    patience = timedelta(seconds=settings.replay_patience_seconds)
    kept, refused = _sort((letter, letter.replay(now=now, patience=patience)) for letter in found)
    size = await reading.bytes_of(connection, [letter.id for letter in kept])
    if size > settings.replay_bytes_max and len(kept) > 1:
        raise TooMany(
            f"their bodies have {size} bytes together, {settings.replay_bytes_max} are allowed at a time; add --limit with a smaller number"
        )
    if not kept:
        return Done((), tuple(refused), unknown), []
    # Their new replay counts go into the messages.
    await letters.update_lives(connection, kept)
    rows: list[OutboxRow] = []
    for replayable in await reading.replayables(connection, [letter.id for letter in kept]):
        row = replay_row(replayable)
        if isinstance(row, Refused):
            refused.append((replayable.id, row.reason))
        else:
            rows.append(row)
    unsendable = {letter_id for letter_id, _ in refused}
    before = {letter.id: letter for letter in found}
    if undo := [before[letter.id] for letter in kept if letter.id in unsendable or dry_run]:
        await letters.update_lives(connection, undo)
    kept = [letter for letter in kept if letter.id not in unsendable]
    if dry_run or not kept:
        return Done(tuple(kept), tuple(refused), unknown), []
    campaign = "c_" + new_id().replace("-", "")
    await campaigns.insert(connection, campaign, author.actor, author.reason, kept)
    history = [
        HistoryEntry(
            one.id,
            now,
            "replayed",
            author.actor,
            author.reason,
            {"campaign": campaign, "replay": one.replays},
        )
        for one in kept
    ]
    await letters.insert_history(connection, history)
    return Done(tuple(kept), tuple(refused), unknown, campaign), rows


async def _freeze(
    connection: AsyncConnection, selection: Selection, settings: Settings
) -> tuple[datetime, list[DeadLetter], tuple[str, ...]]:
    most = min(selection.limit or settings.replay_items_max, settings.replay_items_max)
    found = await letters.lock_matching(connection, selection.filters, most if selection.limit else most + 1)
    if len(found) > settings.replay_items_max:
        raise TooMany(
            f"more than {settings.replay_items_max} dead letters match; take them in parts: add --limit {settings.replay_items_max}"
        )
    known = {letter.id for letter in found}
    wanted: Sequence[str] = selection.filters.ids or ()
    unknown = tuple(one for one in dict.fromkeys(wanted) if one not in known) if selection.limit is None else ()
    now: datetime = (await connection.execute(_NOW)).scalar_one()
    return now, found, unknown


def _sort(
    judged: Iterable[tuple[DeadLetter, DeadLetter | Refused]],
) -> tuple[list[DeadLetter], list[tuple[str, str]]]:
    kept: list[DeadLetter] = []
    refused: list[tuple[str, str]] = []
    for letter, outcome in judged:
        if isinstance(outcome, Refused):
            refused.append((letter.id, outcome.reason))
        else:
            kept.append(outcome)
    return kept, refused

"""Campaigns: the frozen set of each replay, and what became of each of its dead letters."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dlq_tools.domain import DeadLetter, ReplayEnd

_INSERT_CAMPAIGN = text("INSERT INTO campaign (id, actor, reason) VALUES (:id, :actor, :reason)")
_INSERT_ITEMS = text("""
    INSERT INTO campaign_item (campaign_id, dead_letter_id, replay)
    SELECT :campaign, id, replay FROM unnest(CAST(:ids AS text[]), CAST(:replays AS integer[])) AS i (id, replay) ORDER BY id
""")
_CAMPAIGN = text("""
    SELECT campaign.id, actor, reason, created_at, count(item.dead_letter_id) AS items,
        count(*) FILTER (WHERE outcome = 'resolved') AS resolved,
        count(*) FILTER (WHERE outcome = 'failed-again') AS failed_again,
        count(*) FILTER (WHERE outcome = 'pending') AS pending
    FROM campaign LEFT JOIN campaign_item AS item ON item.campaign_id = campaign.id
    WHERE CAST(:id AS text) IS NULL OR campaign.id = :id
    GROUP BY campaign.id ORDER BY created_at DESC LIMIT :limit
""")
_CAMPAIGN_ITEMS = text("""
    SELECT dead_letter_id AS id, replay, outcome FROM campaign_item WHERE campaign_id = :id ORDER BY dead_letter_id
""")
_END_REPLAYS = text("""
    UPDATE campaign_item AS item SET outcome = e.outcome
    FROM unnest(CAST(:ids AS text[]), CAST(:replays AS integer[]), CAST(:outcomes AS text[])) AS e (id, replay, outcome)
    WHERE item.dead_letter_id = e.id AND item.replay <= e.replay AND item.outcome = 'pending'
""")


async def insert(connection: AsyncConnection, campaign: str, actor: str, reason: str, letters: Sequence[DeadLetter]) -> None:
    """The frozen set, each item with the number of the replay that it waits for."""
    await connection.execute(_INSERT_CAMPAIGN, {"id": campaign, "actor": actor, "reason": reason})
    values = {
        "campaign": campaign,
        "ids": [letter.id for letter in letters],
        "replays": [letter.replays for letter in letters],
    }
    await connection.execute(_INSERT_ITEMS, values)


async def figures(connection: AsyncConnection, campaign: str | None, limit: int) -> list[dict[str, Any]]:
    """Newest first, with their figures; `running` while an item waits for its result."""
    rows = await connection.execute(_CAMPAIGN, {"id": campaign, "limit": limit})
    return [
        {
            "campaign": row.id,
            "items": row.items,
            "resolved": row.resolved,
            "failed_again": row.failed_again,
            "pending": row.pending,
            "state": "running" if row.pending else "finished",
            "reason": row.reason,
            "actor": row.actor,
            "created_at": row.created_at,
        }
        for row in rows
    ]


async def results(connection: AsyncConnection, campaign: str) -> list[dict[str, Any]]:
    """Each dead letter of the campaign, with the number of its replay and what became of it."""
    rows = await connection.execute(_CAMPAIGN_ITEMS, {"id": campaign})
    return [dict(row._mapping) for row in rows]


async def end_replays(connection: AsyncConnection, ends: Sequence[ReplayEnd]) -> None:
    """Notes the result with every campaign that waits for it. One dead letter's ends are applied in order, each on its own."""
    rounds: list[dict[str, ReplayEnd]] = []
    for end in ends:
        free = next((one for one in rounds if end.dead_letter_id not in one), None)
        if free is None:
            rounds.append(free := {})
        free[end.dead_letter_id] = end
    for batch in rounds:
        values = list(batch.values())
        await connection.execute(
            _END_REPLAYS,
            {
                "ids": [end.dead_letter_id for end in values],
                "replays": [end.replay for end in values],
                "outcomes": [end.outcome for end in values],
            },
        )

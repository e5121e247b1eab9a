"""The failure desk's internal HTTP API: what `dlq` talks to. Operators only; every act names its actor and its reason."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from contracts.registry import queues
from dlq_tools import acts
from dlq_tools.acts import Author, Selection, TooMany
from dlq_tools.adapters import campaigns, letters, reading
from dlq_tools.adapters.filters import Filters
from dlq_tools.answers import as_json, details, figures, shown
from dlq_tools.domain import HistoryEntry, State
from dlq_tools.settings import Settings
from infra.broker.topology import DEAD_SUFFIX
from infra.chassis.port import operators_only
from infra.chassis.runtime import Runtime

Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True, pattern=r"^[^\x00]*$")]
Shown = Literal["open", "replaying", "resolved", "discarded", "parked"]
Limit = Annotated[int, Field(ge=1, le=10_000)]


class SelectionBody(BaseModel):
    """Ids, or filters, or all: one of the three, so that a forgotten filter does not mean everything."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    queue: Name | None = None
    type: Name | None = None
    group: Name | None = None
    state: Shown | None = None
    since: AwareDatetime | None = None
    correlation_id: Name | None = None
    limit: Limit | None = None
    all: bool = False

    def selection(self, default_state: State) -> Selection:
        """Raises HTTPException where it says nothing. Filters mean what the act can be done with, unless they name a state."""
        narrowing = (self.queue, self.type, self.group, self.state, self.since, self.correlation_id)
        if not self.ids and not self.all and all(value is None for value in narrowing):
            raise HTTPException(422, "select something: ids, filters, or all")
        state = self.state or (None if self.ids else default_state.value)
        filters = Filters(
            ids=self.ids or None, queue=self.queue, type=self.type, group=self.group, state=state, since=self.since,
            correlation_id=self.correlation_id,
        )  # fmt: skip
        return Selection(filters, self.limit)


class ActBody(BaseModel):
    """An operator's act. A dry run changes nothing and says what would happen."""

    model_config = ConfigDict(extra="forbid")

    selection: SelectionBody
    reason: Reason
    actor: Name
    dry_run: bool = False

    def author(self) -> Author:
        return Author(f"operator:{self.actor}", self.reason)


class RevealBody(BaseModel):
    """Why somebody wants to see personal data, and who."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    actor: Name


def routes(runtime: Runtime, settings: Settings) -> APIRouter:
    """What the desk adds to its port."""
    router = APIRouter(
        prefix="/internal",
        dependencies=[Depends(operators_only(settings.operator_token))],
        include_in_schema=False,
    )

    dead_queues = [queue + DEAD_SUFFIX for queue in queues()]

    @router.get("/dead-letters")
    async def list_dead_letters(
        queue: Name | None = None,
        type: Name | None = None,
        group: Name | None = None,
        state: Shown | None = None,
        since: AwareDatetime | None = None,
        correlation_id: Name | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> Response:
        filters = Filters(None, queue, type, group, state, since, correlation_id)
        async with runtime.engine.connect() as connection:
            return as_json(await reading.items(connection, filters, min(limit, settings.list_items_max)))

    @router.get("/dead-letter-identities")
    async def list_identities(
        since: AwareDatetime | None = None,
        after: Name | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        """All dead letters, a page at a time: `after` is what the next page is asked for with, None after the last."""
        async with runtime.engine.connect() as connection:
            found = await reading.identities(connection, since, after or "", limit)
        return as_json({"letters": found, "after": found[-1]["id"] if len(found) == limit else None})

    @router.get("/dead-queues")
    async def list_dead_queues() -> Response:
        """How many messages wait for the collector, by queue."""
        try:
            depths = {name: (await runtime.consumption.depth(name))[0] for name in dead_queues}
        except ConnectionError as error:
            raise HTTPException(503, str(error)) from error
        return as_json(depths)

    @router.get("/dead-letters/{letter}")
    async def show_dead_letter(letter: Name) -> Response:
        async with runtime.engine.connect() as connection:
            found = await reading.item(connection, letter)
        # Masking looks at every byte, and a body may have many MiB.
        return as_json(await asyncio.to_thread(shown, found, letter, revealed=False))

    @router.post("/dead-letters/{letter}/reveal")
    async def reveal_dead_letter(letter: Name, body: RevealBody) -> Response:
        async with runtime.unit() as unit:
            found = await reading.item(unit.connection, letter)
            if found is not None:
                entry = HistoryEntry(letter, datetime.now(UTC), "revealed", f"operator:{body.actor}", body.reason)
                await letters.insert_history(unit.connection, [entry])
        return as_json(shown(found, letter, revealed=True))

    @router.post("/dead-letters/replay")
    async def replay_dead_letters(body: ActBody) -> Response:
        try:
            async with runtime.unit() as unit:
                done, rows = await acts.replay(
                    unit.connection,
                    body.selection.selection(State.OPEN),
                    body.author(),
                    settings,
                    dry_run=body.dry_run,
                )
                unit.rows += rows
        except TooMany as error:
            raise HTTPException(409, str(error)) from error
        return as_json({**figures(done, dry_run=body.dry_run), **details(done)})

    @router.post("/dead-letters/discard")
    async def discard_dead_letters(body: ActBody) -> Response:
        try:
            async with runtime.unit() as unit:
                done = await acts.discard(
                    unit.connection,
                    body.selection.selection(State.OPEN),
                    body.author(),
                    settings,
                    dry_run=body.dry_run,
                )
        except TooMany as error:
            raise HTTPException(409, str(error)) from error
        return as_json(
            {
                "discarded": 0 if body.dry_run else len(done.letters),
                "items": len(done.letters),
                "dry_run": body.dry_run,
                **details(done),
            }
        )

    @router.get("/campaigns")
    async def list_campaigns(limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
        async with runtime.engine.connect() as connection:
            return as_json(await campaigns.figures(connection, None, min(limit, settings.list_items_max)))

    @router.get("/campaigns/{campaign}")
    async def show_campaign(campaign: Name) -> Response:
        async with runtime.engine.connect() as connection:
            found = await campaigns.figures(connection, campaign, 1)
            if not found:
                raise HTTPException(404, f"there is no campaign {campaign!r}; see `dlq campaign list`")
            return as_json({**found[0], "results": await campaigns.results(connection, campaign)})

    return router

"""The orchestrator's internal HTTP API: sagas for operators' tools and for ingress, and what may be asked of them."""

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import text

from infra.chassis.outbox import new_id
from infra.chassis.port import operators_only
from infra.chassis.runtime import Runtime
from orchestrator.catalogue import Catalogue
from orchestrator.instance import Instance, State
from orchestrator.settings import Settings
from orchestrator.views import progress, saga_document, summary

LIST_MAX: Final = 1000
HISTORY_MAX: Final = 2000
POLL_SECONDS: Final = 0.05

ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
SagaId = Annotated[str, Path(pattern=ID_PATTERN)]
# The database has no NUL in its texts.
Words = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True, pattern=r"^[^\x00]*$")]
Filter = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]
Actor = Annotated[str, StringConstraints(pattern=r"^[a-z]+:[A-Za-z0-9._@-]{1,80}$")]

# A statement is planned once for all values, so it has only the conditions that are asked for.
_LIST: Final = "SELECT CAST(document AS text) FROM workflow_instance WHERE {} ORDER BY saga_id DESC LIMIT :limit"
_CONDITIONS: Final = {
    "states": "state = ANY(CAST(:states AS text[]))",
    "workflow": "workflow = :workflow",
    "partner": "partner = :partner",
    "subject": "subject = :subject",
    "owner": "owner = :owner",
    "before": "saga_id < :before",
}
_ONE = text("""
    SELECT CAST(document AS text) FROM workflow_instance
    WHERE state <> 'absent' AND (saga_id = :id OR subject = :id)
    ORDER BY saga_id = :id DESC, saga_id DESC LIMIT 1
""")
_HISTORY = text("""
    SELECT at, kind, step, message_id, CAST(detail AS text) FROM workflow_history
    WHERE saga_id = :saga ORDER BY position LIMIT :limit
""")
_COUNTS = text("SELECT state, count(*) FROM workflow_instance WHERE state <> 'absent' GROUP BY state ORDER BY state")
_ASK = text("""
    INSERT INTO operator_act (act_id, saga_id, kind, reason, actor) VALUES (:act, :saga, :kind, :reason, :actor)
""")
_VERDICT = text("SELECT state, detail FROM operator_act WHERE act_id = :act")


class CancelInput(BaseModel):
    """Why, and who asks: `partner:acme`, `operator:mia`."""

    model_config = ConfigDict(extra="forbid")

    reason: Words
    actor: Actor


def routes(runtime: Runtime, catalogue: Catalogue, settings: Settings) -> APIRouter:
    """All of it asks for the operator's token; a saga may be named by its own id or by its subject (the order's id)."""
    router = APIRouter(
        prefix="/internal/sagas",
        dependencies=[Depends(operators_only(settings.operator_token))],
        include_in_schema=False,
    )
    sagas = _Reading(runtime, catalogue)

    @router.get("")
    async def list_sagas(
        state: Annotated[list[State] | None, Query()] = None,
        workflow: Filter = None,
        partner: Filter = None,
        subject: Filter = None,
        owner: Filter = None,
        after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=LIST_MAX)] = 100,
    ) -> dict[str, Any]:
        filters = {
            "states": [one.value for one in state] if state else None,
            "workflow": workflow,
            "partner": partner,
            "subject": subject,
            "owner": owner,
            "before": after,
        }
        found = await sagas.page(filters, limit)
        more = found[-1].id if len(found) == limit else None
        return {"sagas": [summary(instance) for instance in found], "after": more}

    @router.get("/counts")
    async def count_sagas() -> dict[str, int]:
        async with runtime.engine.connect() as connection:
            return dict(map(tuple, await connection.execute(_COUNTS)))

    @router.get("/{saga}")
    async def show_saga(saga: SagaId) -> dict[str, Any]:
        instance = await sagas.one(saga)
        workflow = await sagas.workflow(instance)
        return saga_document(workflow, instance, await sagas.history(instance.id))

    @router.get("/{saga}/steps")
    async def show_steps(saga: SagaId) -> dict[str, Any]:
        instance = await sagas.one(saga)
        return progress(await sagas.workflow(instance), instance)

    @router.post("/{saga}/cancel", status_code=202)
    async def cancel(saga: SagaId, asked: CancelInput) -> dict[str, str]:
        act_id = new_id()
        saga_id = await sagas.saga_id(saga)
        async with runtime.engine.begin() as connection:
            await connection.execute(
                _ASK,
                {
                    "act": act_id,
                    "saga": saga_id,
                    "kind": "cancel",
                    "reason": asked.reason,
                    "actor": asked.actor,
                },
            )
        for loop in runtime.loops:
            loop.look()
        verdict, detail = await _verdict(runtime, act_id, settings.cancel_wait_seconds)
        if verdict == "refused":
            raise HTTPException(409, f"It cannot be cancelled: {detail}.")
        if verdict == "open":
            raise HTTPException(
                503,
                f"It is asked for, and not decided yet; see the act {act_id}.",
                headers={"Retry-After": "1"},
            )
        return {"act": act_id, "verdict": verdict}

    return router


class _Reading:
    """Reads sagas without locking them."""

    def __init__(self, runtime: Runtime, catalogue: Catalogue) -> None:
        self._runtime = runtime
        self._catalogue = catalogue

    async def page(self, filters: dict[str, Any], limit: int) -> list[Instance]:
        given = {name: value for name, value in filters.items() if value is not None}
        conditions = ("state <> 'absent'", *(_CONDITIONS[name] for name in given))
        statement = text(_LIST.format(" AND ".join(conditions)))
        async with self._runtime.engine.connect() as connection:
            rows = await connection.execute(statement, {**given, "limit": limit})
            return [Instance.from_bytes(document) for (document,) in rows]

    async def one(self, saga: str) -> Instance:
        async with self._runtime.engine.connect() as connection:
            document = (await connection.execute(_ONE, {"id": saga})).scalar_one_or_none()
        if document is None:
            raise HTTPException(404, f"there is no process {saga}; `tutti saga list` shows those that there are")
        return Instance.from_bytes(document)

    async def saga_id(self, saga: str) -> str:
        """The id behind a subject; an unknown one is taken as an id: a cancellation may come before its start."""
        async with self._runtime.engine.connect() as connection:
            document = (await connection.execute(_ONE, {"id": saga})).scalar_one_or_none()
        return Instance.from_bytes(document).id if document is not None else saga

    async def workflow(self, instance: Instance) -> Any:
        """The definition of a saga; None while no workflow has started it, or where this replica does not know it."""
        key = (instance.workflow, instance.version)
        return self._catalogue.get(*key) if key in self._catalogue else None

    async def history(self, saga_id: str) -> list[tuple[datetime, str, str | None, str | None, str]]:
        async with self._runtime.engine.connect() as connection:
            rows = await connection.execute(_HISTORY, {"saga": saga_id, "limit": HISTORY_MAX})
            return [(at, kind, step, message_id, detail) for at, kind, step, message_id, detail in rows]


async def _verdict(runtime: Runtime, act_id: str, seconds: float) -> tuple[str, str]:
    """Asks the row, which the loop decides, until there is a verdict or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        async with runtime.engine.connect() as connection:
            state, detail = (await connection.execute(_VERDICT, {"act": act_id})).one()
        if state != "open" or time.monotonic() >= deadline:
            return state, detail or ""
        await asyncio.sleep(POLL_SECONDS)

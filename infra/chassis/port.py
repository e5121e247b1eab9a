"""Each service's HTTP port: health, metrics, the internal API for operators' tools, and the service's own routes."""

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

RETRIES_MAX = 1000
LIST_RETRIES = text(
    """
    SELECT consumer AS queue, source, message_id, type, operation_id, correlation_id, attempts, error_class, error,
           first_failed_at, last_failed_at, due_at
    FROM retry ORDER BY due_at LIMIT :limit
    """
)
MOVE_RETRIES = text("UPDATE retry SET due_at = now() WHERE message_id = ANY(CAST(:ids AS text[])) RETURNING message_id")


@dataclass(frozen=True, slots=True)
class Health:
    """`problems` is empty when the process is well; each says what is wrong and what to type next."""

    problems: tuple[str, ...]


def operators_only(token: SecretStr) -> Callable[..., None]:
    """A dependency that lets a request through only with the operator's token."""
    expected = token.get_secret_value().encode()

    def check(authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, expected):
            raise HTTPException(401, "an operator's token is needed: Authorization: Bearer TOKEN")

    return check


def routes(
    *,
    live: Callable[[], Health],
    ready: Callable[[], Awaitable[Health]],
    engine: AsyncEngine,
    token: SecretStr,
    reconcile: Callable[[], Awaitable[dict[str, Any]]],
) -> APIRouter:
    """What every service answers on its port."""
    router = APIRouter()

    @router.get("/health/live", include_in_schema=False)
    def is_live() -> Response:
        return _answer(live())

    @router.get("/health/ready", include_in_schema=False)
    async def is_ready() -> Response:
        return _answer(await ready())

    @router.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    internal = APIRouter(prefix="/internal", dependencies=[Depends(operators_only(token))], include_in_schema=False)

    @internal.get("/retries")
    async def list_retries(limit: int = 100) -> list[dict[str, Any]]:
        async with engine.connect() as connection:
            rows = await connection.execute(LIST_RETRIES, {"limit": min(max(limit, 1), RETRIES_MAX)})
            return [dict(row._mapping) for row in rows]

    @internal.post("/retries/now")
    async def retry_now(ids: list[str]) -> dict[str, list[str]]:
        async with engine.begin() as connection:
            rows = await connection.execute(MOVE_RETRIES, {"ids": ids[:RETRIES_MAX]})
            return {"moved": [row.message_id for row in rows]}

    @internal.get("/reconcile")
    async def facts() -> dict[str, Any]:
        return await reconcile()

    router.include_router(internal)
    return router


def application(title: str) -> FastAPI:
    """A bare application; documentation pages would load scripts from elsewhere."""
    return FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)


def _answer(health: Health) -> Response:
    body = json.dumps({"status": "ok" if not health.problems else "failing", "problems": list(health.problems)})
    return Response(body, status_code=503 if health.problems else 200, media_type="application/json")

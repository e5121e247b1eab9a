"""What a service can say about its own messages, for `tutti reconcile`. The command reads no service's tables, it asks the service."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

FACTS: Mapping[str, str] = {
    "emitted": "SELECT message_id, type, operation_id, correlation_id FROM emission WHERE emitted_at >= :since ORDER BY emitted_at",
    "inbox": "SELECT consumer, message_id, state FROM inbox WHERE received_at >= :since",
    "outbox": "SELECT message_id, type, parked, extract(epoch FROM now() - created_at)::integer FROM outbox",
    "retries": "SELECT consumer, message_id, type, due_at::text, operation_id FROM retry",
    "operations": """
        SELECT operation_id, correlation_id, state, do_type, do_answer IS NOT NULL, undo_answer IS NOT NULL,
               pending_do IS NOT NULL OR pending_undo IS NOT NULL, dead_do, dead_undo
        FROM operation WHERE started_at >= :since""",
}


async def facts(
    service: str, engine: AsyncEngine, check: Callable[[AsyncConnection], Any] | None, since: datetime
) -> dict[str, Any]:
    """Rows of the chassis' tables from one snapshot, and the findings of the service's own check."""
    found: dict[str, Any] = {"service": service}
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        for name, statement in FACTS.items():
            rows = await connection.execute(text(statement), {"since": since} if ":since" in statement else {})
            found[name] = [list(row) for row in rows]
        findings = (await check(connection)) if check else []
        found["findings"] = [{"kind": one.kind, "id": one.id, "detail": one.detail, "command": one.command} for one in findings]
    return found

"""Whether new orders may come in: not when those accepted already cannot leave."""

import asyncio
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.ingress.adapters.database import Unavailable, available
from services.ingress.settings import Settings

_BACKLOG: Final = text("""
    SELECT
        (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE NOT parked LIMIT :most) AS counted),
        (SELECT extract(epoch FROM now() - created_at) FROM outbox WHERE NOT parked ORDER BY position LIMIT 1)
""")

log = structlog.get_logger()


class Overload:
    """Looks at the outbox once in a while. `reason` is None while all is well."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.reason: str | None = None

    async def run(self, engine: AsyncEngine) -> None:
        while True:
            try:
                self.reason = await self._look(engine)
            except Unavailable:
                # The next request finds out by itself whether the database is back.
                self.reason = None
            await asyncio.sleep(self._settings.overload_check_seconds)

    async def _look(self, engine: AsyncEngine) -> str | None:
        depth_max = self._settings.outbox_depth_max
        async with available(), engine.connect() as connection:
            depth, age = (await connection.execute(_BACKLOG, {"most": depth_max})).one()
        reason = None
        if depth >= depth_max:
            reason = "too many orders are on their way"
        elif age is not None and float(age) > self._settings.outbox_age_seconds_max:
            reason = "accepted orders have been waiting for too long"
        if reason and reason != self.reason:
            log.warning("overloaded", outbox_rows=depth, outbox_oldest_seconds=float(age or 0))
        return reason

"""The ledger with a system outside that outlives the process: its bookings stand in a table of their own."""

import asyncpg
from pydantic_settings import SettingsConfigDict

from infra.chassis.runtime import Service
from infra.chassis.service import Call, CallResult
from infra.chassis.settings import ServiceSettings
from tests.support import ledger_service
from tests.support.ledger_service import Failures


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_LEDGER__..."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_LEDGER__")


SETTINGS = Settings

TABLE = "CREATE TABLE booking (key text PRIMARY KEY, outcome text NOT NULL, performed integer NOT NULL DEFAULT 1)"


class TableCarrier:
    """Carries out each key once, commits, and answers afterwards, as a system outside does."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, call: Call) -> CallResult | None:
        connection = await asyncpg.connect(self._url)
        try:
            outcome = await connection.fetchval("SELECT outcome FROM booking WHERE key = $1", call.key)
        finally:
            await connection.close()
        return CallResult(call, outcome) if outcome else None

    async def perform(self, call: Call) -> CallResult:
        connection = await asyncpg.connect(self._url)
        try:
            outcome = await connection.fetchval(
                "INSERT INTO booking (key, outcome) VALUES ($1, 'done') "
                "ON CONFLICT (key) DO UPDATE SET performed = booking.performed + 1 RETURNING outcome",
                call.key,
            )
        finally:
            await connection.close()
        return CallResult(call, outcome)


def build(settings: Settings) -> Service:
    return ledger_service.service(failures=Failures(), carrier=TableCarrier(settings.database_url.get_secret_value()))

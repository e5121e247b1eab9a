"""What can be set of the chassis; a quantity has its unit in its name. A service's settings class adds its own and sets the prefix.

Values come from the environment (`TUTTI_CREDIT__BATCH_SIZE_MAX`); a secret may also stand in a file that `..._FILE` names.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class SecretFiles(PydanticBaseSettingsSource):
    """Reads `PREFIX_NAME_FILE` for each field, so that no secret need stand in an environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        prefix = str(self.config.get("env_prefix", ""))
        path = os.environ.get(f"{prefix}{field_name}_FILE".upper())
        return (Path(path).read_text().strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class ServiceSettings(BaseSettings):
    """What every service needs. ADR 4 says where the size of a batch comes from."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", frozen=True, extra="ignore")

    database_url: SecretStr
    broker_url: SecretStr
    operator_token: SecretStr = Field(description="what the internal API asks for; without it the API refuses everybody")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)

    batch_size_max: int = Field(default=100, ge=1, le=1000)
    prefetch_count: int = Field(default=200, ge=1, le=2000)
    linger_seconds: float = Field(default=0.02, ge=0, le=1)
    linger_seconds_max: float = Field(
        default=0.08, ge=0, le=1, description="how far lingering grows with the transactions' duration"
    )
    linger_batch_size_min: int = Field(default=3, ge=1)

    retry_attempts_max: int = Field(default=3, ge=1, le=20)
    retry_first_seconds: float = Field(default=0.5, gt=0)
    retry_delay_seconds_max: float = Field(default=5.0, gt=0)
    retry_budget_seconds: float = Field(default=10.0, gt=0)
    retry_poll_seconds: float = Field(default=1.0, gt=0, description="how often due retries are looked for")
    retry_lease_seconds: float = Field(
        default=10.0, gt=0, description="a claimed retry that was not handled is due again after it"
    )
    unknown_version_attempts_max: int = Field(default=60, ge=1)
    suspect_deliveries_min: int = Field(
        default=2, ge=1, description="x-delivery-count, or tries of a row, from which it is taken alone"
    )
    suspect_tries_max: int = Field(
        default=3,
        ge=1,
        description="with more tries than this, what may have ended the process is a dead letter or given up, unrun",
    )

    call_timeout_seconds: float = Field(default=5.0, gt=0)
    call_lease_seconds: float = Field(default=15.0, gt=0, description="longer than the timeout of a query and a call together")
    calls_over_poll_seconds: float = Field(
        default=5.0,
        ge=0,
        description="how often to look for operations that a crash has left behind with all their calls over",
    )
    call_concurrency_max: int = Field(default=20, ge=1)

    publish_timeout_seconds: float = Field(default=10.0, gt=0)
    relay_batch_size_max: int = Field(default=200, ge=1, le=1000)
    relay_queue_size_max: int = Field(default=20_000, ge=1)
    sweep_interval_seconds: float = Field(default=1.0, gt=0)
    sweep_age_seconds: float = Field(default=3.0, gt=0, description="younger outbox rows belong to the relay's memory")
    row_poll_seconds: float = Field(default=0.25, gt=0)
    watchdog_interval_seconds: float = Field(default=5.0, gt=0)
    purge_interval_seconds: float = Field(default=60.0, gt=0)
    inbox_retention_days: int = Field(default=30, ge=17, description="longest replay (14 days) plus the webhook window (3)")

    database_pool_size: int = Field(default=6, ge=2, le=50)
    database_pool_timeout_seconds: float = Field(default=10.0, gt=0)
    shutdown_seconds: float = Field(default=15.0, gt=0)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretFiles(settings_cls)

"""The settings of fulfillment: those of the chassis, and where the carriers are reached."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from infra.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_FULFILLMENT__...

    `carrier_urls` and `carrier_tokens` are JSON objects from the carrier's name: `{"fastship": "https://api.example/fast"}`.
    """

    model_config = SettingsConfigDict(env_prefix="TUTTI_FULFILLMENT__")

    carrier_urls: Mapping[str, HttpUrl] = Field(default_factory=dict)
    carrier_tokens: Mapping[str, SecretStr] = Field(default_factory=dict)
    carrier_timeout_seconds: float = Field(
        default=4.0, gt=0, description="for one request; shorter than call_timeout_seconds, so that this limit is reached first"
    )
    carrier_connections_max: int = Field(default=20, ge=1, le=200)

    @field_validator("carrier_urls", "carrier_tokens", mode="before")
    @classmethod
    def _from_secret_file(cls, value: Any) -> Any:
        """The environment's JSON is parsed before it comes here; that of a file is not."""
        return json.loads(value) if isinstance(value, str) else value

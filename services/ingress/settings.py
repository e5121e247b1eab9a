"""The settings of ingress; a quantity has its unit in its name."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from contracts.envelope import BODY_BYTES_MAX
from infra.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_INGRESS__..."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_INGRESS__")

    api_key_pepper: SecretStr = Field(
        min_length=16, description="keys the hashes of API keys: a copy of the table alone opens nothing"
    )
    api_key_cache_seconds: float = Field(default=3.0, gt=0, le=60, description="how long a revoked key may still work")
    api_key_cache_size_max: int = Field(default=10_000, ge=1)
    anonymous_requests_per_minute: int = Field(
        default=6000, ge=1, description="requests without a valid credential, per peer address"
    )

    body_bytes_max: int = Field(default=BODY_BYTES_MAX, ge=1024, le=BODY_BYTES_MAX)
    body_seconds_max: float = Field(default=10.0, gt=0, description="how long a client may take to send a body")

    acceptance_batch_size_max: int = Field(default=50, ge=1, le=500)
    acceptance_queue_size_max: int = Field(default=1000, ge=1, description="more requests than this are told to come back")
    acceptance_alone_max: int = Field(default=2, ge=1, description="transactions of single requests at the same time")
    lock_wait_seconds: float = Field(default=1.0, gt=0, le=5, description="how long a request waits for its key's first")
    batch_lock_wait_seconds: float = Field(
        default=0.1, gt=0, le=5, description="the same in a shared transaction, where neighbours wait too"
    )
    idempotency_retention_days: int = Field(default=7, ge=1)
    purge_rows_max: int = Field(default=1000, ge=1, description="rows per statement, so that no lock is held for long")

    wait_seconds_max: int = Field(default=30, ge=1, le=300)
    waiters_max: int = Field(default=5000, ge=1)
    finish_poll_seconds: float = Field(default=0.5, gt=0, description="for orders whose end another replica heard")
    order_expected_seconds: int = Field(default=60, ge=1, description="what partners are told until the saga knows better")
    retry_after_seconds: int = Field(default=1, ge=1)

    orchestrator_url: str
    orchestrator_token: SecretStr
    orchestrator_timeout_seconds: float = Field(default=1.0, gt=0)
    orchestrator_pause_seconds: float = Field(default=1.0, gt=0, description="after it could not be reached")

    outbox_depth_max: int = Field(default=20_000, ge=1)
    outbox_age_seconds_max: float = Field(default=120.0, gt=0)
    overload_check_seconds: float = Field(default=1.0, gt=0)

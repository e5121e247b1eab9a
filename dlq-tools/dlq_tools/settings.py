"""Every knob of the failure desk: those of the chassis and its own."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from infra.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_DEADLETTERS__..."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_DEADLETTERS__")

    collector_prefetch_count: int = Field(default=10, ge=1, le=200, description="for each queue; a body may have many MiB")
    collector_batch_size_max: int = Field(default=100, ge=1, le=1000)
    collector_batch_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1)
    collector_reconnect_seconds: float = Field(default=1.0, gt=0)

    replay_items_max: int = Field(default=1000, ge=1, le=10_000, description="in one campaign")
    replay_bytes_max: int = Field(default=64 * 1024 * 1024, ge=1, description="of all bodies in one campaign")
    replay_patience_seconds: float = Field(
        default=60.0, gt=0, description="a replay without a result for so long may be repeated"
    )
    list_items_max: int = Field(default=1000, ge=1, le=10_000)
    measure_interval_seconds: float = Field(default=5.0, gt=0)
    collected_retention_days: int = Field(default=30, ge=1, description="how long a second copy of a dead letter is recognised")

"""Every knob of the orchestrator, with its unit: those of the chassis, and the limits that no workflow definition says."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from infra.chassis.settings import ServiceSettings
from orchestrator.patience import Limits, Retry


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_ORCHESTRATOR__..."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_ORCHESTRATOR__")

    undo_attempts_max: int = Field(default=8, ge=1, le=100, description="after these a process is stuck")
    undo_retry_first_seconds: float = Field(default=1.0, gt=0)
    undo_retry_delay_seconds_max: float = Field(default=300.0, gt=0)
    alert_interval_seconds: float = Field(default=900.0, gt=0, description="how often a stuck process reminds its owner")
    stuck_owner: str = Field(default="order-desk", description="answers for a process that is stuck and names no owner")
    row_lease_seconds: float = Field(default=30.0, gt=0, description="a claimed timer or act is due again after this")
    cancel_wait_seconds: float = Field(default=0.8, gt=0, le=30, description="how long an HTTP caller waits for a verdict")

    def limits(self) -> Limits:
        first = timedelta(seconds=self.undo_retry_first_seconds)
        most = timedelta(seconds=self.undo_retry_delay_seconds_max)
        return Limits(
            undo=Retry(attempts=self.undo_attempts_max, first=first, most=most),
            persist=Retry(first=first, most=most),
            alert_every=timedelta(seconds=self.alert_interval_seconds),
            owner=self.stuck_owner,
        )

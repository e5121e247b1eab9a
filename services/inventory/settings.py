"""The settings of inventory: those of the chassis."""

from pydantic_settings import SettingsConfigDict

from infra.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_INVENTORY__..."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_INVENTORY__")

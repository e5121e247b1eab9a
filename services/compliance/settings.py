"""The settings of compliance: where its lists are, how often they are looked at, and when a resemblance counts."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from infra.chassis.settings import ServiceSettings
from services.compliance.denied import MATCH_SCORE_MIN
from services.compliance.domain import DEFAULT_THRESHOLDS

SAMPLE_LISTS = Path(__file__).parent / "lists"


class Settings(ServiceSettings):
    """Read from the environment as TUTTI_COMPLIANCE__... The shipped lists are samples, not legal advice."""

    model_config = SettingsConfigDict(env_prefix="TUTTI_COMPLIANCE__")

    denied_parties_folder: Path = Field(default=SAMPLE_LISTS, description="sdn.csv, alt.csv, add.csv as OFAC writes them")
    trade_rules_folder: Path = Field(default=SAMPLE_LISTS, description="embargoes.yaml and restricted-goods.yaml")
    list_check_seconds: float = Field(default=5.0, gt=0, le=3600)
    review_score_min: int = Field(default=DEFAULT_THRESHOLDS.review, ge=MATCH_SCORE_MIN, le=100)
    block_score_min: int = Field(
        default=DEFAULT_THRESHOLDS.block, ge=MATCH_SCORE_MIN, le=100, description="at least review_score_min"
    )

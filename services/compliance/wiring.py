"""The complete answer to "what does compliance react to"."""

from functools import partial

from contracts.compliance.v1 import ScreenParties
from infra.chassis.rest import rest
from infra.chassis.runtime import Beside, Runtime, Service
from infra.chassis.service import Consumer, on
from services.compliance.adapters.list_source import ListSource
from services.compliance.adapters.postgres import PostgresScreenings
from services.compliance.domain import Thresholds
from services.compliance.handlers import screen_parties
from services.compliance.settings import Settings

SETTINGS = Settings
IN_FORCE = "in-force"


def build(settings: Settings) -> Service:
    """Reads the lists at once. Raises ListRefusedError: a service that cannot screen must not start."""
    thresholds = Thresholds(review=settings.review_score_min, block=settings.block_score_min)
    lists = ListSource(
        settings.denied_parties_folder,
        settings.trade_rules_folder,
        check_every_seconds=settings.list_check_seconds,
    )

    async def watch(runtime: Runtime) -> None:
        # Without it the first order after a new list would notice the list, perhaps after a quiet night, and would
        # itself still be screened against the old one. The source is not closed at the end, since the last batch
        # still asks it; its thread ends with the process.
        lists.current()
        while not await rest(runtime.stopping, settings.list_check_seconds):
            lists.current()

    return Service(
        name="compliance",
        consumers=(
            Consumer(
                queue="compliance.commands",
                repository=PostgresScreenings(lists.current),
                routes=(on(ScreenParties, partial(screen_parties, thresholds=thresholds), key=lambda _: IN_FORCE),),
            ),
        ),
        beside=lambda runtime: Beside(background=(partial(watch, runtime),)),
    )

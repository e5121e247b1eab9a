"""The complete answer to "what does the failure desk react to"."""

from functools import partial

from contracts.deadletters.v1 import ReplayHandled
from dlq_tools.adapters.letters import PostgresDeadLetters
from dlq_tools.adapters.reading import reconcile
from dlq_tools.api import routes
from dlq_tools.collector import collect_dead_letters, keep_house
from dlq_tools.handlers import letter_of, note_proof
from dlq_tools.settings import Settings
from infra.chassis.runtime import Beside, Service
from infra.chassis.service import Consumer, on

SETTINGS = Settings


def build(settings: Settings) -> Service:
    return Service(
        name="deadletters",
        consumers=(
            Consumer(
                queue="deadletters.events",
                repository=PostgresDeadLetters(),
                routes=(on(ReplayHandled, note_proof, key=letter_of),),
            ),
        ),
        beside=lambda runtime: Beside(
            http=routes(runtime, settings),
            background=(partial(collect_dead_letters, runtime, settings), partial(keep_house, runtime, settings)),
        ),
        reconcile=reconcile,
    )

"""The complete answer to "what does the orchestrator react to": what the registry says it receives, timers, and acts."""

from functools import partial

from contracts.deadletters.v1 import DeadLetterOpened
from contracts.registry import ENTRIES
from infra.chassis.runtime import Beside, Service
from infra.chassis.service import Consumer, Route
from orchestrator.adapters.postgres import PostgresSagas, reconcile
from orchestrator.adapters.rows import Acts, Timers
from orchestrator.api import routes as http_routes
from orchestrator.catalogue import Catalogue
from orchestrator.definition import load_all
from orchestrator.handlers import Sagas, on_answer, on_dead_letter, on_start
from orchestrator.metrics import measure
from orchestrator.settings import Settings

SETTINGS = Settings
QUEUE = "orchestrator.events"


def build(settings: Settings) -> Service:
    """Raises DefinitionError, with all findings, when a definition of the files cannot be used."""
    catalogue = Catalogue(load_all())
    sagas = Sagas(catalogue, settings.limits())
    return Service(
        name="orchestrator",
        consumers=(
            Consumer(
                queue=QUEUE,
                repository=PostgresSagas(catalogue),
                routes=routes(sagas),
                sources=(
                    Acts(sagas, settings.row_lease_seconds),
                    Timers(sagas, settings.row_lease_seconds),
                ),
            ),
        ),
        beside=lambda runtime: Beside(http=http_routes(runtime, catalogue, settings), background=(partial(measure, runtime),)),
        reconcile=reconcile,
    )


def routes(sagas: Sagas) -> tuple[Route, ...]:
    """One route for each message that reaches the queue: it begins a saga, tells of a dead letter, or answers a step."""
    answers = {answer.wire_name for entry in ENTRIES for answer in entry.answers.values()}
    received = [entry.model for entry in ENTRIES if QUEUE in entry.receivers]
    return tuple(
        on_dead_letter(sagas)
        if model is DeadLetterOpened
        else (on_answer if model.wire_name in answers else on_start)(model, sagas)
        for model in received
    )

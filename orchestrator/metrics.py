"""What the orchestrator tells Prometheus: how many sagas are in which state. `stuck` above zero wants a person."""

import asyncio
from typing import Final

from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from infra.chassis.runtime import Runtime
from orchestrator.instance import AT_REST, State

PROCESSES: Final = Gauge("tutti_processes", "Processes by state; see runbooks/stuck-process.md", ("state",))
MEASURE_SECONDS: Final = 10.0
# The unfinished ones only: a partial index serves them, however many have finished.
COUNTS: Final = text(
    "SELECT state, count(*) AS number FROM workflow_instance WHERE NOT finished AND state <> 'absent' GROUP BY state"
)


async def measure(runtime: Runtime) -> None:
    """Counts now and then until the process stops; an unreachable database leaves the last figures."""
    while not runtime.stopping.is_set():
        try:
            async with runtime.engine.connect() as connection:
                counts = {row.state: row.number for row in await connection.execute(COUNTS)}
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            runtime.log.warning("states_not_measured", error=str(error)[:300])
        else:
            for state in State:
                if state not in AT_REST:
                    PROCESSES.labels(state.value).set(counts.get(state.value, 0))
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                await runtime.stopping.wait()
        except TimeoutError:
            continue

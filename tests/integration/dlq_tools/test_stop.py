"""What a service opened itself is closed after everything else of it has stopped."""

from dataclasses import replace

from infra.chassis.runtime import Beside, Runtime, Service
from tests.integration.dlq_tools.system import System


async def test_what_the_service_opened_is_closed_last(system: System) -> None:
    closed: list[bool] = []

    def beside(runtime: Runtime) -> Beside:
        async def close() -> None:
            closed.append(runtime.stopping.is_set())

        return Beside(close=close)

    def closing(service: Service) -> Service:
        return replace(service, beside=beside)

    async with system.running_credit(closing):
        assert closed == []

    assert closed == [True]

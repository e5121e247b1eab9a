"""What a service opened itself is closed after everything else of it has stopped."""

from dataclasses import replace

from infra.chassis.process import Runtime
from infra.chassis.service import Service
from tests.integration.dlq_tools.system import System


async def test_what_the_service_opened_is_closed_last(system: System) -> None:
    closed: list[bool] = []

    async def close(runtime: Runtime) -> None:
        closed.append(runtime.stopping.is_set())

    def closing(service: Service) -> Service:
        return replace(service, closing=(close,))

    async with system.running_credit(closing):
        assert closed == []

    assert closed == [True]

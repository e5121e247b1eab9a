"""What an outsider needs: a partner's HTTP client, ears on the broker, and the carrier that can be told to misbehave."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.stack.local.home import open_home
from tests.support.outsider import Ear, listening
from tests.support.platform import Platform, started


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for all scenarios, and no longer than they last; nobody may kill anything in it. TUTTI_TEST_PLATFORM names a running one's home."""
    given = os.environ.get("TUTTI_TEST_PLATFORM")
    if given:
        home = open_home(Path(given))
        yield Platform(home, home.addresses())
        return
    with started(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
async def acme(platform: Platform) -> AsyncIterator[httpx2.AsyncClient]:
    async with platform.partner("acme") as client:
        yield client


@pytest.fixture
async def ear(platform: Platform) -> AsyncIterator[Ear]:
    """Hears what is published while the test runs, as the warehouse system does."""
    async with listening(platform.addresses["systems"]["wms"]["broker"]) as ear:
        yield ear


@dataclass(frozen=True, slots=True)
class CarrierDesk:
    """The simulated carrier's control desk."""

    client: httpx2.AsyncClient

    async def misbehave(self, kind: str, **details: Any) -> None:
        (await self.client.post("/faults", json={"kind": kind, "carrier": "parcelway", **details})).raise_for_status()

    async def behave(self) -> None:
        (await self.client.delete("/faults")).raise_for_status()

    async def effects(self, saga_id: str) -> list[str]:
        """What it really did for this process, oldest first."""
        effects = (await self.client.get("/effects")).json()
        return [one["effect"] for one in effects if one["key"].startswith(f"{saga_id}:")]

    async def attempts(self, saga_id: str) -> list[str]:
        attempts = (await self.client.get("/attempts")).json()
        return [one["attempt"] for one in attempts if one["key"].startswith(f"{saga_id}:")]


@pytest.fixture
async def carrier(platform: Platform) -> AsyncIterator[CarrierDesk]:
    async with httpx2.AsyncClient(base_url=platform.addresses["carrier"], timeout=10, trust_env=False) as client:
        desk = CarrierDesk(client)
        yield desk
        await desk.behave()

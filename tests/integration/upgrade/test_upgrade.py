"""From the last release to today's code, in one home: as docs/deployment.md says it, and by `down` and `up`.

last release fills every table ──> today's pre migrations, under its processes ──> they take orders to their ends
    ──> today's `down`, with orders under way ──> today's `up` ──> everything goes on
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from contracts.registry import SERVICES, queues
from infra.stack.jobs import environment
from infra.stack.local import stack
from infra.stack.local.leftovers import leftovers
from infra.terminal.exit_codes import ExitCode
from tests.integration.upgrade.data import EMPTY, NEWER, SETTINGS, Left, fill, hurry, leave_under_way
from tests.integration.upgrade.stages import administrator
from tests.support import platform as today
from tests.support import released
from tests.support.invariants import drained
from tests.support.partner import WAIT_SECONDS, finished, post
from tests.support.platform import Platform
from tests.support.waiting import wait_until
from tests.support.workload import order

JOB_SECONDS_MAX = 120
END_SECONDS = 60.0
LETTER_SECONDS = 30.0
# What waits for a version that never comes is given up at its next try, not after minutes.
IMPATIENT = {f"TUTTI_{service.upper()}__UNKNOWN_VERSION_ATTEMPTS_MAX": "1" for service in SERVICES}

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Left]]:
    """The last release's platform, with a row in every table."""
    directory = tmp_path_factory.mktemp("upgrade")
    try:
        release = released.unpack(directory)
    except released.Unavailable as reason:
        pytest.skip(str(reason))
    with released.started(release, directory / "home", SETTINGS) as platform:
        yield platform, asyncio.run(fill(release, platform))


@pytest.fixture(scope="module")
def halfway(old: tuple[Platform, Left]) -> Platform:
    """The last release's processes, started anew on the schema and topology of today."""
    platform, _ = old
    for job in ("schema", "topology"):
        _run_job(platform, job)
    asyncio.run(_start_anew(platform))
    return platform


@pytest.fixture(scope="module")
def under_way(old: tuple[Platform, Left], halfway: Platform) -> dict[str, str]:
    """Orders that the last release had under way when it was stopped."""
    left = asyncio.run(leave_under_way(halfway))
    stack.down(halfway.home)
    assert leftovers(halfway.home) == []
    return left


@pytest.fixture(scope="module")
def new(halfway: Platform, under_way: dict[str, str]) -> Iterator[Platform]:
    """Today's platform in the last release's home."""
    with today.started(halfway.home.path, env=IMPATIENT) as platform:
        asyncio.run(_hurry(platform))
        yield platform


async def test_every_table_of_the_last_release_had_data_when_it_was_upgraded(old: tuple[Platform, Left]) -> None:
    assert old[1].empty == frozenset(EMPTY)


async def test_the_last_release_works_on_todays_schema_until_it_is_replaced(
    old: tuple[Platform, Left], halfway: Platform
) -> None:
    async with halfway.partner() as acme:
        fresh = (await post(acme, order(), wait=WAIT_SECONDS)).json()
        ends = {service: await finished(acme, one, within=END_SECONDS) for service, one in old[1].under_way.items()}
        cancelled = await finished(acme, old[1].cancelled, within=END_SECONDS)

    assert fresh["status"] == "completed", fresh
    assert {service: one["status"] for service, one in ends.items()} == dict.fromkeys(ends, "completed")
    assert cancelled["status"] == "cancelled"


async def test_addresses_ports_keys_and_tokens_are_those_of_before(old: tuple[Platform, Left], new: Platform) -> None:
    before = old[0].addresses

    assert {name: new.addresses.get(name) for name in before} == before
    code, out, _ = await new.run("tutti", "status", "--json")
    assert (code, json.loads(out)["state"]) == (0, "up")


async def test_a_key_of_before_is_known_and_a_request_of_before_is_answered_as_it_was(
    old: tuple[Platform, Left], new: Platform
) -> None:
    left = old[1]
    async with old[0].partner() as acme:
        again = await post(acme, left.body, key=left.key)
        ended = [(await acme.get(f"/v1/orders/{one}")).json()["status"] for one in (left.completed, left.refused, left.cancelled)]

    assert again.json()["order_id"] == left.completed
    assert ended == ["completed", "refused", "cancelled"]


async def test_orders_that_were_under_way_come_to_their_end(new: Platform, under_way: dict[str, str]) -> None:
    async with new.partner() as acme:
        ends = {where: await finished(acme, one, within=END_SECONDS) for where, one in under_way.items()}

    assert {where: one["status"] for where, one in ends.items()} == dict.fromkeys(under_way, "completed")
    assert all(one["shipments"] for one in ends.values())


async def test_a_dead_letter_of_before_is_repaired_and_replayed_and_becomes_an_order(
    old: tuple[Platform, Left], new: Platform
) -> None:
    left = old[1]
    async with administrator(new) as database:
        await database.execute("UPDATE ingress.partner SET broker_users = '{erp}' WHERE partner_id = 'globex'")
    code, out, err = await new.run("dlq", "replay", left.letter, "--reason", "may order now", "--wait", "--yes", "--json")

    assert code == 0, out + err
    assert (json.loads(out)["resolved"], json.loads(out)["failed_again"]) == (1, 0)
    async with new.partner("globex") as globex:
        (placed,) = (await globex.get("/v1/orders", params={"order_number": left.number_in_letter})).json()["orders"]
        assert (await finished(globex, placed["order_id"], within=END_SECONDS))["status"] == "completed"


async def test_what_waited_for_another_try_is_read_again_and_given_up_to_the_failure_desk(new: Platform) -> None:
    async def letters() -> list[dict[str, Any]]:
        code, out, _ = await new.run("dlq", "list", "--state", "open", "--type", NEWER, "--limit", "100", "--json")
        found: list[dict[str, Any]] = json.loads(out) if code == 0 else []
        return found if {one["queue"] for one in found} == set(queues()) else []

    found = await wait_until(letters, within=LETTER_SECONDS, what=f"a dead letter of {NEWER} from every queue", every=0.5)
    code, out, err = await new.run("dlq", "discard", "--type", NEWER, "--all", "--reason", "nobody sent it", "--yes", "--json")

    assert [one["error"] for one in found if not one["error"].startswith(NEWER)] == []
    assert code == 0, out + err


async def test_nothing_is_left_over_and_nothing_is_lost(new: Platform) -> None:
    await drained(new, within=END_SECONDS)
    code, out, err = await new.run("tutti", "reconcile", "--json")

    assert code == 0, out + err


def _run_job(platform: Platform, job: str) -> None:
    """Today's job, with the secrets that the running services have."""
    known: dict[str, str] = {}
    for name in released.PROCESSES:
        known |= psutil.Process(platform.pid(name)).environ()
    given = {name: value for name, value in known.items() if name.startswith("TUTTI_")}
    systems = {environment.broker_url_of(user): one["broker"] for user, one in platform.addresses["systems"].items()}
    servers = {
        environment.DATABASE_URL: platform.addresses["database"],
        environment.MANAGEMENT_URL: platform.addresses["management"],
    }
    ran = subprocess.run(
        [sys.executable, "-m", f"infra.stack.jobs.{job}"],
        env={**today.clean_environment(), **given, **systems, **servers},
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS_MAX,
    )
    assert ran.returncode == ExitCode.DONE, ran.stdout + ran.stderr


async def _start_anew(platform: Platform) -> None:
    await released.restart(platform, *released.PROCESSES)
    await _hurry(platform)


async def _hurry(platform: Platform) -> None:
    async with administrator(platform) as database:
        await hurry(database)

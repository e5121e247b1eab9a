"""What every process says of itself, and what it must never say. Runs last, so that the logs of all scenarios are looked through."""

import httpx2

from contracts.registry import SERVICES
from infra.stack.local.home import Home
from tests.support.platform import Platform
from tests.support.workload import BLOCKED, CANARY_NAME, CANARY_STREET


async def test_every_process_is_alive_ready_and_measured(platform: Platform) -> None:
    urls = platform.addresses["services"]

    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        answers = {
            (service, path): await client.get(url + path)
            for service, url in urls.items()
            for path in ("/health/live", "/health/ready", "/metrics")
        }

    assert urls.keys() == set(SERVICES)
    assert {key: answer.status_code for key, answer in answers.items()} == dict.fromkeys(answers, 200)
    for service in urls:
        metrics = answers[service, "/metrics"].text
        assert f'tutti_consumer_up{{queue="{service}' in metrics
        assert 'tutti_messages_handled_total{message="' in metrics


async def test_metrics_have_no_label_without_a_bound(platform: Platform) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        texts = [(await client.get(f"{url}/metrics")).text for url in platform.addresses["services"].values()]

    for text in texts:
        assert len(text.splitlines()) < 5000
        assert "ord_" not in text
        assert "key-" not in text


async def test_internals_ask_for_the_operators_token(platform: Platform) -> None:
    token = platform.addresses["operators"]["admin"]["token"]
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        for url in platform.addresses["services"].values():
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert (await client.get(f"{url}/internal/retries", headers=headers)).status_code == 401
            assert (await client.get(f"{url}/internal/retries", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_the_logs_name_no_person_and_no_secret(platform: Platform) -> None:
    secrets = [
        *(partner["api_key"] for partner in platform.addresses["partners"].values()),
        *(operator["token"] for operator in platform.addresses["operators"].values()),
        *(system["broker"].split(":")[2].split("@")[0] for system in platform.addresses["systems"].values()),
    ]
    canaries = [CANARY_NAME, CANARY_STREET, BLOCKED, *secrets]

    logs = {path.name: path.read_text(errors="replace") for path in platform.home.logs.glob("*.log*")}

    assert {"ingress.log", "orchestrator.log", "services.log"} <= logs.keys()
    assert sum(map(len, logs.values())) > 0
    found = {(name, canary[:12]) for name, text in logs.items() for canary in canaries if canary in text}
    assert found == set()


async def test_the_addresses_are_for_their_owner_only(platform: Platform) -> None:
    home: Home = platform.home

    assert home.addresses_file.stat().st_mode & 0o777 == 0o600


async def test_everything_adds_up_in_the_end(platform: Platform) -> None:
    code, out, err = await platform.run("tutti", "reconcile", "--json")

    assert code == 0, out + err

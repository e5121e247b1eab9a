"""The registry, the topology and the services' wiring say the same."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from contracts.message import owner_of, unversioned
from contracts.registry import COMMANDERS, ENTRIES, FAILURE_DESK, REGISTRY, SERVICES, SYSTEMS, UPCASTERS, queues
from infra.broker.topology import USERS, bindings, definitions, queues_of
from infra.chassis.process import build

ROOT = Path(__file__).parents[3]
PACKAGES: Mapping[str, str] = {
    **{service: f"services.{service}" for service in SERVICES},
    "orchestrator": "orchestrator",
    FAILURE_DESK: "dlq_tools",
}
BUILT = [name for name, package in PACKAGES.items() if (ROOT / package.replace(".", "/") / "wiring.py").is_file()]


def routes_by_queue(service: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    settings = importlib.import_module(f"{PACKAGES[service]}.wiring").SETTINGS
    for name, field in settings.model_fields.items():
        if field.is_required():
            monkeypatch.setenv(
                f"{settings.model_config['env_prefix']}{name}".upper(), "http://localhost:1" if "url" in name else "x" * 40
            )
    built, _ = build(PACKAGES[service])
    return {consumer.queue: {route.wire_name for route in consumer.routes} for consumer in built.consumers}


def test_there_are_services_to_look_at() -> None:
    assert len(BUILT) >= 5


@pytest.mark.parametrize("service", BUILT)
def test_a_service_consumes_exactly_its_queues_and_routes_everything_that_it_receives(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = routes_by_queue(service, monkeypatch)
    received: dict[str, set[str]] = {queue: set() for queue in queues_of(service)}
    for entry in ENTRIES:
        for queue in entry.receivers:
            if owner_of(queue) == service:
                received[queue].add(entry.wire_name)

    assert set(routes) == set(received)
    for queue, wanted in received.items():
        lifted = {UPCASTERS[name][0] if name in UPCASTERS and name not in routes[queue] else name for name in wanted}
        assert lifted == routes[queue], queue


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.wire_name)
def test_every_entry_names_known_senders_receivers_and_answers(entry: object) -> None:
    one = REGISTRY[entry.wire_name]  # type: ignore[attr-defined]

    assert set(one.senders) <= {*SERVICES, *SYSTEMS}
    assert all(owner_of(queue) in SERVICES for queue in one.receivers)
    if one.is_command:
        assert one.senders == COMMANDERS
        assert "done" in one.answers
        assert all(answer.wire_name in REGISTRY for answer in one.answers.values())
        assert len(set(one.answers.values())) == len(one.answers)
    else:
        assert not one.answers


def test_every_upcaster_leads_from_a_known_version_to_a_newer_one_of_the_same_name() -> None:
    for old, (new, _) in UPCASTERS.items():
        assert old in REGISTRY
        assert new in REGISTRY
        assert unversioned(old) == unversioned(new)
        assert old < new


def test_every_queue_is_bound_can_be_replayed_into_and_has_a_place_for_its_dead() -> None:
    bound = bindings()
    for queue in queues():
        assert any(target == queue and exchange in ("commands", "events") for exchange, target, _ in bound)
        assert ("replay", queue, queue) in bound
        assert ("dead-letters", queue + ".dead", queue) in bound


def test_only_those_who_may_command_may_write_to_the_command_exchange() -> None:
    document = definitions(dict.fromkeys(USERS, "x"))
    writers = {one["user"] for one in document["permissions"] if "commands" in one["write"]}

    assert writers == set(COMMANDERS)
    assert {one["user"] for one in document["permissions"] if "replay" in one["write"]} == {FAILURE_DESK}

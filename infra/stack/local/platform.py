"""Brings the whole platform up on this machine: servers, topology, schemas, services, a carrier, and the sample company.

    PostgreSQL, RabbitMQ ──> topology job, schema job ──> services (ready) ──> partners, systems, sample data ──> addresses.json

Everything is idempotent: an existing home keeps its data, ports, passwords and keys.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from contracts.registry import SYSTEMS
from infra.broker import topology
from infra.chassis.phases import Phase
from infra.chassis.schema import upgrade
from infra.stack.local import sample
from infra.stack.local.home import Home, TakenPort
from infra.stack.local.layout import HOSTED, PACKAGES, SEPARATE
from infra.stack.local.process import ProcessSpec, answers_at
from infra.stack.local.servers import PreparedServers, prepare_servers
from infra.stack.local.supervisor import Supervisor

CARRIER: Final = "carrier"
PARTNERS: Final = {"acme": ("erp",), "globex": ()}


@dataclass(frozen=True, slots=True)
class Options:
    """How to run it: each service in a process of its own or in the fast layout, with or without the sample company."""

    separate: bool = False
    empty: bool = False


async def bring_up(home: Home, supervisor: Supervisor, options: Options) -> None:
    """Starts everything through the supervisor and returns when all of it is ready and addresses.json is written."""
    prepared = await prepare_servers(home)
    taken: list[TakenPort] = []
    for note in prepared.taken_ports:
        supervisor.say(str(note))
    await supervisor.start(prepared.processes)
    await _install(home, prepared)
    # Asked for once: later, a port in use by our own process would count as taken and be replaced.
    ports = {name: home.port(name, taken) for name in (*PACKAGES, CARRIER)}
    for note in taken:
        supervisor.say(str(note))
    await supervisor.start(_processes(home, prepared, options, ports))
    home.write_addresses(await _open_for_business(home, prepared, options, ports))


async def _install(home: Home, prepared: PreparedServers) -> None:
    """The topology and schema jobs."""
    passwords = {user: home.secret(f"broker {user}") for user in topology.USERS}
    parts = urlsplit(prepared.broker.url)
    document = topology.definitions(passwords, vhost=_vhost(prepared.broker.url))
    await asyncio.to_thread(topology.apply, prepared.broker.management_url or "", document, administrator=parts.username)
    for service, package in PACKAGES.items():
        password = home.secret(f"database {service}")
        # The supervisor has ended whatever an earlier release left behind in this home, so that nothing is kept for afterwards.
        await upgrade(prepared.database.url, service, package, password=password, phase=Phase.POST)


def _vhost(broker_url: str) -> str:
    path = urlsplit(broker_url).path.lstrip("/")
    return path or "/"


def broker_url(home: Home, prepared: PreparedServers, user: str) -> str:
    """The broker as one of its least-privilege users."""
    parts = urlsplit(prepared.broker.url)
    password = home.secret(f"broker {user}")
    return f"amqp://{user}:{password}@{parts.hostname}:{parts.port or 5672}{parts.path}"


def _database_url(home: Home, prepared: PreparedServers, service: str) -> str:
    parts = urlsplit(prepared.database.url)
    password = home.secret(f"database {service}")
    return f"postgresql://{service}:{password}@{parts.hostname}:{parts.port or 5432}{parts.path}"


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _environment(home: Home, prepared: PreparedServers, service: str, ports: Mapping[str, int]) -> dict[str, str]:
    prefix = f"TUTTI_{service.upper()}__"
    operator = home.secret("operator admin")
    values = {
        "DATABASE_URL": _database_url(home, prepared, service),
        "BROKER_URL": broker_url(home, prepared, service),
        "OPERATOR_TOKEN": operator,
        "HTTP_PORT": str(ports[service]),
    }
    if service == "ingress":
        values |= {
            "API_KEY_PEPPER": home.secret("api key pepper"),
            "ORCHESTRATOR_URL": _url(ports["orchestrator"]),
            "ORCHESTRATOR_TOKEN": operator,
        }
    if service == "fulfillment":
        values["CARRIER_URLS"] = json.dumps({name: f"{_url(ports[CARRIER])}/{name}" for name in sample.HTTP_CARRIERS})
    return {prefix + name: value for name, value in values.items()}


def _processes(home: Home, prepared: PreparedServers, options: Options, ports: Mapping[str, int]) -> list[ProcessSpec]:
    servers = tuple(spec.name for spec in prepared.processes)
    specs = [_carrier(ports[CARRIER])]
    for name, services in (SEPARATE if options.separate else HOSTED).items():
        # On top of the shell's environment: `TUTTI_CREDIT__BATCH_SIZE_MAX=50 tutti up` is how a setting is changed.
        env: dict[str, str] = {}
        for service in services:
            env |= _environment(home, prepared, service, ports)
        specs.append(
            ProcessSpec(
                name=name,
                argv=(sys.executable, "-m", "infra.stack.local.host", *services),
                ready=_all_ready([f"{_url(ports[service])}/health/ready" for service in services]),
                env=env,
                depends_on=(*servers, CARRIER),
                roles=services,
                ports={service: ports[service] for service in services},
                stop_seconds=25.0,
            )
        )
    return specs


def _all_ready(urls: list[str]) -> Any:
    checks = [answers_at(url) for url in urls]

    async def ready() -> bool:
        return all([await check() for check in checks])

    return ready


def _carrier(port: int) -> ProcessSpec:
    """The simulator of a carrier: a program of its own, as the carrier would be."""
    return ProcessSpec(
        name=CARRIER,
        argv=(sys.executable, "-m", "infra.stack.simulators.carrier", "--port", str(port)),
        ready=answers_at(f"http://127.0.0.1:{port}/health/live"),
        ports={CARRIER: port},
    )


async def _open_for_business(home: Home, prepared: PreparedServers, options: Options, ports: Mapping[str, int]) -> dict[str, Any]:
    systems = {user: {"broker": broker_url(home, prepared, user)} for user in SYSTEMS}
    keys = await sample.open_accounts(
        _database_url(home, prepared, "ingress"), home.secret("api key pepper"), PARTNERS, home.secret
    )
    if not options.empty:
        await sample.load(systems["erp"]["broker"], systems["wms"]["broker"], prepared.database.url)
    return {
        "ingress": _url(ports["ingress"]),
        "orchestrator": _url(ports["orchestrator"]),
        "dead_letters": _url(ports.get("deadletters", 0)),
        "carrier": _url(ports[CARRIER]),
        **prepared.addresses,
        "services": {service: _url(ports[service]) for service in PACKAGES},
        "partners": {partner: {"api_key": key} for partner, key in keys.items()},
        "operators": {"admin": {"token": home.secret("operator admin")}},
        "systems": systems,
    }

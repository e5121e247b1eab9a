"""docker-compose.yml cannot be run here, so its facts are held against what the local stack runs and what the settings read."""

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.broker import topology
from infra.chassis.runtime import DEAD_LETTER_BODY_BYTES_MAX
from infra.chassis.settings import ServiceSettings
from infra.stack.jobs import environment, sample, schema
from infra.stack.jobs import topology as topology_job
from infra.stack.jobs.secrets import SecretFiles
from infra.stack.local import platform, postgresql
from infra.stack.local.home import Home
from infra.stack.local.layout import PACKAGES
from infra.stack.local.sample import HTTP_CARRIERS
from infra.stack.local.servers import PreparedServer, PreparedServers

PROJECT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
SERVERS = ("database", "broker")
JOBS = {
    "topology": [environment.MANAGEMENT_URL, *topology_job.BROKER_URLS.values()],
    "schema": [environment.DATABASE_URL, *schema.DATABASE_URLS.values()],
    "sample": [
        *(environment.DATABASE_URL, sample.INGRESS_URL, sample.PEPPER, sample.ERP_URL, sample.WMS_URL),
        *sample.API_KEYS.values(),
    ],
}
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|PEPPER|KEY|SECRET|DATABASE_URL|BROKER_URL|MANAGEMENT_URL")
UNITS = {"m": 1024**2, "mb": 10**6, "mib": 1024**2, "g": 1024**3, "gb": 10**9, "": 1}


def environment_of(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


def without_file(variables: Any) -> set[str]:
    return {str(variable).removesuffix("_FILE") for variable in variables}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def size(text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text)
    assert found, text
    return int(found[1]) * UNITS[found[2].lower()]


def version_of(image: str) -> tuple[int, ...]:
    found = re.fullmatch(r"[^:]+:(\d+(?:\.\d+)+)(?:-.+)?", image)
    assert found, f"{image} names no exact version"
    return tuple(int(part) for part in found[1].split("."))


def local_environment(tmp_path: Path, service: str) -> set[str]:
    """The names of the variables that the local stack gives this service."""
    servers = PreparedServers(
        PreparedServer("postgresql://admin:x@127.0.0.1:1/postgres", "", None),
        PreparedServer("amqp://admin:x@127.0.0.1:1/", "", None),
        (),
    )
    ports = dict.fromkeys((*PACKAGES, platform.CARRIER), 1)
    return set(platform._environment(Home(tmp_path), servers, service, ports))


def settings_of(service: str) -> type[ServiceSettings]:
    settings: type[ServiceSettings] = importlib.import_module(f"{PACKAGES[service]}.wiring").SETTINGS
    return settings


def test_every_service_of_the_local_stack_has_a_container_and_no_other_runs():
    assert set(SERVICES) == {*SERVERS, *JOBS, *PACKAGES, platform.CARRIER}


@pytest.mark.parametrize("service", PACKAGES)
def test_a_container_runs_the_package_of_its_service(service: str):
    assert SERVICES[service]["command"] == ["python", "-m", PACKAGES[service]]
    assert importlib.util.find_spec(f"{PACKAGES[service]}.__main__") is not None


@pytest.mark.parametrize("service", PACKAGES)
def test_a_container_is_told_what_the_local_stack_tells_the_service(service: str, tmp_path: Path):
    told = without_file(environment_of(service))
    # The local stack listens on the loopback address, which is the default.
    assert told - {f"TUTTI_{service.upper()}__HTTP_HOST"} == local_environment(tmp_path, service)


@pytest.mark.parametrize("service", PACKAGES)
def test_every_variable_is_a_setting_of_its_service_and_every_required_setting_is_given(service: str):
    settings = settings_of(service)
    prefix = settings.model_config.get("env_prefix", "")
    told = without_file(environment_of(service))
    known = {f"{prefix}{name}".upper(): field for name, field in settings.model_fields.items()}

    assert told <= set(known)
    assert {name for name, field in known.items() if field.is_required()} <= told


@pytest.mark.parametrize("service", PACKAGES)
def test_the_settings_accept_what_the_container_is_told(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    SecretFiles(tmp_path).write_missing()
    for name, value in environment_of(service).items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(tmp_path)))

    settings = settings_of(service)()

    assert settings.database_url.get_secret_value().startswith(f"postgresql://{service}:")
    assert settings.broker_url.get_secret_value().startswith(f"amqp://{service}:")
    assert settings.http_host == "0.0.0.0"
    assert settings.http_port == 8000


@pytest.mark.parametrize("service", PACKAGES)
def test_health_is_asked_where_the_service_listens(service: str):
    port = environment_of(service)[f"TUTTI_{service.upper()}__HTTP_PORT"]
    program = SERVICES[service]["healthcheck"]["test"]

    assert program[:3] == ["CMD", "python", "-c"]
    compile(program[3], "health check", "exec")
    assert f'"127.0.0.1", {port}' in program[3]
    assert '"/health/ready"' in program[3]


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_starts_after_both_servers_and_both_jobs(service: str):
    assert {name: how["condition"] for name, how in SERVICES[service]["depends_on"].items()} == {
        "database": "service_healthy",
        "broker": "service_healthy",
        "topology": "service_completed_successfully",
        "schema": "service_completed_successfully",
    }


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_is_given_the_time_that_its_stop_may_take(service: str):
    shutdown: float = settings_of(service).model_fields["shutdown_seconds"].default
    # infra/chassis/process.py waits for loops, port, relay (a third), the rest (a third), in this order.
    assert seconds(SERVICES[service]["stop_grace_period"]) > shutdown * (1 + 1 + 1 / 3 + 1 / 3)


def test_ingress_and_fulfillment_find_whom_they_call():
    assert environment_of("ingress")["TUTTI_INGRESS__ORCHESTRATOR_URL"] == "http://orchestrator:8000"
    urls = json.loads(environment_of("fulfillment")["TUTTI_FULFILLMENT__CARRIER_URLS"])
    assert urls == dict.fromkeys(HTTP_CARRIERS, f"http://{platform.CARRIER}:8000")
    assert SERVICES[platform.CARRIER]["command"][2:] == ["infra.stack.simulators.carrier", "--host", "0.0.0.0", "--port", "8000"]


def test_only_the_carrier_simulator_and_the_sample_company_belong_to_the_demo():
    demo = {name for name, service in SERVICES.items() if service.get("profiles")}
    assert demo == {platform.CARRIER, "sample"}
    assert all(SERVICES[name]["profiles"] == ["demo"] for name in demo)
    needed = {other for name in SERVICES.keys() - demo for other in SERVICES[name].get("depends_on", {})}
    assert not needed & demo


@pytest.mark.parametrize(("job", "variables"), JOBS.items())
def test_a_job_is_told_all_that_it_reads_and_runs_once(job: str, variables: list[str]):
    service = SERVICES[job]
    assert service["command"] == ["python", "-m", f"infra.stack.jobs.{job}"]
    assert importlib.util.find_spec(f"infra.stack.jobs.{job}") is not None
    assert without_file(service["environment"]) == set(variables)
    assert service["restart"] == "no"


def test_the_jobs_wait_for_their_servers():
    assert SERVICES["topology"]["depends_on"] == {"broker": {"condition": "service_healthy"}}
    assert SERVICES["schema"]["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_jobs_and_services_read_a_users_password_from_one_secret():
    topology_told, schema_told = environment_of("topology"), environment_of("schema")
    for service in PACKAGES:
        for variable, told in (
            (environment.broker_url_of(service), topology_told),
            (environment.database_url_of(service), schema_told),
        ):
            assert told[f"{variable}_FILE"] == environment_of(service)[f"{variable}_FILE"]


def test_the_broker_is_new_enough():
    version = version_of(SERVICES["broker"]["image"])
    assert version >= (4, 2, 7)
    assert version[:3] != (4, 3, 0), "4.3.0 asks for the configure permission where a queue is only looked at"
    assert SERVICES["broker"]["image"].endswith("-management"), "the topology job uses the management API"


def test_the_database_is_new_enough_and_its_volume_is_where_this_version_writes():
    major = version_of(SERVICES["database"]["image"])[0]
    assert major >= 17
    assert major >= postgresql.OLDEST_MAJOR
    assert SERVICES["database"]["volumes"] == ["database:/var/lib/postgresql" + ("" if major >= 18 else "/data")]


def test_the_database_takes_the_connections_of_all_pools_and_runs_with_the_local_stacks_settings():
    command: list[str] = SERVICES["database"]["command"]
    given = dict(argument.split("=") for argument in command[2::2])
    assert set(command[1::2]) == {"-c"}
    assert given.items() <= postgresql.SETTINGS.items()
    pools = sum(settings_of(service).model_fields["database_pool_size"].default for service in PACKAGES)
    assert int(given["max_connections"]) >= 2 * pools, "two replicas of each service"


def test_no_secret_stands_in_the_compose_file():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
            assert "@" not in value, f"{name}: {variable} looks like a URL with a password"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_mounts_exactly_the_secrets_that_it_reads(name: str):
    mounted = list(SERVICES[name].get("secrets", []))
    read = {value.removeprefix("/run/secrets/") for value in environment_of(name).values() if value.startswith("/run/secrets/")}
    assert {secret for secret in mounted if isinstance(secret, str)} == read
    assert len(mounted) == len(read) + (name == "broker")


def test_every_secret_is_a_file_that_the_generator_writes(tmp_path: Path):
    written = SecretFiles(tmp_path).write_missing()
    files = {Path(secret["file"]).name for secret in DOCUMENT["secrets"].values()}
    # broker_password is what the other two files of the administrator are made from.
    assert files == {*written} - {"broker_password"}
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in SERVICES.values()
        for secret in service.get("secrets", [])
    }
    assert used == set(DOCUMENT["secrets"])


def test_ports_are_published_on_the_loopback_address_only():
    published = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    assert set(published) == {"broker", "ingress", "orchestrator", "deadletters"}
    for port in published.values():
        assert re.fullmatch(r"127\.0\.0\.1:\$\{TUTTI_[A-Z]+_PORT:-\d+\}:\d+", port), port


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= set(limits)
    assert service["logging"]["options"]["max-size"]


def test_what_needs_no_way_out_has_none():
    assert DOCUMENT["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    # Published ports, and the carriers.
    assert outside == {"broker", "ingress", "orchestrator", "deadletters", "fulfillment"}
    assert all("inside" in service["networks"] for service in SERVICES.values())


def test_the_brokers_limits_fit_its_container_and_the_chassis():
    settings = dict(
        (part.strip() for part in line.split("=", 1))
        for line in (PROJECT / "infra/docker/rabbitmq.conf").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    container = size(SERVICES["broker"]["deploy"]["resources"]["limits"]["memory"])
    assert size(settings["vm_memory_high_watermark.absolute"]) < 0.75 * container
    assert int(settings["max_message_size"]) <= DEAD_LETTER_BODY_BYTES_MAX
    assert not [name for name in settings if name.startswith("default_")], "the administrator comes from a secret"


def test_the_image_has_one_version_one_build_and_the_dockerfiles_user():
    ours = [service for name, service in SERVICES.items() if name not in SERVERS]
    found = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    assert {service["image"] for service in ours} == {f"tutti:{found[1]}"}
    builds = [service["build"] for service in ours if "build" in service]
    assert builds == [{"context": ".", "dockerfile": "infra/docker/Dockerfile"}]
    dockerfile = (PROJECT / "infra/docker/Dockerfile").read_text()
    assert {f"USER {service['user']}" for service in ours} <= set(dockerfile.splitlines())
    assert "STOPSIGNAL SIGTERM" in dockerfile.splitlines()


def test_the_image_is_installed_with_hashes_and_holds_every_package():
    dockerfile = (PROJECT / "infra/docker/Dockerfile").read_text()
    installs = re.findall(r"pip --python \S+ install (.*)", dockerfile)
    assert len(installs) == 3
    for options in installs:
        assert "--no-cache-dir" in options
        assert "--require-hashes" in options or {"--no-deps", "--no-index"} <= set(options.split())
    allowed = (PROJECT / ".dockerignore").read_text().splitlines()
    for root in {"contracts", "infra", "dlq-tools", *(package.split(".")[0] for package in PACKAGES.values())} - {"dlq_tools"}:
        assert f"COPY {root} {root}" in dockerfile.splitlines()
        assert f"!{root}" in allowed
    assert not any(line.startswith(("!secrets", "!.")) for line in allowed)


def test_the_wheel_is_built_by_what_the_development_lock_names():
    pinned = re.compile(r"^(\S+==\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)
    builders = dict(pinned.findall((PROJECT / "infra/docker/build.lock").read_text()))
    locked = dict(pinned.findall((PROJECT / "requirements-dev.lock").read_text()))
    assert any(name.startswith("hatchling==") for name in builders)
    assert builders.items() <= locked.items(), "`make lock` moved on; copy these entries again"


def test_the_topology_job_gives_every_broker_user_its_own_password(tmp_path: Path):
    SecretFiles(tmp_path).write_missing()
    urls = {variable: (tmp_path / f"{user}_broker_url").read_text() for user, variable in topology_job.BROKER_URLS.items()}
    passwords = environment.passwords(urls, topology_job.BROKER_URLS)
    assert set(passwords) == set(topology.USERS)
    assert len(set(passwords.values())) == len(topology.USERS)

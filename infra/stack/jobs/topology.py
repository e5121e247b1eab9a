"""`python -m infra.stack.jobs.topology`: gives the broker its users, exchanges, queues, bindings and limits, then ends.

Reads TUTTI_MANAGEMENT_URL (the administrator's) and TUTTI_<USER>__BROKER_URL for every broker user; see `infra.stack.jobs.environment`.
Running it again changes nothing, except that a password follows its secret. Exit codes: 0 done, 1 refused by the broker,
2 settings, 5 the broker did not answer in time.
"""

import sys
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import httpx2
import structlog
from tenacity import retry, retry_if_exception_type

from infra.broker import topology
from infra.chassis import logs
from infra.stack.jobs import environment
from infra.stack.jobs.environment import MANAGEMENT_URL, SERVER_STOP, SERVER_WAIT, SettingsError
from infra.terminal.exit_codes import ExitCode

BROKER_URLS = {user: environment.broker_url_of(user) for user in topology.USERS}
ANSWER_SECONDS_MAX = 5.0


class NotReadyError(Exception):
    """The broker answers, but not yet as a running one."""


def install(urls: Mapping[str, str]) -> int:
    """Applies the topology and returns the number of queues. Waits for the broker, at most two minutes.

    Raises SettingsError, topology.TopologyError, and NotReadyError or httpx2.TransportError when the wait was in vain.
    """
    passwords = environment.passwords(urls, BROKER_URLS)
    document = topology.definitions(passwords, vhost=_vhost(urls))
    management_url = urls[MANAGEMENT_URL].rstrip("/")
    until_ready(management_url)
    topology.apply(management_url, document, administrator=unquote(urlsplit(management_url).username or "") or None)
    return len(document["queues"])


def _vhost(urls: Mapping[str, str]) -> str:
    named = {unquote(urlsplit(urls[variable]).path.removeprefix("/")) or "/" for variable in BROKER_URLS.values()}
    if len(named) > 1:
        raise SettingsError(f"the broker URLs name different virtual hosts: {', '.join(sorted(named))}; they must be the same")
    return named.pop()


@retry(retry=retry_if_exception_type((NotReadyError, httpx2.TransportError)), stop=SERVER_STOP, wait=SERVER_WAIT, reraise=True)
def until_ready(management_url: str) -> None:
    """Returns when the broker's virtual hosts are up and it knows us. A refused password is not waited for: TopologyError."""
    with httpx2.Client(base_url=management_url, timeout=ANSWER_SECONDS_MAX, trust_env=False) as client:
        answer = client.get("/api/health/checks/virtual-hosts")
    if answer.status_code in (401, 403):
        raise topology.TopologyError(f"the broker refuses the administrator that {MANAGEMENT_URL} names ({answer.status_code})")
    if answer.is_error:
        raise NotReadyError(f"the broker is not ready: {answer.status_code}")


def main() -> ExitCode:
    """The command; returns its exit code and logs what happened."""
    logs.configure("topology")
    log = structlog.get_logger()
    try:
        queues = install(environment.read([MANAGEMENT_URL, *BROKER_URLS.values()]))
    except SettingsError as error:
        log.error("settings_refused", problem=str(error))
        return ExitCode.USAGE
    except (NotReadyError, httpx2.TransportError) as error:
        log.error("broker_unreachable", problem=str(error), seconds=environment.SERVER_SECONDS_MAX)
        return ExitCode.UNREACHABLE
    except topology.TopologyError as error:
        log.error("topology_refused", problem=str(error))
        return ExitCode.SOME_FAILED
    log.info("topology_applied", users=len(topology.USERS), queues=queues)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())

"""`python -m infra.stack.jobs.schema [--phase pre|post]`: creates or upgrades the role, schema and tables of every service, then ends.

`pre`, the default, applies what the last release's processes can live with; they may run. `post` applies everything, and asks that
none of them runs any more. A new database gets everything in either phase. See docs/deployment.md, Upgrades.

Reads TUTTI_DATABASE_URL (the administrator's) and TUTTI_<SERVICE>__DATABASE_URL for every service; see `infra.stack.jobs.environment`.
Running it again changes nothing, except that a password follows its secret. Exit codes: 0 done, 1 refused by the database,
2 settings, 5 the database did not answer in time.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence

import asyncpg
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from tenacity import retry, retry_if_exception_type

from infra.chassis import logs
from infra.chassis.phases import Phase, PhaseError
from infra.chassis.schema import upgrade
from infra.stack.jobs import environment
from infra.stack.jobs.environment import DATABASE_URL, SERVER_STOP, SERVER_WAIT, SettingsError
from infra.stack.local.layout import PACKAGES
from infra.terminal.exit_codes import ExitCode

DATABASE_URLS = {service: environment.database_url_of(service) for service in PACKAGES}
ANSWER_SECONDS_MAX = 5.0
# No listener yet, a listener that is starting or stopping, a connection that a starting server drops.
UNREACHABLE = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)


async def install(urls: Mapping[str, str], phase: Phase) -> list[str]:
    """Upgrades every service's schema, one after the other, and names what is left for the post phase. Waits for the database, at
    most two minutes.

    Raises SettingsError, PhaseError, asyncpg.PostgresError or DBAPIError when the database refuses, and one of UNREACHABLE when the
    wait was in vain. What was upgraded before an error stays upgraded; running it again goes on there.
    """
    passwords = environment.passwords(urls, DATABASE_URLS)
    administrator = urls[DATABASE_URL]
    await until_ready(_plain(administrator))
    left: list[str] = []
    for service, package in PACKAGES.items():
        names = await upgrade(administrator, service, package, password=passwords[service], phase=phase)
        left += [f"{service} {name}" for name in names]
    return left


def _plain(url: str) -> str:
    """The URL as asyncpg itself takes it, without SQLAlchemy's driver."""
    try:
        return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    except ArgumentError:
        # Its text repeats the URL, password included.
        raise SettingsError(f"{DATABASE_URL} is no URL such as postgresql://USER:PASSWORD@HOST:5432/NAME") from None


@retry(retry=retry_if_exception_type(UNREACHABLE), stop=SERVER_STOP, wait=SERVER_WAIT, reraise=True)
async def until_ready(url: str) -> None:
    """Returns when the database takes a connection. A refused password is not waited for: asyncpg.PostgresError."""
    connection = await asyncpg.connect(url, timeout=ANSWER_SECONDS_MAX)
    await connection.close()


def main(argv: Sequence[str] = ()) -> ExitCode:
    """The command; returns its exit code and logs what happened."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.jobs.schema")
    parser.add_argument("--phase", type=Phase, choices=tuple(Phase), default=Phase.PRE, help="pre (default) or post")
    phase = parser.parse_args(argv).phase
    logs.configure("schema")
    log = structlog.get_logger()
    try:
        left = asyncio.run(install(environment.read([DATABASE_URL, *DATABASE_URLS.values()]), phase))
    except SettingsError as error:
        log.error("settings_refused", problem=str(error))
        return ExitCode.USAGE
    except UNREACHABLE as error:
        log.error("database_unreachable", problem=str(error), seconds=environment.SERVER_SECONDS_MAX)
        return ExitCode.UNREACHABLE
    except (PhaseError, asyncpg.PostgresError) as error:
        log.error("schema_refused", problem=str(error))
        return ExitCode.SOME_FAILED
    except DBAPIError as error:
        # Not the statement with it: that of a role has its password in it.
        log.error("schema_refused", problem=str(error.orig))
        return ExitCode.SOME_FAILED
    log.info("schemas_upgraded", services=len(PACKAGES), left_for_post=left)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

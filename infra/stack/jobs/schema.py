"""`python -m infra.stack.jobs.schema`: creates or upgrades the role, schema and tables of every service, then ends.

Reads TUTTI_DATABASE_URL (the administrator's) and TUTTI_<SERVICE>__DATABASE_URL for every service; see `infra.stack.jobs.environment`.
Running it again changes nothing, except that a password follows its secret. Exit codes: 0 done, 1 refused by the database,
2 settings, 5 the database did not answer in time.
"""

import asyncio
import sys
from collections.abc import Mapping

import asyncpg
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from tenacity import retry, retry_if_exception_type

from infra.chassis import logs
from infra.chassis.schema import upgrade
from infra.stack.jobs import environment
from infra.stack.jobs.environment import DATABASE_URL, SERVER_STOP, SERVER_WAIT, SettingsError
from infra.stack.local.layout import PACKAGES
from infra.terminal.exit_codes import ExitCode

DATABASE_URLS = {service: environment.database_url_of(service) for service in PACKAGES}
ANSWER_SECONDS_MAX = 5.0
# No listener yet, a listener that is starting or stopping, a connection that a starting server drops.
UNREACHABLE = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)


async def install(urls: Mapping[str, str]) -> None:
    """Brings every service's schema to the newest version, one after the other. Waits for the database, at most two minutes.

    Raises SettingsError, asyncpg.PostgresError or DBAPIError when the database refuses, and one of UNREACHABLE when the wait was
    in vain. What was upgraded before an error stays upgraded; running it again goes on there.
    """
    passwords = environment.passwords(urls, DATABASE_URLS)
    administrator = urls[DATABASE_URL]
    await until_ready(_plain(administrator))
    for service, package in PACKAGES.items():
        await upgrade(administrator, service, package, password=passwords[service])


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


def main() -> ExitCode:
    """The command; returns its exit code and logs what happened."""
    logs.configure("schema")
    log = structlog.get_logger()
    try:
        asyncio.run(install(environment.read([DATABASE_URL, *DATABASE_URLS.values()])))
    except SettingsError as error:
        log.error("settings_refused", problem=str(error))
        return ExitCode.USAGE
    except UNREACHABLE as error:
        log.error("database_unreachable", problem=str(error), seconds=environment.SERVER_SECONDS_MAX)
        return ExitCode.UNREACHABLE
    except asyncpg.PostgresError as error:
        log.error("schema_refused", problem=str(error))
        return ExitCode.SOME_FAILED
    except DBAPIError as error:
        # Not the statement with it: that of a role has its password in it.
        log.error("schema_refused", problem=str(error.orig))
        return ExitCode.SOME_FAILED
    log.info("schemas_upgraded", services=len(PACKAGES))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())

"""`python -m infra.stack.jobs.sample`: opens the sample partners' accounts and publishes the sample company, then ends.

For trying a fresh stack (profile `demo`); the same company as that of the local stack. Running it again changes nothing.
Reads what its services read: the URLs of ingress, erp and wms, the pepper, and TUTTI_SAMPLE__<PARTNER>_API_KEY for each partner.
Exit codes: 0 done, 1 refused, 2 settings, 5 a server or a consumer did not answer in time.
"""

import asyncio
import sys
from collections.abc import Mapping

import structlog
from sqlalchemy.ext.asyncio import create_async_engine

from infra.chassis import logs
from infra.chassis.database import async_url
from infra.stack.jobs import environment
from infra.stack.jobs.environment import DATABASE_URL, SettingsError
from infra.stack.local import sample
from infra.stack.local.platform import PARTNERS
from infra.stack.local.publishing import NotPublished
from infra.terminal.exit_codes import ExitCode
from services.ingress.adapters.partners import KeyRefused, create_partner, issue_key

INGRESS_URL = environment.database_url_of("ingress")
PEPPER = "TUTTI_INGRESS__API_KEY_PEPPER"
ERP_URL, WMS_URL = environment.broker_url_of("erp"), environment.broker_url_of("wms")
API_KEYS = {partner: f"TUTTI_SAMPLE__{partner.upper()}_API_KEY" for partner in PARTNERS}


async def install(given: Mapping[str, str]) -> None:
    """Accounts first, then the company's facts; returns when every consumer has taken them.

    Raises KeyRefused, NotPublished, ConnectionError, TimeoutError.
    """
    engine = create_async_engine(async_url(given[INGRESS_URL]))
    try:
        async with engine.begin() as connection:
            for partner, users in PARTNERS.items():
                await create_partner(connection, partner, broker_users=users)
                await issue_key(connection, given[PEPPER], partner, api_key=given[API_KEYS[partner]])
    finally:
        await engine.dispose()
    await sample.load(given[ERP_URL], given[WMS_URL], given[DATABASE_URL])


def main() -> ExitCode:
    """The command; returns its exit code and logs what happened."""
    logs.configure("sample")
    log = structlog.get_logger()
    try:
        asyncio.run(install(environment.read([DATABASE_URL, INGRESS_URL, PEPPER, ERP_URL, WMS_URL, *API_KEYS.values()])))
    except SettingsError as error:
        log.error("settings_refused", problem=str(error))
        return ExitCode.USAGE
    except (OSError, TimeoutError) as error:
        log.error("unreachable", problem=str(error) or type(error).__name__)
        return ExitCode.UNREACHABLE
    except (KeyRefused, NotPublished) as error:
        log.error("sample_refused", problem=str(error))
        return ExitCode.SOME_FAILED
    log.info("sample_loaded", partners=len(PARTNERS))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())

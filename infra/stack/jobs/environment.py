"""What a job is told by its environment: URLs, each from a variable or from the file that `..._FILE` names.

The variables are those that the services read themselves (`TUTTI_CREDIT__BROKER_URL`): the job that sets a password and the
service that uses it look at the same secret, so the two cannot differ.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tenacity import stop_after_delay, wait_fixed

MANAGEMENT_URL = "TUTTI_MANAGEMENT_URL"
DATABASE_URL = "TUTTI_DATABASE_URL"

SERVER_SECONDS_MAX = 120.0
SERVER_STOP, SERVER_WAIT = stop_after_delay(SERVER_SECONDS_MAX), wait_fixed(0.5)


class SettingsError(ValueError):
    """Settings are missing or wrong; the text names all of them and shows no value."""


def broker_url_of(user: str) -> str:
    """The variable with the broker's URL for one of its users."""
    return f"TUTTI_{user.upper()}__BROKER_URL"


def database_url_of(service: str) -> str:
    """The variable with the database's URL for one service."""
    return f"TUTTI_{service.upper()}__DATABASE_URL"


def read(names: Iterable[str]) -> dict[str, str]:
    """The value of each variable, from the environment, otherwise from its file. Raises SettingsError for all that is missing."""
    found: dict[str, str] = {}
    missing: list[str] = []
    problems: list[str] = []
    for name in names:
        try:
            found[name] = _value(name)
        except OSError as error:
            problems.append(f"{name}_FILE names {error.filename}, which cannot be read ({error.strerror})")
        except LookupError:
            missing.append(name)
    if missing:
        problems.insert(0, f"not set, or empty, both as a variable and as the file that ..._FILE names: {', '.join(missing)}")
    _refuse(problems)
    return found


def _value(name: str) -> str:
    value = os.environ.get(name, "")
    path = os.environ.get(f"{name}_FILE", "")
    if not value and path:
        value = Path(path).read_text().strip()
    if not value:
        raise LookupError(name)
    return value


def passwords(urls: Mapping[str, str], variable_of: Mapping[str, str]) -> dict[str, str]:
    """Each user's password out of its URL. Raises SettingsError for every URL that is not that user's or has no password."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for user, variable in variable_of.items():
        parts = urlsplit(urls[variable])
        if unquote(parts.username or "") != user:
            problems.append(f"{variable} must be the URL of the user {user!r}, not of {unquote(parts.username or '')!r}")
        elif not parts.password:
            problems.append(f"{variable} has no password")
        else:
            found[user] = unquote(parts.password)
    _refuse(problems)
    return found


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SettingsError(
            "; ".join(problems) + ". `python -m infra.stack.jobs.secrets` writes a file for each (docs/deployment.md)"
        )

"""The failure desk as `dlq` sees it: where it is, with which token, and what its answers mean."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

REQUEST_SECONDS_MAX: Final = 30.0


class Unreachable(Exception):
    """The desk gives no answer; the text has the command to type next. Exit code 5."""


class NotFound(Exception):
    """Nothing matches. Exit code 3."""


class NotAllowed(Exception):
    """Refused by policy or permission. Exit code 4."""


class Misused(Exception):
    """The desk does not understand what was asked for. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the desk is. `actor` is the operator whose token it is; `processes` are internal APIs by name."""

    url: str
    token: str
    actor: str
    processes: Mapping[str, str]


def find_desk() -> Desk:
    """From TUTTI_DEADLETTERS_URL and TUTTI_OPERATOR_TOKEN(_FILE), and for the rest from the home's addresses.

    Raises Unreachable where neither says it, or a file cannot be read.
    """
    home = Path(os.environ.get("TUTTI_HOME") or _project_home())
    addresses = _read(home / "addresses.json")
    url = os.environ.get("TUTTI_DEADLETTERS_URL") or addresses.get("dead_letters")
    actor, token = _token(addresses)
    if not url or not token:
        missing = "address" if not url else "operator's token"
        raise Unreachable(
            f"the {missing} of the failure desk is not known ({home / 'addresses.json'} does not have it). Start the system with: tutti up"
            "\nor set TUTTI_DEADLETTERS_URL and TUTTI_OPERATOR_TOKEN"
        )
    processes = {str(name): str(one) for name, one in addresses.get("services", {}).items()}
    return Desk(str(url).rstrip("/"), token, actor, processes)


def request(desk: Desk, method: str, path: str, **options: Any) -> Any:
    """The answer's document. Raises what the status means, with the desk's own words."""
    return request_at(desk.url, desk.token, method, path, **options)


def request_at(url: str, token: str, method: str, path: str, **options: Any) -> Any:
    """As `request`, for the internal API of any process."""
    try:
        with httpx2.Client(base_url=url, timeout=REQUEST_SECONDS_MAX, trust_env=False) as client:
            answer = client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"no answer from {url} ({type(error).__name__}). See whether it runs: tutti status") from error
    if answer.is_success:
        return answer.json()
    raise _meaning(answer)


def _meaning(answer: httpx2.Response) -> Exception:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:300]
    words = detail if isinstance(detail, str) else "; ".join(_problem(one) for one in detail)
    match answer.status_code:
        case 404:
            return NotFound(words)
        case 401 | 403:
            return NotAllowed(f"{words}. The token is in addresses.json of the home, or in TUTTI_OPERATOR_TOKEN")
        case 409:
            return NotAllowed(words)
        case 400 | 422:
            return Misused(words)
    return Unreachable(f"the failure desk answers {answer.status_code}. See its log: tutti logs deadletters")


def _problem(one: Mapping[str, Any]) -> str:
    return f"{'/'.join(str(part) for part in one.get('loc', ()))}: {one.get('msg', '')}"


def _token(addresses: Mapping[str, Any]) -> tuple[str, str | None]:
    """The operator's name and token. A token from the environment belongs to `operator`, unless it is a known one."""
    operators: dict[str, Any] = addresses.get("operators", {})
    named = {name: operator.get("token") for name, operator in operators.items()}
    path = os.environ.get("TUTTI_OPERATOR_TOKEN_FILE")
    given = os.environ.get("TUTTI_OPERATOR_TOKEN") or (_secret(Path(path)) if path else None)
    if given:
        return next((name for name, token in named.items() if token == given), "operator"), given
    return next(((name, token) for name, token in named.items() if token), ("operator", None))


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Unreachable(f"{path} (TUTTI_OPERATOR_TOKEN_FILE) cannot be read: {error.strerror}") from error


def _project_home() -> Path:
    """`.tutti` of the project that this is installed from, or of the working directory."""
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / ".tutti"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Unreachable(f"{path} cannot be read: {error}. Start the system anew with: tutti up") from error
    return document if isinstance(document, dict) else {}

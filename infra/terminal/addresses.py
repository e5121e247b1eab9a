"""Where the stack is: reads `addresses.json` of a home, which the stack writes."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.terminal.failures import Misused, Unreachable

ADDRESSES_FILE: Final = "addresses.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the file says. What is asked for beyond that raises Unreachable, with the remedy."""

    file: Path
    document: Mapping[str, Any]

    def url(self, name: str) -> str:
        """The base URL of a part of the system. Raises Unreachable where no stack has been started."""
        return str(self.document[name]) if self.document.get(name) else self._nowhere()

    def services(self) -> dict[str, str]:
        """The URLs of all services' internal APIs by service. Raises Unreachable where no stack has been started."""
        return {str(name): str(url) for name, url in self.document.get("services", {}).items()} or self._nowhere()

    def api_key(self, partner: str) -> str:
        """The key of a partner. Raises Misused for an unknown partner, and Unreachable where no stack has been started."""
        partners = self.document.get("partners") or self._nowhere()
        if partner not in partners:
            raise Misused(f"no partner {partner!r} in {self.file}; there are: {', '.join(partners)}")
        return str(partners[partner]["api_key"])

    def tokens(self) -> dict[str, str]:
        """Operators' tokens by name; empty where no stack has been started."""
        operators: Mapping[str, Any] = self.document.get("operators", {})
        return {name: str(operator["token"]) for name, operator in operators.items() if operator.get("token")}

    def _nowhere(self) -> Any:
        raise Unreachable(
            f"no stack has been started in {self.file.parent}; type `tutti up`, or set TUTTI_HOME to the home of one that runs"
        )


def home_path() -> Path:
    """TUTTI_HOME, otherwise `.tutti` of the project that this is installed from, otherwise of the working directory.

    It need not exist: looking for a stack creates nothing.
    """
    if given := os.environ.get("TUTTI_HOME"):
        return Path(given).expanduser().resolve()
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / ".tutti"


def read_addresses(home: Path | None = None) -> Addresses:
    """What is known of the stack of this home; empty where no stack has been started. Raises Unreachable for a damaged file."""
    file = (home or home_path()) / ADDRESSES_FILE
    try:
        document = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return Addresses(file, {})
    except (OSError, ValueError) as error:
        raise Unreachable(f"{file} cannot be read: {error}. Start the stack anew: tutti down && tutti up") from error
    return Addresses(file, document if isinstance(document, dict) else {})

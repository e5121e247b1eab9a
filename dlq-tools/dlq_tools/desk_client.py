"""The failure desk as `dlq` sees it: where it is, as whom it is asked, and which processes hold retries."""

import os
from dataclasses import dataclass
from typing import Any, Final

from infra.terminal.addresses import Addresses, read_addresses
from infra.terminal.client import Client
from infra.terminal.failures import Unreachable
from infra.terminal.operators import VARIABLE, Operator, operator_of

DESK_URL: Final = "TUTTI_DEADLETTERS_URL"


@dataclass(frozen=True, slots=True)
class Desk:
    """One failure desk, asked as one operator."""

    url: str
    operator: Operator
    addresses: Addresses

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer's document. Raises what its status means, in the desk's own words."""
        return Client(self.url, self.operator.token).ask(method, path, **options)

    def processes(self) -> dict[str, Client]:
        """The internal API of each process by name. Raises Unreachable where the home does not know them."""
        return {name: Client(url, self.operator.token) for name, url in self.addresses.services().items()}


def find_desk() -> Desk:
    """From TUTTI_DEADLETTERS_URL, and for the rest from the home's addresses. Raises Unreachable where neither says it."""
    addresses = read_addresses()
    try:
        url = os.environ.get(DESK_URL) or addresses.url("dead_letters")
    except Unreachable as error:
        raise Unreachable(f"{error}\nA desk elsewhere: set {DESK_URL} and {VARIABLE}") from error
    return Desk(url, operator_of(addresses), addresses)

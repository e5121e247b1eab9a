"""As whom an operator's command acts: a name and a token."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.terminal.addresses import Addresses
from infra.terminal.failures import Unreachable

DEFAULT_OPERATOR: Final = "admin"
VARIABLE: Final = "TUTTI_OPERATOR_TOKEN"
FILE_VARIABLE: Final = "TUTTI_OPERATOR_TOKEN_FILE"


@dataclass(frozen=True, slots=True)
class Operator:
    """`name` is what goes into histories, unless a command is given another with --actor."""

    name: str
    token: str


def operator_of(addresses: Addresses) -> Operator:
    """From TUTTI_OPERATOR_TOKEN, or the file TUTTI_OPERATOR_TOKEN_FILE, otherwise `admin` of the home.

    A token from the environment is that of `operator`, unless the home knows it. Raises Unreachable where there is no token.
    """
    known = addresses.tokens()
    if given := _from_environment():
        return Operator(next((name for name, token in known.items() if token == given), "operator"), given)
    if DEFAULT_OPERATOR not in known:
        raise Unreachable(
            f"no operator's token in {addresses.file}; type `tutti up`, or set {VARIABLE}, or {FILE_VARIABLE} to a file that has it"
        )
    return Operator(DEFAULT_OPERATOR, known[DEFAULT_OPERATOR])


def _from_environment() -> str | None:
    if given := os.environ.get(VARIABLE):
        return given
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return None
    try:
        given = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise Unreachable(f"{path} ({FILE_VARIABLE}) cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not given:
        # The file was named on purpose. The command must not act as another operator because it is empty.
        raise Unreachable(f"{path} ({FILE_VARIABLE}) is empty")
    return given

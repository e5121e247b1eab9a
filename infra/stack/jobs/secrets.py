"""`python -m infra.stack.jobs.secrets [--directory secrets]`: writes the secret files that docker-compose.yml mounts.

What exists stays, so running it again writes only what is missing. To give one user a new password: delete its file, run this,
then the job that sets it (docs/deployment.md).
"""

import argparse
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from contracts.registry import SYSTEMS
from infra.stack.local.layout import PACKAGES
from infra.stack.local.platform import PARTNERS

ADMINISTRATOR = "admin"
DATABASE = "tutti"
# The names that the two servers have in the network of docker-compose.yml.
BROKER_HOST, DATABASE_HOST = "broker", "database"

# Compose mounts the files as they are, owner and mode included, and the containers run as users of their own. So everybody may read a
# file, and the directory keeps others out: only its owner may enter it, and the containers see the files without it.
DIRECTORY_MODE, FILE_MODE = 0o700, 0o444


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """A directory of secrets, one per file."""

    directory: Path

    def write_missing(self) -> list[str]:
        """Writes every file that is not there and returns their names. Raises OSError."""
        self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self.directory.chmod(DIRECTORY_MODE)
        before = {path.name for path in self.directory.iterdir()}
        for service in PACKAGES:
            self._once(f"{service}_database_url", _database_url(service, _password()))
        for user in (*PACKAGES, *SYSTEMS):
            self._once(f"{user}_broker_url", _broker_url(user, _password()))
        for partner in PARTNERS:
            self._once(f"{partner}_api_key", f"tk_{secrets.token_hex(8)}_{secrets.token_hex(16)}")
        self._once("operator_token", _password())
        self._once("api_key_pepper", _password())
        self._of_administrators()
        # Wherever the directory is: none of it gets into a repository by accident.
        self._once(".gitignore", "*\n")
        return sorted({path.name for path in self.directory.iterdir()} - before - {".gitignore"})

    def _of_administrators(self) -> None:
        """The servers want the passwords alone, the jobs the URLs; the URLs follow the passwords."""
        database = self._once("database_password", _password())
        broker = self._once("broker_password", _password())
        self._write("database_url", _database_url(ADMINISTRATOR, database))
        self._write("management_url", f"http://{ADMINISTRATOR}:{broker}@{BROKER_HOST}:15672")
        self._write("broker_administrator.conf", f"default_user = {ADMINISTRATOR}\ndefault_pass = {broker}\n")

    def _once(self, name: str, value: str) -> str:
        path = self.directory / name
        if not path.exists():
            self._write(name, value)
        return path.read_text()

    def _write(self, name: str, value: str) -> None:
        """Replaces the file in one step, so that no half-written password is ever taken for one."""
        new = self.directory / f".{name}.{os.getpid()}"
        new.write_text(value)
        new.chmod(FILE_MODE)
        new.replace(self.directory / name)


def _password() -> str:
    # Hexadecimal: the same inside a URL, a configuration file and a statement.
    return secrets.token_hex(24)


def _database_url(user: str, password: str) -> str:
    return f"postgresql://{user}:{password}@{DATABASE_HOST}:5432/{DATABASE}"


def _broker_url(user: str, password: str) -> str:
    return f"amqp://{user}:{password}@{BROKER_HOST}:5672/"


def main(arguments: list[str] | None = None) -> int:
    """The command. Prints the names of the new files, never a value."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.jobs.secrets", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("secrets"))
    directory = parser.parse_args(arguments).directory
    try:
        written = SecretFiles(directory).write_missing()
    except OSError as error:
        sys.stderr.write(f"cannot write to {directory}: {error.strerror}. Name another one with --directory\n")
        return 1
    sys.stdout.write(f"{directory}: {', '.join(written)}\n" if written else f"{directory}: nothing was missing\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Creates and upgrades the schema of each service: one schema, one role, no access across.

The job runs as the owner (the administrator's URL); services run as roles that may read and write rows, nothing else.
Running it again changes nothing. Each service has two lines of migrations: the chassis' and its own. What of them is applied while
processes of the last release still run, and what only afterwards, is said in phases.py.
"""

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from infra.chassis.database import async_url
from infra.chassis.phases import Phase, due

CHASSIS = Path(__file__).parent
VERSION_TABLE = "alembic_version"  # As alembic/env.py says.
# What a role may wait for: a session of a service never holds a lock for minutes because somebody forgot it.
ROLE_SETTINGS = {
    "statement_timeout": "15s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}


def migrations_of(package: str) -> Path | None:
    """The folder of a package's migrations, None where it has none."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise LookupError(f"there is no package {package!r}; a service stands in services/NAME")
    folder = Path(next(iter(found.submodule_search_locations))) / "migrations"
    return folder if folder.is_dir() else None


def append_only(package: str) -> tuple[str, ...]:
    """Tables that the service's role may only read and add to: ledgers. Its migrations say so in APPEND_ONLY."""
    folder = migrations_of(package)
    names = sorted(path.stem for path in folder.glob("[0-9]*.py")) if folder else []
    modules = [f"{package}.migrations", *(f"{package}.migrations.{name}" for name in names)] if folder else []
    tables = (getattr(importlib.import_module(module), "APPEND_ONLY", ()) for module in modules)
    return tuple(dict.fromkeys(table for some in tables for table in some))


async def upgrade(
    admin_url: str, service: str, package: str, *, password: str | None = None, phase: Phase = Phase.POST
) -> tuple[str, ...]:
    """Creates the service's role (where a password is given) and schema, and applies the migrations that are due in this phase.

    Returns the names of those that are left for the post phase. Raises PhaseError, with nothing changed, when a migration's name or
    place forbids it.
    """
    engine = create_async_engine(async_url(admin_url))
    try:
        async with engine.begin() as connection:
            # Two jobs at the same time would both try to create the role.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tutti schema'))"))
            await connection.run_sync(_prepare, service, password)
            left = await connection.run_sync(_migrate, service, package, phase)
            if password is not None:
                await connection.run_sync(_grant, service, append_only(package))
            return left
    finally:
        await engine.dispose()


def _prepare(connection: Connection, service: str, password: str | None) -> None:
    quoted = connection.dialect.identifier_preparer.quote(service)
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted}"))
    if password is None:
        return
    exists = connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": service}).first()
    verb = "ALTER" if exists else "CREATE"
    literal = "'" + password.replace("'", "''") + "'"
    connection.execute(
        text(f"{verb} ROLE {quoted} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {literal}".replace(":", r"\:"))
    )
    for name, value in ROLE_SETTINGS.items():
        connection.execute(text(f"ALTER ROLE {quoted} SET {name} = '{value}'"))
    connection.execute(text(f"ALTER ROLE {quoted} SET search_path = {quoted}"))


def _migrate(connection: Connection, service: str, package: str, phase: Phase) -> tuple[str, ...]:
    quoted = connection.dialect.identifier_preparer.quote(service)
    connection.execute(text(f"SET LOCAL search_path = {quoted}"))
    own = migrations_of(package)
    config = Config()
    config.set_main_option("script_location", str(CHASSIS / "alembic"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(path) for path in (CHASSIS / "migrations", own) if path))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    applied = _applied(connection, scripts)
    left: list[str] = []
    for line in _lines(scripts):
        names = [Path(script.path).stem for script in line]
        known = sum(script.revision in applied for script in line)
        now = due(names, known, phase)
        left += names[known + len(now) :]
        if now:
            command.upgrade(config, line[known + len(now) - 1].revision)
    return tuple(left)


def _applied(connection: Connection, scripts: ScriptDirectory) -> set[str]:
    """Every revision that the schema has. A line's newest stands in its version table; those before it follow."""
    heads = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    return {script.revision for head in heads for script in scripts.iterate_revisions(head, "base")}


def _lines(scripts: ScriptDirectory) -> Iterator[list[Script]]:
    """Each line of migrations, oldest first."""
    for head in scripts.get_heads():
        yield list(scripts.iterate_revisions(head, "base"))[::-1]


def _grant(connection: Connection, service: str, append_only: Sequence[str]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    role = quote(service)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {role} TO {role}"))
    connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {role} TO {role}"))
    connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {role} TO {role}"))
    connection.execute(text(f"REVOKE ALL ON {role}.alembic_version FROM {role}"))
    connection.execute(text("REVOKE ALL ON SCHEMA public FROM PUBLIC"))
    for table in append_only:
        connection.execute(text(f"REVOKE UPDATE, DELETE, TRUNCATE ON {role}.{quote(table)} FROM {role}"))

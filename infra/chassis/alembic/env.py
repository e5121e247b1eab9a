"""Alembic's entry: runs the given service's migrations on the connection that infra/chassis/schema.py hands over."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="alembic_version", transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()

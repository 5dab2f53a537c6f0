"""Runs migrations: one at a time in the whole cluster, each in its own transaction, on the DSN of the settings."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import pool
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from rowcast import ConfigurationError
from rowcast.postgres import connect
from rowcast.service.migrations.lock import hold_lock
from rowcast.service.settings import load_settings


def _dsn() -> str:
    dsn = context.config.attributes.get("dsn") or load_settings().database_url
    if not dsn:
        raise ConfigurationError("set ROWCAST_DATABASE_URL to the database to migrate")
    return str(dsn)


def _run_offline() -> None:
    # Any paramstyle but the default, which would print every "%" twice.
    options = {"paramstyle": "named"}
    context.configure(
        dialect_name="postgresql", dialect_opts=options, literal_binds=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run_online() -> None:
    dsn = _dsn()

    async def open_connection() -> Any:
        return await connect(dsn, application_name="rowcast-migrate")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=open_connection, poolclass=pool.NullPool)
    try:
        async with hold_lock(dsn), engine.connect() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    _run_offline()
else:
    asyncio.run(_run_online())

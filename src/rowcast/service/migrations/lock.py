"""One migration at a time: an advisory lock that is asked for again and again, never waited for.

A session that waits inside `pg_advisory_lock` holds a snapshot, and `CREATE INDEX CONCURRENTLY` waits for all older
snapshots to go: two migrations would hang each other.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rowcast import ConfigurationError
from rowcast.postgres import connect

__all__ = ["hold_lock"]

_KEY = 0x726F7763617374  # "rowcast"


@asynccontextmanager
async def hold_lock(dsn: str, *, timeout_seconds: float = 300) -> AsyncIterator[None]:
    """Hold the migration lock of a database. Raises `ConfigurationError` if another holds it for too long."""
    connection = await connect(dsn, application_name="rowcast-migrate-lock")
    try:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _KEY):
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError("another migration is still running; look for it in pg_stat_activity")
            await asyncio.sleep(0.1)
        yield
    finally:
        await connection.close()

"""The pool that the service's own statements run on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from rowcast import DatabaseUnavailable
from rowcast.postgres import create_pool, translated

if TYPE_CHECKING:
    import asyncpg

__all__ = ["Database"]


class Database:
    """A pool that opens with the application and gives out connections for the time of a block."""

    def __init__(
        self,
        dsn: str,
        *,
        max_connections: int,
        application_name: str = "rowcast-service",
        command_timeout_seconds: float | None = 30,
    ) -> None:
        self._dsn = dsn
        self._command_timeout_seconds = command_timeout_seconds
        self._max_connections = max_connections
        self._application_name = application_name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def __aenter__(self) -> Self:
        self._pool = await create_pool(
            self._dsn,
            application_name=self._application_name,
            max_size=self._max_connections,
            command_timeout_seconds=self._command_timeout_seconds,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
        """Give out a connection. Raises `DatabaseUnavailable` when none can be had."""
        if self._pool is None:
            raise DatabaseUnavailable("the database is not open")
        with translated():
            async with self._pool.acquire(timeout=10) as connection:
                yield connection  # type: ignore[misc]

    @asynccontextmanager
    async def transaction(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
        """Give out a connection inside a transaction, which ends with the block."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *arguments: Any) -> "list[asyncpg.Record]":
        """Run one statement and return its rows."""
        async with self.connection() as connection:
            return await connection.fetch(statement, *arguments)

    async def fetch_one(self, statement: str, *arguments: Any) -> "asyncpg.Record | None":
        """Run one statement and return its only row, if there is one."""
        rows = await self.fetch(statement, *arguments)
        return rows[0] if rows else None

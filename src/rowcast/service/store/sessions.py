"""Sessions: who owns them, what they are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from rowcast import NotFound
from rowcast.postgres import named_statements
from rowcast.service.store.database import Database
from rowcast.service.store.jobs import cancel_jobs

if TYPE_CHECKING:
    import asyncpg

__all__ = ["Page", "Session", "Sessions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session as its owner sees it."""

    session_id: UUID
    name: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    request_count: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, newest first, and whether there are more."""

    sessions: list[Session]
    more: bool


class Sessions:
    """The table `session`. What belongs to somebody else is not found."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = named_statements("rowcast.service.store", "sql/sessions.sql")

    async def create(self, owner: str, *, name: str, tags: list[str]) -> Session:
        """Create a session."""
        row = await self._database.fetch_one(self._sql["create"], owner, name, tags)
        assert row is not None
        return _session(row)

    async def list(self, owner: str, *, limit: int, after: tuple[datetime, UUID] | None) -> Page:
        """Return up to `limit` of the owner's sessions, those after a creation time and id."""
        created_at, session_id = after or (None, None)
        rows = await self._database.fetch(self._sql["list"], owner, limit + 1, created_at, session_id)
        return Page([_session(row) for row in rows[:limit]], len(rows) > limit)

    async def get(self, owner: str, session_id: UUID) -> Session:
        """Return a session. Raises `NotFound`."""
        row = await self._database.fetch_one(self._sql["get"], owner, session_id)
        if row is None:
            raise NotFound
        return _session(row)

    async def check_owner(self, owner: str, session_id: UUID) -> None:
        """Raise `NotFound` unless the session exists and is the owner's: one statement, one answer for both."""
        if await self._database.fetch_one(self._sql["owned"], owner, session_id) is None:
            raise NotFound

    async def change(self, owner: str, session_id: UUID, *, name: str | None, tags: Sequence[str] | None) -> Session:
        """Rename or retag. Raises `NotFound`."""
        if await self._database.fetch_one(self._sql["change"], owner, session_id, name, tags) is None:
            raise NotFound
        return await self.get(owner, session_id)

    async def delete(self, owner: str, session_id: UUID) -> None:
        """Delete a session with its requests, and stop what still runs for it. Raises `NotFound`."""
        async with self._database.transaction() as connection:
            jobs = [row["job_id"] for row in await connection.fetch(self._sql["running_jobs"], session_id)]
            if await connection.fetchrow(self._sql["delete"], owner, session_id) is None:
                raise NotFound
            await cancel_jobs(connection, jobs)


def _session(row: "asyncpg.Record") -> Session:
    return Session(**dict(row))

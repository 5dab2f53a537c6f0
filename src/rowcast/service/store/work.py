"""Requests as the worker sees them: claimed, vouched for, ended."""

import json
from typing import TYPE_CHECKING
from uuid import UUID

from rowcast.postgres import named_statements
from rowcast.service.handlers import QueryRecord
from rowcast.service.store.database import Database
from rowcast.service.store.law import Status

if TYPE_CHECKING:
    import asyncpg

__all__ = ["LOST_WORKER", "Work"]

LOST_WORKER = "The worker that ran this request was lost. Retry it."


class Work:
    """What workers do to the table `request`. Each step names the status it starts from, so none is done twice."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._sql = named_statements("rowcast.service.store", "sql/requests.sql")

    async def claim(self, request_id: UUID) -> "asyncpg.Record | None":
        """Begin a pending request; None if it is not pending any more."""
        return await self._database.fetch_one(self._sql["claim"], request_id, self._lease_seconds)

    async def renew(self, request_ids: list[UUID]) -> None:
        """Vouch for requests for another lease."""
        await self._database.fetch(self._sql["renew"], request_ids, self._lease_seconds)

    async def finish(
        self,
        request_id: UUID,
        status: Status,
        *,
        response: str | None = None,
        error: str | None = None,
        queries: tuple[QueryRecord, ...] = (),
    ) -> bool:
        """End a request with its answer, in one transaction; say whether it was still ours to end."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(self._sql["finish"], request_id, status, response, error) is None:
                return False
            for query in queries:
                columns = json.dumps([dict(column) for column in query.columns])
                await connection.execute(
                    self._sql["record_query"], request_id, query.sql, columns, query.row_count, query.summary,
                    query.duration_ms, query.error,
                )  # fmt: skip
        return True

    async def end_lost(self) -> int:
        """End the requests whose worker has been silent for longer than its lease; return how many."""
        return len(await self._database.fetch(self._sql["end_lost"], LOST_WORKER))

    async def forget_old_keys(self) -> None:
        """Forget idempotency keys older than a day."""
        await self._database.fetch(self._sql["forget_old_keys"])

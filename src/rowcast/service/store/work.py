"""Requests as the worker sees them: claimed, vouched for, ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from rowcast.postgres import named_statements
from rowcast.service.handlers import QueryRecord
from rowcast.service.store.database import Database
from rowcast.service.store.law import Status

if TYPE_CHECKING:
    import asyncpg

__all__ = ["LOST_WORKER", "Outcome", "Work"]

LOST_WORKER = "The worker that ran this request was lost. Retry it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended."""

    status: Status
    response: str | None = None
    error: str | None = None
    queries: tuple[QueryRecord, ...] = ()


class Work:
    """What workers do to the table `request`.

    Each step names the status it starts from and the job that holds the request, so that none is done twice: a worker
    that was thought lost, and comes back after the request was retried, changes nothing.
    """

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._sql = named_statements("rowcast.service.store", "sql/requests.sql")

    async def claim(self, request_id: UUID, job_id: int) -> "asyncpg.Record | None":
        """Begin a pending request for a job; None if it is not pending any more, or waits for another job."""
        return await self._database.fetch_one(self._sql["claim"], request_id, job_id, self._lease_seconds)

    async def renew(self, held: Mapping[int, UUID]) -> set[int]:
        """Vouch for requests, by job, for another lease; return the jobs that still hold theirs."""
        jobs, requests = list(held.keys()), list(held.values())
        rows = await self._database.fetch(self._sql["renew"], jobs, requests, self._lease_seconds)
        return {row["job_id"] for row in rows}

    async def finish(self, request_id: UUID, job_id: int, outcome: Outcome) -> bool:
        """End a request, in one transaction; say whether it was still the job's to end."""
        ending = (outcome.status, outcome.response, outcome.error)
        async with self._database.transaction() as connection:
            if await connection.fetchval(self._sql["finish"], request_id, job_id, *ending) is None:
                return False
            for query in outcome.queries:
                columns = json.dumps([dict(column) for column in query.columns])
                await connection.execute(
                    self._sql["record_query"], request_id, query.sql, columns, query.row_count, query.summary,
                    query.duration_ms, query.error,
                )  # fmt: skip
        return True

    async def end_lost(self) -> int:
        """End the requests whose worker has been silent for longer than its lease; return how many."""
        return len(await self._database.fetch(self._sql["end_lost"], LOST_WORKER, self._lease_seconds))

    async def forget_old_keys(self) -> None:
        """Forget idempotency keys older than a day."""
        await self._database.fetch(self._sql["forget_old_keys"])

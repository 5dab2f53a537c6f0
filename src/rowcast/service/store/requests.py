"""Requests as their owner sees and changes them."""

import hashlib
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rowcast import Conflict, NotFound
from rowcast.postgres import named_statements
from rowcast.service.store.database import Database
from rowcast.service.store.jobs import cancel_jobs, enqueue
from rowcast.service.store.law import TERMINAL

if TYPE_CHECKING:
    import asyncpg

__all__ = ["UNCHANGED", "Requests"]

UNCHANGED: Any = object()
"""Stands for a value that a change leaves as it is; None is a value."""

MOST_REQUESTS = 10_000


class Requests:
    """The table `request`. What belongs to somebody else is not found."""

    def __init__(self, database: Database, *, most_requests: int = MOST_REQUESTS) -> None:
        self._database = database
        self._most_requests = most_requests
        self._sql = named_statements("rowcast.service.store", "sql/requests.sql")

    async def create(
        self, owner: str, session_id: UUID, *, text: str, handler: str, idempotency_key: str | None
    ) -> "tuple[asyncpg.Record, bool]":
        """Write a request and its job in one transaction; return it, and whether it is new.

        The same key with the same content returns what was created first. Raises `NotFound`, and `Conflict` for a
        full session or a key that was used for something else.
        """
        digest = hashlib.sha256(repr((str(session_id), text, handler)).encode()).hexdigest()
        async with self._database.transaction() as connection:
            if idempotency_key is not None:
                await connection.execute(self._sql["lock_key"], owner, idempotency_key)
                known = await connection.fetchrow(self._sql["recall_key"], owner, idempotency_key)
                if known is not None:
                    if known["body_digest"] != digest:
                        raise Conflict(
                            "This Idempotency-Key was used for another request.", code="idempotency_key_reused"
                        )
                    return await self._by_id(connection, owner, known["request_id"]), False
            number = await connection.fetchval(self._sql["lock_session"], owner, session_id)
            if number is None:
                raise NotFound
            # Numbers are never given twice, so the count is only needed when as many were ever given.
            if number >= self._most_requests:
                count = await connection.fetchval(self._sql["count"], session_id)
                if count >= self._most_requests:
                    raise Conflict(
                        f"A session holds at most {self._most_requests} requests; start another one.",
                        code="session_full",
                    )
            request_id = await connection.fetchval(self._sql["create"], session_id, text, handler)
            await connection.execute(self._sql["set_job"], request_id, await enqueue(connection, request_id))
            if idempotency_key is not None:
                await connection.execute(self._sql["remember_key"], owner, idempotency_key, digest, request_id)
            return await self._by_id(connection, owner, request_id), True

    async def get(self, owner: str, session_id: UUID, sequence_number: int) -> "asyncpg.Record":
        """Return a request by its number in the session. Raises `NotFound`."""
        row = await self._database.fetch_one(self._sql["by_number"], owner, session_id, sequence_number)
        if row is None:
            raise NotFound
        return row

    async def change(
        self,
        owner: str,
        request_id: UUID,
        *,
        rating: int | None = UNCHANGED,
        review: str | None = UNCHANGED,
        retry: bool,
    ) -> "asyncpg.Record":
        """Rate, review, or run again. Raises `NotFound`, and `Conflict` for a retry of what has not ended."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(self._sql["lock"], owner, request_id)
            if row is None:
                raise NotFound
            if rating is not UNCHANGED or review is not UNCHANGED:
                sets = (rating is not UNCHANGED, review is not UNCHANGED)
                values = (rating if sets[0] else None, review if sets[1] else None)
                await connection.execute(self._sql["review"], request_id, sets[0], values[0], sets[1], values[1])
            if retry:
                if row["status"] not in TERMINAL:
                    raise Conflict(f"Only a request that has ended can be retried; this one is {row['status']}.",
                                   code="illegal_transition")  # fmt: skip
                await self._retry(connection, request_id)
            return await self._by_id(connection, owner, request_id)

    async def delete(self, owner: str, request_id: UUID) -> None:
        """Delete a request, and stop it if it runs. Raises `NotFound`."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(self._sql["delete"], owner, request_id)
            if row is None:
                raise NotFound
            if row["job_id"] is not None and row["status"] not in TERMINAL:
                await cancel_jobs(connection, [row["job_id"]])

    async def _retry(self, connection: "asyncpg.Connection[asyncpg.Record]", request_id: UUID) -> None:
        await connection.execute(self._sql["allow_retry"])
        await connection.execute(self._sql["retry"], request_id)
        await connection.execute(self._sql["forbid_retry"])
        await connection.execute(self._sql["forget_queries"], request_id)
        await connection.execute(self._sql["set_job"], request_id, await enqueue(connection, request_id))

    async def _by_id(
        self, connection: "asyncpg.Connection[asyncpg.Record]", owner: str, request_id: UUID
    ) -> "asyncpg.Record":
        row = await connection.fetchrow(self._sql["by_id"], owner, request_id)
        if row is None:
            raise NotFound
        return row

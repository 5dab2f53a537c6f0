"""The queue of jobs, written in the same transaction as the request it is for."""

from typing import TYPE_CHECKING
from uuid import UUID

from pgqueuer.adapters.persistence.queries import Queries as Queue
from pgqueuer.domain.types import JobId

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["ENTRYPOINT", "cancel_jobs", "enqueue"]

ENTRYPOINT = "rowcast.request"


async def enqueue(connection: "Connection", request_id: UUID) -> int:
    """Queue the job for a request; it is seen by workers when the transaction commits."""
    (job_id,) = await Queue.from_asyncpg_connection(connection).enqueue(ENTRYPOINT, str(request_id).encode())
    return int(job_id)


async def cancel_jobs(connection: "Connection", job_ids: list[int]) -> None:
    """Take jobs out of the queue and stop those that run."""
    if job_ids:
        await Queue.from_asyncpg_connection(connection).mark_job_as_cancelled([JobId(job_id) for job_id in job_ids])

"""Answers requests: takes jobs from the queue, runs their handlers, writes what they return.

The worker only updates rows; that browsers learn of it is the trigger's business. Any program that updates the same
rows is a worker just as well.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING
from uuid import UUID

from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.models import Context
from pgqueuer.domain.models import Job as QueuedJob

from rowcast import RowcastError
from rowcast.postgres import connect
from rowcast.service.handlers import Answer, Handler, HandlerError, Job
from rowcast.service.leases import end_lost_requests
from rowcast.service.settings import Settings
from rowcast.service.store.database import Database
from rowcast.service.store.jobs import ENTRYPOINT
from rowcast.service.store.work import Work

if TYPE_CHECKING:
    import asyncpg

__all__ = ["HANDLERS", "Worker", "installed_handlers"]

HANDLERS = "rowcast.handlers"
STOPPED = "The worker was stopped while it ran this request. Retry it."

logger = logging.getLogger(__name__)


def installed_handlers() -> Mapping[str, EntryPoint]:
    """Return the handlers that installed packages publish, by name; they are imported when first needed."""
    return {point.name: point for point in entry_points(group=HANDLERS)}


class Worker:
    """One worker process; any number may run, on any machine."""

    def __init__(self, settings: Settings, *, grace_seconds: float = 20) -> None:
        self._settings = settings
        self._grace_seconds = grace_seconds
        self._database = Database(
            settings.database_url,
            max_connections=settings.worker_concurrency + 4,
            application_name="rowcast-worker",
        )
        self._work = Work(self._database, lease_seconds=settings.lease_seconds)
        self._handlers = installed_handlers()
        self._running: set[UUID] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Answer requests until `stop` is set; what runs then has `grace_seconds` to end."""
        async with self._database:
            helpers = [asyncio.create_task(end_lost_requests(self._work)), asyncio.create_task(self._vouch())]
            try:
                while not stop.is_set():
                    try:
                        await self._take_jobs(stop)
                    except Exception as error:
                        logger.warning("the worker lost the database", extra={"reason": str(error)})
                        with suppress(TimeoutError):
                            await asyncio.wait_for(stop.wait(), random.uniform(0.2, 1))  # noqa: S311
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def _take_jobs(self, stop: asyncio.Event) -> None:
        connection = await connect(self._settings.database_url, application_name="rowcast-worker")
        try:
            manager = QueueManager(Queries.from_asyncpg_connection(connection))
            manager.entrypoint(ENTRYPOINT, accepts_context=True)(self._take)
            connection.add_termination_listener(lambda _: manager.shutdown.set())
            most = self._settings.worker_concurrency
            jobs = asyncio.create_task(
                manager.run(
                    dequeue_timeout=timedelta(seconds=5),
                    batch_size=max(1, most // 2),
                    max_concurrent_tasks=max(2, most),
                    heartbeat_timeout=timedelta(seconds=self._settings.lease_seconds),
                    shutdown_on_listener_failure=True,
                )
            )
            stopping = asyncio.create_task(stop.wait())
            logger.info("working", extra={"handlers": sorted(self._handlers)})
            try:
                await asyncio.wait((jobs, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not jobs.done():
                    manager.shutdown.set()
                    await asyncio.wait((jobs,), timeout=self._grace_seconds)
                    jobs.cancel()
                with suppress(asyncio.CancelledError):
                    await jobs
            finally:
                stopping.cancel()
        finally:
            connection.terminate()

    async def _take(self, job: QueuedJob, context: Context) -> None:
        """Answer the request of a job. Whatever happens, the job is done: the request's row says how it ended."""
        row = await self._work.claim(UUID((job.payload or b"").decode()))
        if row is None:
            return  # answered already, deleted, or taken by another worker
        self._running.add(row["request_id"])
        try:
            with context.cancellation:
                await self._answer(row)
        except asyncio.CancelledError:
            with suppress(RowcastError):
                await asyncio.shield(self._work.finish(row["request_id"], "error", error=STOPPED))
            raise
        finally:
            self._running.discard(row["request_id"])

    async def _answer(self, row: "asyncpg.Record") -> None:
        request_id = row["request_id"]
        job = Job(
            request_id=request_id,
            session_id=row["session_id"],
            text=row["request"],
            connect=self._database.connection,
        )
        try:
            answer = await self._handler(row["handler"])(job)
            if not isinstance(answer, Answer):
                raise TypeError(f"a handler must return an Answer, not {type(answer).__name__}")
            await self._work.finish(request_id, "done", response=answer.response, queries=answer.queries)
        except HandlerError as error:
            await self._work.finish(request_id, "error", error=str(error), queries=error.queries)
        except Exception:
            logger.exception("a handler failed", extra={"request_id": str(request_id), "handler": row["handler"]})
            await self._work.finish(request_id, "error", error="The handler failed. Retry, or ask its operator.")

    def _handler(self, name: str) -> Handler:
        point = self._handlers.get(name)
        if point is None:
            raise HandlerError(f"There is no handler {name!r} here; there are: {', '.join(sorted(self._handlers))}.")
        handler: Handler = point.load()
        return handler

    async def _vouch(self) -> None:
        """Renew the leases of what runs here, often enough that one failed attempt does not matter."""
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 4)
            if self._running:
                with suppress(RowcastError):
                    await self._work.renew(list(self._running))

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
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Context
from pgqueuer.domain.models import Job as QueuedJob

from rowcast import DatabaseUnavailable
from rowcast.postgres import connect
from rowcast.service.handlers import Answer, Handler, HandlerError, Job
from rowcast.service.leases import end_lost_requests
from rowcast.service.settings import Settings
from rowcast.service.store.database import Database
from rowcast.service.store.jobs import ENTRYPOINT
from rowcast.service.store.work import Outcome, Work

if TYPE_CHECKING:
    import anyio
    import asyncpg

__all__ = ["HANDLERS", "Worker", "installed_handlers"]

HANDLERS = "rowcast.handlers"

STOPPED = Outcome(status="error", error="The worker was stopped while it ran this request. Retry it.")
CANCELLED = Outcome(status="error", error="The request was cancelled. Retry it.")
FAILED = Outcome(status="error", error="The handler failed. Retry, or ask its operator.")
CUT_OFF = Outcome(status="error", error="The database went away while this request ran. Retry it.")

_LAST_SECONDS = 2.0
"""What is cancelled at the end of the grace has this long to clean up."""

logger = logging.getLogger(__name__)


def installed_handlers() -> Mapping[str, EntryPoint]:
    """Return the handlers that installed packages publish, by name; they are imported when first needed."""
    return {point.name: point for point in entry_points(group=HANDLERS)}


class Worker:
    """One worker process; any number may run, on any machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Handlers have connections of their own, so that whatever they hold, the leases can be renewed.
        self._database = _database(settings, max_connections=4)
        self._for_handlers = _database(
            settings, max_connections=settings.worker_concurrency + 4, command_timeout_seconds=None
        )
        self._work = Work(self._database, lease_seconds=settings.lease_seconds)
        self._handlers = installed_handlers()
        self._slots = asyncio.Semaphore(settings.worker_concurrency)
        self._held: dict[int, tuple[UUID, anyio.CancelScope]] = {}
        self._shifts: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, stop: asyncio.Event, *, hurry: asyncio.Event | None = None) -> None:
        """Answer requests until `stop` is set.

        What runs then may go on for `worker_grace_seconds`, or until `hurry` is set; the rest ends as an error.
        """
        async with self._database, self._for_handlers:
            helpers = [asyncio.create_task(end_lost_requests(self._work)), asyncio.create_task(self._vouch())]
            try:
                await self._take_jobs_until(stop)
            finally:
                await self._wind_up(hurry or asyncio.Event())
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    # -- the queue ----------------------------------------------------------------------------------------------------

    async def _take_jobs_until(self, stop: asyncio.Event) -> None:
        said = ""
        while not stop.is_set():
            try:
                await self._take_jobs(stop)
                said = ""
            except Exception as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning("the worker lost the database", extra={"reason": said})
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), random.uniform(0.2, 1))  # noqa: S311

    async def _take_jobs(self, stop: asyncio.Event) -> None:
        """Take jobs on one connection until it is lost, or until `stop`; what runs then goes on.

        Raises what the queue raised, and `DatabaseUnavailable`.
        """
        connection = await connect(self._settings.database_url, application_name="rowcast-worker")
        manager = QueueManager(Queries.from_asyncpg_connection(connection))
        manager.entrypoint(ENTRYPOINT, accepts_context=True)(self._take)
        connection.add_termination_listener(lambda _: manager.shutdown.set())
        shift = asyncio.create_task(self._shift(connection, manager))
        self._shifts.add(shift)
        shift.add_done_callback(self._shifts.discard)
        over = [asyncio.create_task(event.wait()) for event in (stop, manager.shutdown)]
        try:
            await asyncio.wait((shift, *over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            manager.shutdown.set()
            for each in over:
                each.cancel()
        if shift.done():
            shift.result()
        if not stop.is_set():
            raise DatabaseUnavailable("the connection was closed")

    async def _shift(self, connection: "asyncpg.Connection[asyncpg.Record]", manager: QueueManager) -> None:
        most = self._settings.worker_concurrency
        logger.info("working", extra={"handlers": sorted(self._handlers)})
        try:
            await manager.run(
                dequeue_timeout=timedelta(seconds=5),
                batch_size=max(1, most // 2),
                max_concurrent_tasks=max(2, most),
                heartbeat_timeout=timedelta(seconds=self._settings.lease_seconds),
                shutdown_on_listener_failure=True,
            )
        finally:
            connection.terminate()

    async def _wind_up(self, hurry: asyncio.Event) -> None:
        """Let what runs end within the grace, cancel the rest, and see that none stays `in_progress`."""
        if shifts := set(self._shifts):
            ended, hurrying = asyncio.create_task(asyncio.wait(shifts)), asyncio.create_task(hurry.wait())
            grace_seconds = self._settings.worker_grace_seconds
            await asyncio.wait((ended, hurrying), timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            # The requests, not the shifts: a shift that is cancelled may wait for its requests all the same.
            for task in (ended, hurrying, *self._tasks):
                task.cancel()
            await asyncio.wait(shifts, timeout=_LAST_SECONDS)
        for job_id, (request_id, _) in list(self._held.items()):
            logger.error("a handler does not let itself be stopped", extra={"request_id": str(request_id)})
            await self._finish(request_id, job_id, STOPPED)

    # -- one request --------------------------------------------------------------------------------------------------

    async def _take(self, queued: QueuedJob, context: Context) -> None:
        """Answer the request of a job. The job itself never fails: the request's row says how it ended."""
        try:
            request_id = UUID((queued.payload or b"").decode())
        except ValueError:
            logger.warning("a job names no request", extra={"job": queued.id})
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            raise RetryRequested from None  # it has not begun: another worker will
        try:
            row = await self._claim(request_id, queued.id)
            if row is not None:
                await self._run(row, queued.id, context.cancellation)
        finally:
            self._slots.release()

    async def _claim(self, request_id: UUID, job_id: int) -> "asyncpg.Record | None":
        """Begin a request; None where it was answered already, deleted, or given another job."""
        try:
            return await self._work.claim(request_id, job_id)
        except (Exception, asyncio.CancelledError) as error:
            # A job that fails is forgotten by the queue, and its request would be pending for ever.
            raise RetryRequested(delay=timedelta(seconds=1), reason=str(error)) from error

    async def _run(self, row: "asyncpg.Record", job_id: int, scope: "anyio.CancelScope") -> None:
        request_id = row["request_id"]
        self._held[job_id] = (request_id, scope)
        try:
            with scope:
                await self._finish(request_id, job_id, await self._answer(row))
            if scope.cancelled_caught:
                await self._finish(request_id, job_id, CANCELLED)
        except asyncio.CancelledError:
            await asyncio.shield(self._finish(request_id, job_id, STOPPED))
            raise
        finally:
            self._held.pop(job_id, None)

    async def _answer(self, row: "asyncpg.Record") -> Outcome:
        """Run the handler of a request. Whatever it does, there is an outcome, unless this task is cancelled."""
        about = {"request_id": str(row["request_id"]), "handler": row["handler"]}
        job = Job(
            request_id=row["request_id"],
            session_id=row["session_id"],
            text=row["request"],
            connect=self._for_handlers.connection,
        )
        try:
            answer = await self._handler(row["handler"])(job)
            if not isinstance(answer, Answer):
                raise TypeError(f"a handler must return an Answer, not {type(answer).__name__}")
            return Outcome(status="done", response=answer.response, queries=answer.queries)
        except HandlerError as error:
            return Outcome(status="error", error=str(error), queries=error.queries)
        except DatabaseUnavailable as error:
            logger.warning("a handler lost the database", extra={**about, "reason": str(error)})
            return CUT_OFF
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("a handler cancelled itself", extra=about)
            return FAILED
        except (Exception, SystemExit):
            logger.exception("a handler failed", extra=about)
            return FAILED

    def _handler(self, name: str) -> Handler:
        point = self._handlers.get(name)
        if point is None:
            raise HandlerError(f"There is no handler {name!r} here; there are: {', '.join(sorted(self._handlers))}.")
        handler: Handler = point.load()
        return handler

    async def _finish(self, request_id: UUID, job_id: int, outcome: Outcome) -> None:
        """Write how a request ended; while the database is away, try again for the length of a lease."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.lease_seconds
        while True:
            try:
                await self._work.finish(request_id, job_id, outcome)
                return
            except DatabaseUnavailable as error:
                if loop.time() > deadline:
                    logger.warning("an answer was lost", extra={"request_id": str(request_id), "reason": str(error)})
                    return
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311
            except Exception:
                # Text that PostgreSQL cannot hold (NUL, half a surrogate pair), or a record of a query that it refuses.
                logger.exception("an answer cannot be stored", extra={"request_id": str(request_id)})
                if outcome is FAILED:
                    return
                outcome = FAILED

    async def _vouch(self) -> None:
        """Renew the leases of what runs here, often enough that one failed attempt does not matter.

        What is not ours any more is stopped: it was deleted, or ended by others who thought this worker lost.
        """
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 4)
            held = dict(self._held)
            if not held:
                continue
            try:
                renewed = await self._work.renew({job_id: request_id for job_id, (request_id, _) in held.items()})
            except DatabaseUnavailable:
                continue
            except Exception:
                logger.exception("leases could not be renewed")
                continue
            for job_id in held.keys() - renewed:
                held[job_id][1].cancel()


def _database(settings: Settings, *, max_connections: int, command_timeout_seconds: float | None = 30) -> Database:
    return Database(
        settings.database_url,
        max_connections=max_connections,
        application_name="rowcast-worker",
        command_timeout_seconds=command_timeout_seconds,
    )

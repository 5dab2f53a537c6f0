"""Handlers that behave in every way a handler can, and a desk to ask at without a server."""

import asyncio
import os
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service.store import Requests, Sessions
from rowcast.service.store.database import Database

OWNER = "guest|tester"

HANDLERS = '''
import asyncio, os, sys, time
from pathlib import Path
from rowcast.service.handlers import Answer, HandlerError, QueryRecord

async def pid(job):
    await asyncio.sleep(0.02)
    return Answer(response=str(os.getpid()))

async def held(job):
    """Goes on when a file with the worker's process id appears in the directory that the request names."""
    directory, me = Path(job.text), str(os.getpid())
    (directory / f"{me}.began").touch()
    try:
        while not (directory / me).exists():
            await asyncio.sleep(0.01)
        return Answer(response=me)
    finally:
        (directory / f"{me}.ended").touch()

async def sql(job):
    async with job.connect() as connection:
        return Answer(response=str(await connection.fetch(job.text)))

async def never(job):
    await asyncio.Event().wait()

async def stubborn(job):
    while True:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            pass

async def blocks(job):
    Path(job.text).touch()
    time.sleep(3600)

async def raises(job):
    raise ValueError("internal detail")

async def refuses(job):
    raise HandlerError("Ask for less.", queries=(QueryRecord(sql="select 1", error="too much"),))

async def nonsense(job):
    return {"response": "x"}

async def number(job):
    return Answer(response=12)

async def nul(job):
    return Answer(response="a\\0b")

async def half_pair(job):
    return Answer(response="a\\ud800b")

async def refuses_with_nul(job):
    raise HandlerError("a\\0b")

async def bad_query(job):
    return Answer(response="x", queries=(QueryRecord(sql="a\\0b"),))

async def leaves(job):
    sys.exit(3)

async def cancels_itself(job):
    raise asyncio.CancelledError

def not_async(job):
    return Answer(response="x")

not_callable = 7
'''
MISBEHAVIOUR = (
    "raises",
    "nonsense",
    "number",
    "nul",
    "half_pair",
    "refuses_with_nul",
    "bad_query",
    "leaves",
    "cancels_itself",
    "not_async",
    "not_callable",
    "not_there",
)
NAMES = ("pid", "held", "sql", "never", "stubborn", "blocks", "refuses", *MISBEHAVIOUR)


def publish(directory: Path, name: str, entry_points: str) -> None:
    """Install a distribution the way pip does: metadata beside the module."""
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="session")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH with the handlers above."""
    directory = tmp_path_factory.mktemp("handlers")
    (directory / "strange_handlers.py").write_text(HANDLERS)
    lines = "\n".join(f"{name} = strange_handlers:{name}" for name in NAMES)
    publish(directory, "strange", f"[rowcast.handlers]\n{lines}\nno_module = strange_nowhere:handler\n")
    return directory


@pytest.fixture(scope="session")
def misbehaviour() -> tuple[str, ...]:
    return (*MISBEHAVIOUR, "no_module")


@pytest.fixture
def demo_database(postgres: EmbeddedPostgres, demo_template: str) -> Iterator[str]:
    """A fresh database with the service's tables and the demo data."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield postgres.create_database(name, demo_template)
    postgres.drop_database(name)


class Desk:
    """Where requests are handed in and looked at: the service's own store, without a server."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def run(self, work: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            async with Database(self.dsn, max_connections=2) as database:
                return await work(database)

        return asyncio.run(run())

    def sql(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = self.run(lambda database: database.fetch(statement, *arguments))
        return rows

    def session(self) -> uuid.UUID:
        session: uuid.UUID = self.run(lambda it: Sessions(it).create(OWNER, name="", tags=[])).session_id
        return session

    def ask(self, text: str, handler: str, *, session: uuid.UUID | None = None, times: int = 1) -> list[uuid.UUID]:
        chosen = session or self.session()

        async def ask(database: Database) -> list[uuid.UUID]:
            requests = Requests(database)
            return [
                (await requests.create(OWNER, chosen, text=text, handler=handler, idempotency_key=None))[0][
                    "request_id"
                ]
                for _ in range(times)
            ]

        asked: list[uuid.UUID] = self.run(ask)
        return asked

    def retry(self, request_id: uuid.UUID) -> None:
        self.run(lambda it: Requests(it).change(OWNER, request_id, retry=True))

    def row(self, request_id: uuid.UUID) -> asyncpg.Record:
        (row,) = self.sql("SELECT * FROM request WHERE request_id = $1", request_id)
        return row

    def is_now(self, request_id: uuid.UUID, status: str) -> Callable[[], bool]:
        return lambda: self.row(request_id)["status"] == status

    def running(self, fragment: str) -> list[str]:
        """The queries that other connections are running at the moment."""
        rows = self.sql(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
            " AND pid <> pg_backend_pid() AND position($1 IN query) > 0",
            fragment,
        )
        return [row["query"] for row in rows]


@pytest.fixture
def desk(service_database: str) -> Desk:
    return Desk(service_database)


@pytest.fixture
def desk_at() -> Callable[[str], Desk]:
    """A desk at another database."""
    return Desk


StartWorker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(start_worker: StartWorker, handlers: Path) -> StartWorker:
    """Start a worker that knows the handlers above, with short times."""

    def start(**settings: object) -> "subprocess.Popen[bytes]":
        values = {
            "PYTHONPATH": handlers,
            "ROWCAST_LOG_FORMAT": "json",
            "ROWCAST_LEASE_SECONDS": 2,
            "ROWCAST_WORKER_GRACE_SECONDS": 0.2,
            **settings,
        }
        return start_worker(**values)

    return start


@pytest.fixture
def worker_log(tmp_path: Path) -> Callable[[int], str]:
    """What the worker that was started as the n-th has logged."""
    return lambda number=0: (tmp_path / f"worker-{number}.log").read_text()


@pytest.fixture
def run_sql() -> Callable[[str, str], str]:
    """Run SQL as somebody with psql does."""

    def run(dsn: str, statements: str) -> str:
        return subprocess.run(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", dsn],
            input=statements,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return run

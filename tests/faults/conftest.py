"""What tests of faults stand on: a PostgreSQL to be stopped, killed and replaced, and a crowd that lives through it."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import servers

from crowd import Crowd, Gather
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
from rowcast.service import migrations

QUICK: Mapping[str, Any] = {
    "ROWCAST_HEARTBEAT_MS": 1000,
    "ROWCAST_STREAMS_PER_OWNER": 5000,
    "ROWCAST_PROBE_SECONDS": 1,
    "ROWCAST_SWEEP_SECONDS": 1,
}

HANDLERS = """
import asyncio, random
from rowcast.service.handlers import Answer, HandlerError

async def nap(job):
    await asyncio.sleep(random.uniform(0, 0.3))
    if random.random() < 0.2:
        raise HandlerError("It was a bad dream.")
    return Answer(response="rested")

async def wordy(job):
    raise HandlerError(job.text * 10_000)
"""

StartPostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture
def start_postgres(tmp_path: Path) -> Iterator[StartPostgres]:
    """Start clusters of the test's own: `start_postgres("other", port=…, synchronous_commit="off")`."""
    with ExitStack() as stack:

        def start(name: str = "data", *, port: int | None = None, **settings: str) -> EmbeddedPostgres:
            binaries = find_binaries(origin=os.environ.get("TEST_POSTGRES") or None)  # type: ignore[arg-type]
            cluster = EmbeddedPostgres(
                tmp_path / name, port=port, binaries=binaries, settings={"fsync": "off"} | settings
            )
            return stack.enter_context(cluster)

        yield start


@pytest.fixture
def own_postgres(start_postgres: StartPostgres) -> EmbeddedPostgres:
    """A cluster that the test may stop and kill, with the service's tables in the database `rowcast`."""
    cluster = start_postgres()
    migrations.migrate(cluster.create_database("rowcast"))
    return cluster


@pytest.fixture
def own_servers(key_file: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start servers on any database, with everything that is periodic once a second."""
    with servers("", key_file, tmp_path) as start:
        yield lambda dsn, **settings: start(database_url=dsn, **QUICK | settings)


@pytest.fixture
async def gather() -> AsyncIterator[Gather]:
    """Return what signs a guest in on a server: `gather(server, sessions=2, requests=5)`."""
    crowds: list[Crowd] = []

    async def sign_in(server: Any, **how: int) -> Crowd:
        crowds.append(await Crowd.of(server, **how))
        return crowds[-1]

    yield sign_in
    for crowd in crowds:
        await crowd.close()


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    """What PYTHONPATH has to be for a worker that knows the handlers above."""
    metadata = tmp_path / "handlers" / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata.parent / "faulty_handlers.py").write_text(HANDLERS)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[rowcast.handlers]\nnap = faulty_handlers:nap\nwordy = faulty_handlers:wordy\n"
    )
    return os.pathsep.join(filter(None, [str(metadata.parent), os.environ.get("PYTHONPATH")]))

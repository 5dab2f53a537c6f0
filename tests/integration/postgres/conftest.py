"""A watched table that belongs to no service, in databases to share and to spoil."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from lab import JOB, JOBS, Lab, OpenLab, laboratory
from rowcast.postgres import install
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
from rowcast.service.store.watched import REQUESTS


@pytest.fixture
async def open_lab() -> AsyncIterator[OpenLab]:
    async with laboratory() as open_one:
        yield open_one


@pytest.fixture(scope="session")
def job_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the watched table `job`; tests get clones of it."""
    dsn = postgres.create_database("job_template")

    async def make() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(JOB)
        await connection.close()
        await install(dsn, JOBS)

    asyncio.run(make())
    return "job_template"


@pytest.fixture(scope="session")
def shared_job_database(postgres: EmbeddedPostgres, job_template: str) -> str:
    return postgres.create_database("job_shared", job_template)


@pytest.fixture
async def jobs(open_lab: OpenLab, shared_job_database: str) -> Lab:
    """The watched table `job`, for tests that add rows and leave the rest alone."""
    return await open_lab(shared_job_database, JOBS)


@pytest.fixture
def own_job_database(postgres: EmbeddedPostgres, job_template: str) -> Iterator[str]:
    name = f"job_{uuid4().hex[:12]}"
    yield postgres.create_database(name, job_template)
    postgres.drop_database(name)


@pytest.fixture
async def own_jobs(open_lab: OpenLab, own_job_database: str) -> Lab:
    """The watched table `job`, to do with what one likes."""
    return await open_lab(own_job_database, JOBS)


@pytest.fixture
async def bare(open_lab: OpenLab, database_url: str) -> Lab:
    """The table `job`, not watched yet."""
    lab = await open_lab(database_url, JOBS)
    await lab.execute(JOB)
    return lab


@pytest.fixture
async def service(open_lab: OpenLab, service_database: str) -> Lab:
    """The service's own table of requests."""
    return await open_lab(service_database, REQUESTS)


@pytest.fixture
async def session(service: Lab) -> UUID:
    """A session of the service."""
    return UUID(str(await service.value("INSERT INTO session (user_owner) VALUES ('test|1') RETURNING session_id")))


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of one's own, to be killed and turned into a standby."""
    binaries = find_binaries(origin=os.environ.get("TEST_POSTGRES") or None)  # type: ignore[arg-type]
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries, settings={"fsync": "off"}) as server:
        yield server

"""Databases at the revision before requests are watched."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from lab import Lab, OpenLab, laboratory
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service.store.watched import REQUESTS
from schema import FIRST, upgrade


@pytest.fixture(scope="session")
def first_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database at the first revision."""
    upgrade(postgres.create_database("first_template"), FIRST)
    return "first_template"


@pytest.fixture
def unwatched_database(postgres: EmbeddedPostgres, first_template: str) -> Iterator[str]:
    """A fresh database at the first revision."""
    name = f"first_{uuid4().hex[:12]}"
    yield postgres.create_database(name, first_template)
    postgres.drop_database(name)


@pytest.fixture
async def open_lab() -> AsyncIterator[OpenLab]:
    async with laboratory() as open_one:
        yield open_one


@pytest.fixture
async def unwatched(open_lab: OpenLab, unwatched_database: str) -> Lab:
    """The service's requests, not watched yet."""
    return await open_lab(unwatched_database, REQUESTS)


@pytest.fixture
async def service(open_lab: OpenLab, service_database: str) -> Lab:
    """The service's requests, watched."""
    return await open_lab(service_database, REQUESTS)

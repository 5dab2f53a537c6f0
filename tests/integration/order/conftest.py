"""A real database, real servers, and sessions whose owner is known."""

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from follower import Follower

DEFAULTS: dict[str, Any] = {
    "ROWCAST_HEARTBEAT_MS": 1000,
    "ROWCAST_STREAMS_PER_OWNER": 5000,
    "ROWCAST_PROBE_SECONDS": 1,
    "ROWCAST_SWEEP_SECONDS": 1,
}
COUNT = "SELECT request_id::text, rowcast_version FROM request WHERE session_id = $1::text::uuid"


@dataclass
class Place:
    """One server and the database behind it; all sessions belong to one guest."""

    server: Any
    token: str
    owner: str
    writer: Any

    async def session(self) -> str:
        session = str(uuid.uuid4())
        await self.writer.execute(
            "INSERT INTO session (session_id, user_owner) VALUES ($1::text::uuid, $2)", session, self.owner
        )
        return session

    async def request(self, session: str, status: str = "pending") -> str:
        statement = (
            "INSERT INTO request (session_id, request, status) VALUES ($1::text::uuid, 'x', $2::text::request_status)"
            " RETURNING request_id::text"
        )
        return str(await self.writer.fetchval(statement, session, status))

    async def versions(self, session: str) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.writer.fetch(COUNT, session)}

    def follower(self, session: str) -> Follower:
        return Follower(self.server.url, self.token, session)

    async def connect(self) -> Any:
        return await asyncpg.connect(self.server.database_url)


@pytest.fixture
async def place_on() -> AsyncIterator[Callable[..., Any]]:
    """Return what signs a new guest in on a server."""
    writers = []

    async def sign_in(server: Any) -> Place:
        writer = await asyncpg.connect(server.database_url)
        writers.append(writer)
        token = server.guest()
        with server.client(token) as client:
            session = client.post("/api/session", json={}).json()["session_id"]
        owner = await writer.fetchval("SELECT user_owner FROM session WHERE session_id = $1::text::uuid", session)
        return Place(server, token, owner, writer)

    yield sign_in
    for writer in writers:
        writer.terminate()


@pytest.fixture
async def open_place(start_server: Callable[..., Any], place_on: Callable[..., Any]) -> Callable[..., Any]:
    """Return what starts a server with settings, for one test alone."""

    async def start(**settings: Any) -> Place:
        return await place_on(start_server(**DEFAULTS | settings))

    return start


@pytest.fixture(scope="module", params=["notify", "poll"])
def source(request: pytest.FixtureRequest) -> str:
    """Where the server gets its changes from: whatever is promised holds for both."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared_server(start_shared_server: Callable[..., Any], source: str) -> Any:
    return start_shared_server(**DEFAULTS, ROWCAST_SOURCE=source, ROWCAST_SOURCE_TICK_MAX_MS=200)


@pytest.fixture
async def place(shared_server: Any, place_on: Callable[..., Any]) -> Place:
    """A new guest on the server that the tests of a module share."""
    return await place_on(shared_server)

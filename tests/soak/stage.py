"""Everything that runs: a PostgreSQL of its own, the server on it, and the roads that lead there."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from tests.faults.toxic import Toxic, toxic
from tests.soak.clients import Way
from tests.soak.service import Service

from rowcast.http import GuestTokens, SigningKey
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
from rowcast.service import migrations

ROADS = 8
SUBJECT = "soak"
TOKEN_SECONDS = 75
SETTINGS = {
    "ROWCAST_GUEST_ENABLED": "true",
    "ROWCAST_HEARTBEAT_MS": "2000",
    "ROWCAST_DRAIN_SECONDS": "1",
    "ROWCAST_STREAMS_PER_OWNER": "5000",
    "ROWCAST_PROBE_SECONDS": "1",
    "ROWCAST_MAX_STREAM_AGE_SECONDS": "60",
}


@dataclass
class Stage:
    """The parts that faults strike. Clients reach the server by the roads, which are proxies."""

    postgres: EmbeddedPostgres
    dsn: str
    psql: str | None
    service: Service
    roads: list[Toxic]
    key: SigningKey
    sessions: list[str]

    def ways(self) -> list[Way]:
        """How clients come here: by each of the roads."""
        token, _ = GuestTokens(self.key).issue_for(SUBJECT)
        short = GuestTokens(self.key, ttl_seconds=TOKEN_SECONDS)

        async def fetch() -> str:
            return short.issue_for(SUBJECT)[0]

        return [Way(road.url, token, fetch) for road in self.roads]

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement on a connection of its own."""
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            await connection.execute(statement, *arguments)
        finally:
            connection.terminate()


async def seen_through(function: Callable[..., None], *arguments: object) -> None:
    """Call what blocks in a thread; whoever is cancelled meanwhile still waits for its end."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(working)
    finally:
        await asyncio.wait({working})


@asynccontextmanager
async def stage(
    directory: Path, *, source: str, workers: int, sessions: int, sweep_seconds: float
) -> AsyncIterator[Stage]:
    """Set everything up in a directory, and take all of it down again."""
    binaries = find_binaries(origin=os.environ.get("TEST_POSTGRES") or None)  # type: ignore[arg-type]
    settings = {"fsync": "off", "max_connections": "200"}
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(directory / "data", binaries=binaries, settings=settings))
        dsn = postgres.create_database("soak")
        await asyncio.to_thread(migrations.migrate, dsn)
        key_file = directory / "signing-key.pem"
        key = SigningKey.generate().save(key_file)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
        environment |= SETTINGS | {
            "ROWCAST_DATABASE_URL": dsn,
            "ROWCAST_SIGNING_KEY_FILE": str(key_file),
            "ROWCAST_SOURCE": source,
            "ROWCAST_SWEEP_SECONDS": str(sweep_seconds),
        }
        service = Service(workers=workers, environment=environment, log=directory / "server.log")
        stack.callback(service.kill_now)
        stack.push_async_callback(service.stop)
        await service.start()
        await service.answers("/readyz")
        roads = [await stack.enter_async_context(toxic(service.url)) for _ in range(ROADS)]
        _, guest = GuestTokens(key).issue_for(SUBJECT)
        yield Stage(
            postgres=postgres,
            dsn=dsn,
            psql=shutil.which("psql", path=binaries.directory),
            service=service,
            roads=roads,
            key=key,
            sessions=await _make_sessions(dsn, guest.owner, sessions),
        )


async def _make_sessions(dsn: str, owner: str, number: int) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        made = await connection.fetch(
            """INSERT INTO session (user_owner) SELECT $1 FROM generate_series(1, $2::integer)
                RETURNING session_id::text""",
            owner,
            number,
        )
        await connection.execute(
            "INSERT INTO request (session_id, request) SELECT session_id, 'x' FROM session, generate_series(1, 6)"
        )
        return [row["session_id"] for row in made]
    finally:
        await connection.close()

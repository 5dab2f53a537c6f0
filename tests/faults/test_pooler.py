"""A pooler in transaction mode: it accepts LISTEN, and nothing is ever heard."""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.conftest import free_port

from follower import Follower
from pooler import pgbouncer
from rowcast import Hub
from rowcast.postgres import Listener, ListenOrPoll, Poller, PostgresReader
from rowcast.service import migrations
from rowcast.service.store import REQUESTS

pytestmark = [pytest.mark.anyio, pytest.mark.fault(57)]

CURE = "ROWCAST_LISTEN_DATABASE_URL"
VERSIONS = "SELECT request_id::text, rowcast_version FROM request WHERE session_id = $1::text::uuid"
START = {"ROWCAST_PROBE_SECONDS": 5}  # the default


@pytest.fixture
def direct(start_postgres: Callable[..., Any]) -> str:
    """The address of a migrated database, on a port: a pooler has an account of its own, which our sockets refuse."""
    dsn = str(start_postgres(port=free_port()).create_database("rowcast"))
    migrations.migrate(dsn)
    return dsn


@pytest.fixture
def pooled(direct: str) -> Iterator[str]:
    """The address of the same database through a PgBouncer in transaction mode."""
    with pgbouncer(direct) as dsn:
        yield dsn


@pytest.fixture
async def writer(direct: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(direct)
    yield connection
    connection.terminate()


async def until(is_true: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.005)


async def versions(connection: Any, session: str) -> dict[str, int]:
    return {row[0]: row[1] for row in await connection.fetch(VERSIONS, session)}


async def write(dsn: str, sessions: list[str], dice: random.Random, transactions: int) -> None:
    """Change rows in transactions that stay open for a while, some of them in vain."""
    connection = await asyncpg.connect(dsn)
    for number in range(transactions):
        transaction = connection.transaction()
        await transaction.start()
        session = dice.choice(sessions)
        if number % 5 == 0:
            await connection.execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)
        await connection.execute(
            "UPDATE request SET response = $2 WHERE request_id ="
            " (SELECT request_id FROM request WHERE session_id = $1::text::uuid ORDER BY random() LIMIT 1"
            " FOR UPDATE SKIP LOCKED)",
            session,
            str(dice.random()),
        )
        await asyncio.sleep(dice.uniform(0, 0.02))
        await (transaction.rollback if dice.random() < 0.1 else transaction.commit)()
    await connection.close()


async def test_behind_a_pooler_the_server_polls_and_nothing_is_lost(
    direct: str, pooled: str, writer: Any, own_servers: Callable[..., Any]
) -> None:
    began = time.monotonic()
    server = own_servers(pooled, **START)  # returns when it says that it is ready
    assert time.monotonic() - began < 10
    token = server.guest()
    with server.client(token) as client:
        assert client.get("/readyz").json()["source"] == "poll"
        sessions = [client.post("/api/session", json={}).json()["session_id"] for _ in range(3)]
    followers = [Follower(server.url, token, session) for session in sessions for _ in range(3)]
    goals: dict[str, dict[str, int]] = {}

    async def follow(follower: Follower, dice: random.Random) -> None:
        while not goals:
            await follower.follow(cut_after=int(dice.expovariate(1 / 4000)) + 1, until=lambda: bool(goals))
        while follower.versions != goals[follower.session]:
            await follower.follow(until=lambda: follower.versions == goals[follower.session])

    following = [
        asyncio.create_task(follow(follower, random.Random(number))) for number, follower in enumerate(followers)
    ]
    await asyncio.gather(*(write(direct, sessions, random.Random(seed), 60) for seed in range(4)))
    for session in sessions:  # whoever sees nothing new would never look at the goal
        await writer.execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)
    goals.update({session: await versions(writer, session) for session in sessions})
    async with asyncio.timeout(20):
        await asyncio.gather(*following)
    assert sum(follower.counts["stale"] for follower in followers) == 0
    with server.client(token) as client:
        assert "rowcast_sweep_found_total 0.0" in client.get("/metrics").text
        assert client.get("/readyz").json()["source"] == "poll"
    assert len([line for line in server.log.splitlines() if CURE in line]) == 1
    assert not re.search(r"prepared statement|Traceback|error", server.log, re.IGNORECASE), server.log


async def test_with_a_direct_address_to_listen_on_it_listens(
    direct: str, pooled: str, writer: Any, own_servers: Callable[..., Any]
) -> None:
    server = own_servers(pooled, ROWCAST_LISTEN_DATABASE_URL=direct, **START)
    token = server.guest()
    with server.client(token) as client:
        assert client.get("/readyz").json()["source"] == "notify"
        session = client.post("/api/session", json={}).json()["session_id"]
    follower = Follower(server.url, token, session)
    following = asyncio.create_task(follower.follow())
    await until(lambda: follower.counts["synced"], "the stream is open")
    await writer.execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)
    goal = await versions(writer, session)
    await until(lambda: follower.versions == goal, "the change arrives")
    following.cancel()
    await asyncio.wait([following])
    with server.client(token) as client:
        assert client.get("/readyz").json()["source"] == "notify"
    assert CURE not in server.log
    assert not re.search(r"prepared statement|Traceback|error", server.log, re.IGNORECASE), server.log


@asynccontextmanager
async def junction(ways: list[str]) -> AsyncIterator[int]:
    """A port that leads to the last of some addresses, for every connection anew."""
    open_ends = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = ways[-1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        open_ends.extend([writer, far_writer])
        await asyncio.gather(forward(reader, far_writer), forward(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for end in open_ends:
            end.close()
        await asyncio.sleep(0)


async def test_it_listens_again_once_it_is_heard_and_nothing_is_lost_between(
    direct: str, pooled: str, writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session = str(await writer.fetchval("INSERT INTO session (user_owner) VALUES ('guest|a') RETURNING session_id"))
    heard, mute = [dsn.partition("@")[2].partition("/")[0] for dsn in (direct, pooled)]
    ways = [mute]
    seen: dict[str, int] = {}
    stop = asyncio.Event()

    def look() -> None:
        for frame in subscription.drain():
            fields = dict(line.split(b": ", 1) for line in frame.strip().split(b"\n"))
            if fields[b"event"] == b"request_update":
                row = json.loads(fields[b"data"])
                assert row["version"] >= seen.get(row["request_id"], 0)
                seen[row["request_id"]] = row["version"]

    async def write_on() -> None:
        connection = await asyncpg.connect(direct)
        while not stop.is_set():
            await connection.execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)
            await asyncio.sleep(0.002)
        await connection.close()

    async with junction(ways) as port:
        listening = direct.replace(heard, f"127.0.0.1:{port}")
        listener = Listener(listening, REQUESTS, probe_seconds=0.5, ends_when_mute=True)
        source = ListenOrPoll(listener, Poller(direct, REQUESTS), retry_seconds=0.2)
        async with Hub(REQUESTS, source=source, reader=PostgresReader(direct, REQUESTS)) as hub:
            await until(lambda: hub.is_live, "the source is live")
            assert source.name == "poll"
            subscription = hub.subscribe(session, look)
            await hub.join(subscription, None)
            writing = asyncio.create_task(write_on())
            await until(lambda: len(seen) > 10, "changes arrive while it polls")
            ways.append(heard)
            await until(lambda: source.name == "notify" and hub.is_live, "it listens again")
            before = len(seen)
            await until(lambda: len(seen) > before + 10, "changes arrive while it listens")
            stop.set()
            await writing
            goal = await versions(writer, session)
            await until(lambda: seen == goal, "all changes have arrived")
            assert await hub.sweep() == 0
            hub.unsubscribe(subscription)
    assert len([record for record in caplog.records if CURE in str(record.__dict__.get("reason"))]) == 1

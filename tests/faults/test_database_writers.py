"""Writers that do what they should not: the state that is delivered is the stored one, and no writer is failed."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import BigInteger, Enum, Text, Uuid
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.conftest import StartServer
from tests.faults.conftest import QUICK

from crowd import Crowd, Gather
from rowcast import Hub, LatestByRow, Watch
from rowcast.postgres import install, postgres_hub

pytestmark = pytest.mark.anyio

VERSION = "SELECT rowcast_version FROM request WHERE request_id = $1::text::uuid"


@pytest.fixture
async def crowd(start_server: StartServer, gather: Gather) -> Crowd:
    crowd = await gather(start_server(**QUICK), sessions=1, requests=2)
    await crowd.join()
    return crowd


@pytest.mark.fault(34)
async def test_a_worker_that_writes_a_huge_error_is_not_failed_by_it(
    crowd: Crowd, start_worker: Callable[..., "subprocess.Popen[bytes]"], handlers: str
) -> None:
    """From the handler's exception to the page that reads the text."""
    start_worker(PYTHONPATH=handlers)
    (session,) = crowd.sessions

    def ask() -> str:
        with crowd.server.client(crowd.token) as client:
            answer = client.post(f"/api/request/{session}", json={"request": "Schräg! 💥\n", "handler": "wordy"})
            return str(answer.json()["request_id"])

    request = await asyncio.to_thread(ask)
    await crowd.until(
        lambda: all(
            client.rows.get(request, {}).get("status") == "error" and client.rows[request]["has_error"]
            for client in (*crowd.streams, *crowd.polls)
        ),
        "everybody shows the error",
    )
    await crowd.converged(within=1)
    with crowd.server.client(crowd.token) as client:
        number = crowd.streams[0].rows[request]["sequence_number"]
        error = client.get(f"/api/request/{session}/{number}").json()["error"]
    assert error.startswith("Schräg! 💥\n" * 1000)
    assert len(error.encode()) > 100_000
    assert crowd.is_unbroken


class Model(DeclarativeBase):
    pass


class StoredRequest(Model):
    """The table as somebody maps it who maps every column."""

    __tablename__ = "request"
    request_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    status: Mapped[str] = mapped_column(
        Enum("pending", "in_progress", "done", "error", name="request_status", create_type=False)
    )
    response: Mapped[str | None] = mapped_column(Text)
    rowcast_version: Mapped[int] = mapped_column(BigInteger)


@pytest.mark.fault(66)
async def test_an_orm_that_saves_a_stale_object_turns_nothing_back(crowd: Crowd) -> None:
    request = next(iter(crowd.streams[0].rows))
    engine = create_async_engine(crowd.dsn.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with AsyncSession(engine, expire_on_commit=False) as reading:
            stale = await reading.get_one(StoredRequest, request)
        for number in range(5):
            await crowd.update(request, f"newer {number}")
        await crowd.converged(within=1)
        version = await crowd.value(VERSION, request)
        assert stale.rowcast_version < version
        stale.status = "in_progress"
        async with AsyncSession(engine) as saving:
            await saving.merge(stale)  # writes every column that differs, the version among them
            await saving.commit()
    finally:
        await engine.dispose()
    assert await crowd.value(VERSION, request) == version + 1
    await crowd.converged(within=1)
    assert crowd.streams[0].rows[request]["status"] == "in_progress"
    assert not crowd.streams[0].rows[request]["has_response"], "what the ORM wrote is what is stored"


@pytest.mark.fault(66)
async def test_a_trigger_of_the_owner_that_changes_a_watched_column_is_told(crowd: Crowd) -> None:
    await crowd.execute("""
        CREATE FUNCTION note_bad_ratings() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.rating < 3 THEN NEW.error := 'rated ' || NEW.rating; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER zz_last_of_the_owner BEFORE UPDATE ON request FOR EACH ROW EXECUTE FUNCTION note_bad_ratings()
    """)
    request = next(iter(crowd.streams[0].rows))
    version = await crowd.value(VERSION, request)
    await crowd.execute("UPDATE request SET rating = 1 WHERE request_id = $1::text::uuid", request)
    assert await crowd.value(VERSION, request) == version + 1
    await crowd.converged(within=1)
    assert crowd.streams[0].rows[request]["has_error"]


PARTED = """
CREATE TABLE part (id integer, owner integer NOT NULL, region text NOT NULL, state text NOT NULL DEFAULT 'waiting',
    updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_east PARTITION OF part FOR VALUES IN ('east');
CREATE TABLE part_west PARTITION OF part FOR VALUES IN ('west');
"""
PARTS = Watch(table="part", key="id", session="owner", key_type="integer", session_type="integer", status="state")


@pytest.mark.fault(66)
async def test_a_row_that_moves_partition_is_shown_as_it_is_stored(database_url: str) -> None:
    writer = await asyncpg.connect(database_url)
    await writer.execute(PARTED)
    await install(database_url, PARTS, concurrently=False)
    await writer.execute("INSERT INTO part (id, owner, region) VALUES (1, 1, 'east')")
    async with postgres_hub(database_url, PARTS, probe_seconds=1) as hub:
        store, versions = Store(hub), []
        await store.follow()
        for region, state in (("west", "running"), ("east", "running"), ("west", "done")):
            await writer.execute("UPDATE part SET region = $1, state = $2", region, state)
            (row,) = await writer.fetch("SELECT state, rowcast_version AS version FROM part")
            await store.until(dict(row))
            versions.append(row["version"])
        store.leave()
        assert versions == sorted(set(versions))
    await writer.close()


class Store:
    """What one reader of the hub's session 1 shows of row 1."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._woken = asyncio.Event()
        self._shown: dict[str, Any] | None = None

    async def follow(self) -> None:
        async with asyncio.timeout(10):
            while not self._hub.is_live:
                await asyncio.sleep(0.005)
        self._subscription = self._hub.subscribe("1", self._woken.set)
        joined = await self._hub.join(self._subscription, None)
        assert len(LatestByRow(joined.read.states)) == 1

    def leave(self) -> None:
        self._hub.unsubscribe(self._subscription)

    async def until(self, row: dict[str, Any]) -> None:
        """Apply what comes until the row is shown as it is stored."""
        async with asyncio.timeout(5):
            while self._shown != row:
                await self._woken.wait()
                self._woken.clear()
                for frame in self._subscription.drain():
                    self._apply(frame.decode())

    def _apply(self, frame: str) -> None:
        lines = dict(line.split(": ", 1) for line in frame.strip().split("\n"))
        data = json.loads(lines["data"])
        if self._shown is None or data.get("version", 0) > self._shown["version"]:
            if lines["event"] == PARTS.removed_event:
                self._shown = {"state": None, "version": data["version"]}
            elif lines["event"] == PARTS.update_event:
                self._shown = {"state": data["state"], "version": data["version"]}

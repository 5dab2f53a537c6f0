"""The poll source on a real PostgreSQL: what it asks, by which index, how often, and what it finds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import rowcast.postgres.poller
from lab import JOB, JOBS, Lab
from rowcast import Hub, NullMetrics
from rowcast.errors import ReadOnlyDatabase
from rowcast.postgres import Poller, PostgresReader, install
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.postgres.statements import document, load, values_of

pytestmark = pytest.mark.anyio

LOOK = load("poll.sql", values_of(JOBS) | {"document": document(JOBS, "r")})["look"]

TRIGGERS = load("health.sql", values_of(JOBS))["triggers"]


class Ticks(NullMetrics):
    """Counts ticks, and the rows that they found."""

    def __init__(self) -> None:
        self.ticks = self.rows = 0

    def read(self, kind: str, rows: int, seconds: float) -> None:
        if kind == "tick":
            self.ticks += 1
            self.rows += rows


class Screen:
    """A reader of one session: the newest version of each row, and why it had to start over."""

    def __init__(self, hub: Hub, session: object) -> None:
        self.hub = hub
        self.rows: dict[str, int] = {}
        self.events: list[str] = []
        self.subscription = hub.subscribe(str(session), self.look)

    async def join(self) -> None:
        joined = await self.hub.join(self.subscription, None)
        self.rows = {state.key: state.version for state in joined.read.states}

    def look(self) -> None:
        for frame in self.subscription.drain():
            fields = dict(line.split(b": ", 1) for line in frame.strip().split(b"\n"))
            name, data = fields[b"event"].decode(), json.loads(fields[b"data"])
            self.events.append(name)
            if name == "job_update":
                self.rows[data["id"]] = max(data["version"], self.rows.get(data["id"], 0))
            elif name == "job_removed":
                self.rows.pop(data["id"], None)

    async def shows(self, lab: Lab) -> None:
        """Return when it shows what is stored."""
        rows = await lab.main.fetch(
            "SELECT id::text, rowcast_version FROM job WHERE owner = $1::text::uuid", self.subscription.session
        )
        await until(lambda: self.rows == dict(rows))


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_true():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def polling(lab: Lab, metrics: Ticks | None = None, **how: float) -> AsyncIterator[Hub]:
    poller = Poller(lab.dsn, lab.watch, **how)
    async with Hub(lab.watch, source=poller, reader=lab.reader(), metrics=metrics) as hub:
        await until(lambda: hub.is_live)
        yield hub


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every query that the poll source sends."""
    sent: list[str] = []
    connect = rowcast.postgres.poller.connect

    async def connect_and_note(dsn: str, **options: Any) -> Any:
        connection = await connect(dsn, **options)
        connection.add_query_logger(lambda record: sent.append(record.query))
        return connection

    monkeypatch.setattr(rowcast.postgres.poller, "connect", connect_and_note)
    return sent


async def test_nobody_watches_and_nothing_is_asked(own_jobs: Lab, queries: list[str]) -> None:
    metrics = Ticks()
    async with polling(own_jobs, metrics, slowest_seconds=0.005) as hub:
        await hub.source.flush()
        await until(lambda: hub.source._is_asleep)  # type: ignore[attr-defined]
        asked = len(queries)
        assert queries.count(LOOK) == 1  # the first snapshot
        assert metrics.ticks == 0
        for _ in range(200):  # far longer than many ticks
            await own_jobs.add()
        assert len(queries) == asked
        screen = Screen(hub, uuid4())
        await screen.join()
        await until(lambda: metrics.ticks > 10)
        hub.unsubscribe(screen.subscription)
        await until(lambda: hub.source._is_asleep)  # type: ignore[attr-defined]
        before = len(queries)
        for _ in range(200):
            await own_jobs.add()
        assert len(queries) == before


async def test_a_hundred_sessions_are_one_query_a_tick(own_jobs: Lab, queries: list[str]) -> None:
    metrics, began = Ticks(), time.monotonic()
    sessions = [uuid4() for _ in range(100)]
    async with polling(own_jobs, metrics, slowest_seconds=0.02) as hub:
        screens = [Screen(hub, session) for session in sessions]
        await asyncio.gather(*(screen.join() for screen in screens))
        for session in sessions:
            await own_jobs.add(owner=session)
        for screen in screens:
            await screen.shows(own_jobs)
        ticks = metrics.ticks
        await until(lambda: metrics.ticks > ticks + 10)
        looks = queries.count(LOOK)
        # But for the first snapshot; of a tick that is under way, either may be counted already.
        assert abs(looks - 1 - metrics.ticks) <= 1
        # Besides, the triggers are looked for once a second.
        assert {query for query in queries if query != LOOK} <= {TRIGGERS}
        assert len(queries) - looks <= 2 + (time.monotonic() - began)
        assert metrics.rows == 100, "a row was found more than once"


async def test_whoever_commits_last_is_found_whenever_it_began(own_jobs: Lab) -> None:
    session = uuid4()
    early, late = await own_jobs.add(owner=session), await own_jobs.add(owner=session)
    writer = await own_jobs.connect()
    async with polling(own_jobs, slowest_seconds=0.02) as hub:
        screen = Screen(hub, session)
        await screen.join()
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("UPDATE job SET priority = 1 WHERE id = $1", early)
        place = hub.place_of(str(session))
        for number in range(5):
            await own_jobs.set(late, "priority = $2", number + 10)
            await screen.shows(own_jobs)
        after = hub.place_of(str(session))
        assert place is not None
        assert after is not None
        running = await own_jobs.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        assert after.horizon <= running, "the place claims a transaction that has not ended"
        await transaction.commit()
        await screen.shows(own_jobs)
        hub.unsubscribe(screen.subscription)


async def test_what_goes_or_moves_or_returns_is_found(own_jobs: Lab) -> None:
    here, there = uuid4(), uuid4()
    rows = [await own_jobs.add(owner=here) for _ in range(3)]
    async with polling(own_jobs, slowest_seconds=0.02) as hub:
        screens = [Screen(hub, here), Screen(hub, there)]
        for screen in screens:
            await screen.join()
        await own_jobs.execute("DELETE FROM job WHERE id = $1", rows[0])
        await own_jobs.set(rows[1], "owner = $2", there)
        async with own_jobs.main.transaction():
            await own_jobs.execute("DELETE FROM job WHERE id = $1", rows[2])
            await own_jobs.add(id=rows[2], owner=here)
        for screen in screens:
            await screen.shows(own_jobs)
        assert screens[1].rows.keys() == {str(rows[1])}
        for screen in screens:
            hub.unsubscribe(screen.subscription)


@pytest.mark.parametrize("how", ["TRUNCATE job", "SELECT rowcast.rotate_epoch('job')", "DELETE FROM rowcast.epoch"])
async def test_a_new_epoch_has_everybody_start_over(own_jobs: Lab, how: str) -> None:
    session = uuid4()
    await own_jobs.add(owner=session)
    async with polling(own_jobs, slowest_seconds=0.02) as hub:
        screen = Screen(hub, session)
        await screen.join()
        before = hub.place_of(str(session))
        await own_jobs.execute(how)
        await until(lambda: screen.subscription.resync == "epoch_changed")
        await screen.join()
        await own_jobs.add(owner=session)
        await screen.shows(own_jobs)
        after = hub.place_of(str(session))
        assert before is not None
        assert after is not None
        assert before.epoch != after.epoch
        hub.unsubscribe(screen.subscription)


async def test_a_lost_connection_is_told_and_the_gap_is_closed(own_jobs: Lab) -> None:
    session = uuid4()
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'rowcast-poller' AND datname = current_database()"
    )
    async with polling(own_jobs, slowest_seconds=0.02) as hub:
        screen = Screen(hub, session)
        await screen.join()
        for _ in range(3):
            await own_jobs.execute(kill)
            await own_jobs.add(owner=session)
            await until(lambda: not hub.is_live or "degraded" in screen.events)
            await until(lambda: hub.is_live)
            await screen.shows(own_jobs)
        assert "synced" in screen.events
        assert await hub.sweep() == 0
        hub.unsubscribe(screen.subscription)


async def test_the_index_on_session_and_transaction_is_enough(own_jobs: Lab) -> None:
    """Before the table was ever analysed, and after; for one session, and for very many."""
    sessions, rows = 2000, 20
    await own_jobs.execute("ALTER TABLE job DISABLE TRIGGER USER")
    await own_jobs.execute(f"""
        INSERT INTO job (owner, rowcast_xid, rowcast_version)
            SELECT lpad(to_hex(i % {sessions}), 32, '0')::uuid, (i % 500 + 3)::text::xid8, i + 2
            FROM generate_series(1, {sessions * rows}) AS i;
        INSERT INTO rowcast.tombstone (watch, key, session_id, version, xid)
            SELECT 'job', i, lpad(to_hex(i % {sessions}), 32, '0')::uuid, i + 2, (i % 500 + 3)::text::xid8
            FROM generate_series(1, {sessions * 5}) AS i
    """)
    await own_jobs.execute("ALTER TABLE job ENABLE TRIGGER USER")
    last = await own_jobs.value("SELECT pg_current_snapshot()::text")
    await own_jobs.add(owner=UUID(int=0))
    for analysed in (False, True):
        if analysed:
            await own_jobs.execute("ANALYZE job, rowcast.tombstone")
        for count in (1, 100, sessions):
            crowd = [str(UUID(int=number)) for number in range(count)]
            plan = await own_jobs.value(f"EXPLAIN (ANALYZE, FORMAT JSON) {LOOK}", crowd, last)
            nodes = list(walk(json.loads(plan)[0]["Plan"]))
            scans = {node["Relation Name"]: node for node in nodes if "Relation Name" in node}
            assert scans["job"].get("Index Name", "") == "rowcast_job_session_xid", (analysed, count)
            assert "Seq Scan" not in scans["tombstone"]["Node Type"], (analysed, count)
            assert "rowcast_xid" in scans["job"]["Index Cond"]
            assert scans["job"]["Actual Rows"] * scans["job"]["Actual Loops"] <= count


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from walk(child)


async def test_a_standby_is_refused(own_postgres: EmbeddedPostgres) -> None:
    dsn = own_postgres.create_database("jobs")
    connection = await asyncpg.connect(dsn)
    await connection.execute(JOB)
    await install(dsn, JOBS)
    await connection.close()
    await asyncio.to_thread(own_postgres.stop)
    (own_postgres.data / "standby.signal").touch()
    await asyncio.to_thread(own_postgres.start)
    poller = Poller(dsn, JOBS)
    async with Hub(JOBS, source=poller, reader=PostgresReader(dsn, JOBS)) as hub:
        with pytest.raises(ReadOnlyDatabase):
            await poller._ask_on_one_connection(hub)
        assert not hub.is_live

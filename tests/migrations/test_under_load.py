"""A migration under running writers and readers: nobody waits long, and nothing is rewritten."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from lab import Lab
from rowcast import ConfigurationError, DatabaseUnavailable
from rowcast.postgres import install, uninstall
from rowcast.service.store.watched import REQUESTS
from schema import FIRST, NOTIFY, ROLLOUT, downgrade, upgrade

pytestmark = pytest.mark.anyio

ROWS, SESSIONS, WRITERS = 20_000, 50, 4
LONGEST_STALL_SECONDS = 2


@dataclass
class Load:
    """Writers that update as fast as they can."""

    lab: Lab
    done: int = 0
    longest_seconds: float = 0
    tasks: "list[asyncio.Task[None]]" = field(default_factory=list)

    async def start(self) -> None:
        for number in range(WRITERS):
            self.tasks.append(asyncio.create_task(self._write(await self.lab.connect(), number)))

    async def _write(self, connection: Any, number: int) -> None:
        assignments = ["rating = 1", "response = md5(random()::text)", "review = 'x'", "error = NULL, response = 'r'"]
        while True:
            row = (self.done * WRITERS + number) % ROWS + 1
            statement = f"UPDATE request SET {assignments[self.done % 4]} WHERE request_id = $1"
            started = time.perf_counter()
            await connection.execute(statement, UUID(int=row))
            self.longest_seconds = max(self.longest_seconds, time.perf_counter() - started)
            self.done += 1

    async def passes(self, count: int) -> None:
        """Return when so many more updates are done; fail when a writer failed."""
        target = self.done + count
        async with asyncio.timeout(30):
            while self.done < target:
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def crowded(unwatched: Lab) -> Lab:
    """20,000 requests in 50 sessions."""
    await unwatched.execute(f"""
        ALTER TABLE request DISABLE TRIGGER USER;
        INSERT INTO session (session_id, user_owner)
            SELECT lpad(to_hex(i), 32, '0')::uuid, 'test|1' FROM generate_series(1, {SESSIONS}) AS i;
        INSERT INTO request (request_id, session_id, sequence_number, request)
            SELECT lpad(to_hex(i), 32, '0')::uuid, lpad(to_hex(i % {SESSIONS} + 1), 32, '0')::uuid, i, 'question'
            FROM generate_series(1, {ROWS}) AS i;
        ALTER TABLE request ENABLE TRIGGER USER
    """)
    return unwatched


@pytest.fixture
async def load(crowded: Lab) -> AsyncIterator[Load]:
    load = Load(crowded)
    await load.start()
    await load.passes(50)
    yield load
    await load.stop()


async def test_nobody_waits_long_and_nothing_is_rewritten(crowded: Lab, load: Load) -> None:
    storage = "SELECT relfilenode FROM pg_class WHERE oid = 'request'::regclass"
    before = await crowded.value(storage)
    for migrate, revision in ((upgrade, ROLLOUT), (downgrade, FIRST), (upgrade, ROLLOUT)):
        await asyncio.to_thread(migrate, crowded.dsn, revision)
        await load.passes(50)
    assert await crowded.value(storage) == before
    assert load.longest_seconds < LONGEST_STALL_SECONDS


@pytest.mark.parametrize(
    ("direction", "what"),
    [
        ("up", "UPDATE request SET rating = 1 WHERE request_id = $1"),
        ("up", "SELECT $1::uuid FROM request"),
        ("down", "UPDATE request SET rating = 1 WHERE request_id = $1"),
    ],
)
async def test_a_long_transaction_of_somebody_else_delays_the_migration_and_not_the_writers(
    crowded: Lab, load: Load, direction: str, what: str
) -> None:
    if direction == "down":
        await asyncio.to_thread(upgrade, crowded.dsn, NOTIFY)
    other = await crowded.connect()
    transaction = other.transaction()
    await transaction.start()
    await other.fetch(what, UUID(int=ROWS + 1))
    migrate, revision = (upgrade, NOTIFY) if direction == "up" else (downgrade, FIRST)
    migration = asyncio.create_task(asyncio.to_thread(migrate, crowded.dsn, revision))
    await until_somebody_waits_for(other, crowded)
    await load.passes(500)
    assert not migration.done()
    await transaction.commit()
    await migration
    assert load.longest_seconds < LONGEST_STALL_SECONDS


async def until_somebody_waits_for(other: Any, lab: Lab) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"
    async with asyncio.timeout(30):
        while not await lab.value(waiting, other.get_server_pid()):
            await asyncio.sleep(0.005)


async def test_readers_do_not_stand_in_the_way_of_the_way_back(crowded: Lab) -> None:
    """They hold locks on what is dropped with the last watch, and wait for the table."""
    await asyncio.to_thread(upgrade, crowded.dsn, NOTIFY)
    sessions = [str(UUID(int=number)) for number in range(1, SESSIONS + 1)]
    unexpected: list[BaseException] = []
    reads = 0

    async def read() -> None:
        nonlocal reads
        while True:
            async with crowded.reader() as reader:  # one that has not read before locks in another order
                try:
                    cursor = (await reader.session(sessions[0])).cursor
                    await reader.changes(sessions, cursor)
                    reads += 1
                except ConfigurationError:  # not migrated any more
                    return
                except DatabaseUnavailable as error:
                    unexpected.append(error)

    readers = [asyncio.create_task(read()) for _ in range(6)]
    async with asyncio.timeout(30):
        while reads < 20:
            await asyncio.sleep(0.005)
    await asyncio.to_thread(downgrade, crowded.dsn, FIRST)
    async with asyncio.timeout(30):
        await asyncio.gather(*readers)
    assert unexpected == []


async def test_installing_again_does_not_hold_up_who_deletes(crowded: Lab, load: Load) -> None:
    await install(crowded.dsn, REQUESTS)
    other = await crowded.connect()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE request SET rating = 1 WHERE request_id = $1", UUID(int=ROWS))
    again = asyncio.create_task(install(crowded.dsn, REQUESTS))
    await until_somebody_waits_for(other, crowded)
    await asyncio.wait_for(other.execute("DELETE FROM request WHERE request_id = $1", UUID(int=ROWS)), 5)
    await transaction.commit()
    await asyncio.wait_for(again, 30)
    await uninstall(crowded.dsn, REQUESTS)
    assert load.longest_seconds < LONGEST_STALL_SECONDS

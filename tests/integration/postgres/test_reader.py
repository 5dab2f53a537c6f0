"""What the reader reads: rows and cursor from one snapshot, and never less than was missed."""

import asyncio
import random
import shutil
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from lab import JOB, JOBS, Lab
from rowcast import ConfigurationError, Cursor, DatabaseUnavailable, NullMetrics, ReadOnlyDatabase
from rowcast.hub import Read
from rowcast.postgres import PostgresReader, install
from rowcast.postgres.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio


def versions(read: Read) -> dict[str, int]:
    return {state.key: state.version for state in read.states if not state.removed}


def gone(read: Read) -> dict[str, int]:
    return {state.key: state.version for state in read.states if state.removed}


async def test_a_session_is_all_its_rows_as_the_trigger_would_tell_them(jobs: Lab) -> None:
    ear, owner = await jobs.listen(), uuid4()
    for state in ("waiting", "running", "done"):
        await jobs.add(owner=owner, state=state, result="r" if state == "done" else None)
    await jobs.add()  # somebody else's
    told = {event["id"]: event for event in await ear.heard() if event["owner"] == str(owner)}
    async with jobs.reader() as reader:
        read = await reader.session(str(owner))
    assert read.full
    assert read.usable
    assert {state.key: dict(state.document) for state in read.states} == {
        key: {name: value for name, value in event.items() if name != "horizon"} for key, event in told.items()
    }
    assert all(state.session == str(owner) and not state.removed and state.xid for state in read.states)
    assert sorted(state.terminal for state in read.states) == [False, False, True]


async def test_an_unknown_session_is_empty(jobs: Lab) -> None:
    async with jobs.reader() as reader:
        read = await reader.session(str(uuid4()))
        assert (read.states, read.full) == ((), True)
        assert (await reader.changes([str(uuid4())], read.cursor)).states == ()
        assert (await reader.changes([], read.cursor)).states == ()


async def test_changes_are_what_was_missed_and_no_rows_of_others(jobs: Lab) -> None:
    mine, yours, theirs = uuid4(), uuid4(), uuid4()
    keys = [await jobs.add(owner=mine) for _ in range(4)]
    async with jobs.reader() as reader:
        before = await reader.session(str(mine))
        await jobs.set(keys[0], "state = 'done'")
        await jobs.execute("DELETE FROM job WHERE id = $1", keys[1])
        await jobs.set(keys[2], "owner = $2", theirs)
        new = [await jobs.add(owner=mine), await jobs.add(owner=yours)]
        await jobs.add(owner=theirs)
        read = await reader.changes([str(mine), str(yours)], before.cursor)
        assert read.usable
        assert not read.full
        assert set(versions(read)) == {str(keys[0]), *map(str, new)}
        assert set(gone(read)) == {str(keys[1]), str(keys[2])}
        assert {state.session for state in read.states} == {str(mine), str(yours)}
        for key, version in versions(before).items():
            assert (versions(read) | gone(read)).get(key, version + 1) > version
        assert (await reader.changes([str(mine), str(yours)], read.cursor)).states == ()


async def test_many_who_come_together_share_statements_and_each_gets_its_own(jobs: Lab) -> None:
    owners = [uuid4() for _ in range(100)]
    keys = {owner: [await jobs.add(owner=owner) for _ in range(3)] for owner in owners}
    counting = Statements()
    async with jobs.reader(counting) as reader:
        whole = await asyncio.gather(*(reader.session(str(owner)) for owner in owners * 3))
        assert [set(versions(read)) for read in whole] == [set(map(str, keys[owner])) for owner in owners * 3]
        assert counting.statements < 100 / 4, "no more than for some sessions at a time"
        # Each from its own cursor: what one is behind by is not sent to the others.
        early = whole[0].cursor
        for owner in owners:
            await jobs.set(keys[owner][0], "state = 'running'")
        late = (await reader.session(str(owners[0]))).cursor
        for owner in owners:
            await jobs.set(keys[owner][1], "state = 'running'")
            await jobs.execute("DELETE FROM job WHERE id = $1", keys[owner][2])
        counting.statements = 0
        asked = [(owner, since) for owner in owners for since in (early, late)]
        changes = await asyncio.gather(*(reader.changes([str(owner)], since) for owner, since in asked))
        assert counting.statements < 10
        for (owner, since), read in zip(asked, changes, strict=True):
            expected = keys[owner][:2] if since is early else keys[owner][1:2]
            assert set(versions(read)) == set(map(str, expected))
            assert set(gone(read)) == {str(keys[owner][2])}


class Statements(NullMetrics):
    """Counts reads."""

    statements = 0

    def read(self, kind: str, rows: int, seconds: float) -> None:
        self.statements += 1


async def test_a_session_read_with_a_cursor_also_says_what_has_gone(jobs: Lab) -> None:
    owner = uuid4()
    first, second = [await jobs.add(owner=owner) for _ in range(2)]
    async with jobs.reader() as reader:
        before = await reader.session(str(owner))
        await jobs.execute("DELETE FROM job WHERE id = $1", first)
        read = await reader.session(str(owner), before.cursor)
        assert (set(versions(read)), set(gone(read))) == ({str(second)}, {str(first)})
        assert gone(await reader.session(str(owner))) == {}


async def test_a_transaction_that_is_open_while_we_read_is_not_skipped_by_the_cursor(jobs: Lab) -> None:
    owner = uuid4()
    early, late, writer = await jobs.add(owner=owner), await jobs.add(owner=owner), await jobs.connect()
    async with jobs.reader() as reader:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("UPDATE job SET state = 'done' WHERE id = $1", early)
        xid = await writer.fetchval("SELECT pg_current_xact_id()")
        await jobs.set(late, "state = 'running'")
        read = await reader.session(str(owner))
        assert {state.key: state.document["state"] for state in read.states} == {
            str(early): "waiting",
            str(late): "running",
        }
        assert read.cursor.horizon <= xid
        await transaction.commit()
        missed = await reader.changes([str(owner)], read.cursor)
        assert versions(missed)[str(early)] == await jobs.version(early)


async def test_whoever_follows_the_cursors_misses_nothing(jobs: Lab) -> None:
    """Writers with transactions held open at random; readers that read in between and follow their own cursors."""
    owners, dice = [uuid4() for _ in range(3)], random.Random(11)
    keys = [await jobs.add(owner=dice.choice(owners)) for _ in range(12)]
    sessions = [str(owner) for owner in owners]
    writing = True

    insert = "INSERT INTO job (id, owner) VALUES ($1, $2) ON CONFLICT DO NOTHING"

    async def write(connection: Any) -> None:
        for _ in range(30):
            try:
                async with connection.transaction():
                    for key in sorted(dice.sample(keys, dice.randint(1, 3))):
                        for _ in range(dice.randint(0, 3)):
                            await connection.fetchval("SELECT 1")
                        statement, *arguments = dice.choice(
                            [
                                ("UPDATE job SET priority = priority + 1 WHERE id = $1", key),
                                ("UPDATE job SET owner = $2 WHERE id = $1", key, dice.choice(owners)),
                                ("DELETE FROM job WHERE id = $1", key),
                                (insert, key, dice.choice(owners)),
                            ]
                        )
                        await connection.execute(statement, *arguments)
                    if dice.random() < 0.2:
                        raise asyncpg.DataError
            except (asyncpg.DataError, asyncpg.DeadlockDetectedError):
                continue

    async def follow(reader: PostgresReader) -> dict[tuple[str, str], Any]:
        known: dict[tuple[str, str], Any] = {}
        cursor = Cursor("0" * 16, 0)
        last = False
        while not last:
            last = not writing
            read = await reader.changes(sessions, cursor)
            for state in [] if cursor.horizon == 0 else read.states:
                place = (state.session, state.key)
                if place not in known or known[place].version < state.version:
                    known[place] = state
            if cursor.horizon == 0:
                for session in sessions:
                    full = await reader.session(session)
                    known |= {(state.session, state.key): state for state in full.states}
            cursor = read.cursor
        return known

    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(jobs.reader()) for _ in range(3)]
        writers = [await jobs.connect() for _ in range(6)]
        following = [asyncio.create_task(follow(reader)) for reader in readers]
        await asyncio.gather(*map(write, writers))
        writing = False
        truth = {
            (str(row["owner"]), str(row["id"])): (row["rowcast_version"], row["priority"])
            for row in await jobs.main.fetch("SELECT * FROM job WHERE owner = ANY ($1)", owners)
        }
        for known in await asyncio.gather(*following):
            alive = {place: state for place, state in known.items() if not state.removed}
            assert {place: (state.version, state.document["priority"]) for place, state in alive.items()} == truth


async def test_a_transaction_id_from_the_future_is_not_a_change(own_jobs: Lab) -> None:
    """A restore brings rows along whose transactions this cluster has not come to yet."""
    owner = uuid4()
    key = await own_jobs.add(owner=owner)
    await own_jobs.execute("DELETE FROM job WHERE id = $1", await own_jobs.add(owner=owner))
    async with own_jobs.reader() as reader:
        before = await reader.session(str(owner))
        await own_jobs.execute("ALTER TABLE job DISABLE TRIGGER USER")
        future = "(pg_current_xact_id()::text::bigint + 1000000)::text::xid8"
        await own_jobs.execute(f"UPDATE job SET rowcast_xid = {future}")
        await own_jobs.execute(f"UPDATE rowcast.tombstone SET xid = {future}")
        assert (await reader.changes([str(owner)], before.cursor)).states == ()
        assert set(versions(await reader.session(str(owner)))) == {str(key)}


@pytest.mark.parametrize("case", ["as it was", "other epoch", "future", "floor at the horizon", "floor above it"])
async def test_a_cursor_that_leads_nowhere_is_not_usable(own_jobs: Lab, case: str) -> None:
    async with own_jobs.reader() as reader:
        cursor = (await reader.session(str(uuid4()))).cursor
        if case == "other epoch":
            cursor = replace(cursor, epoch="0" * 16)
        elif case == "future":
            cursor = replace(cursor, horizon=cursor.horizon + 1_000_000)
        elif case.startswith("floor"):
            floor = cursor.horizon + case.endswith("above it")
            await own_jobs.execute(f"UPDATE rowcast.watch SET floor = '{floor}'")
        expected = case in {"as it was", "floor at the horizon"}
        assert (await reader.changes([str(uuid4())], cursor)).usable == expected
        assert (await reader.session(str(uuid4()), cursor)).usable == expected
        assert (await reader.session(str(uuid4()))).usable


async def test_the_largest_cursor_is_not_an_error(jobs: Lab) -> None:
    async with jobs.reader() as reader:
        cursor = replace((await reader.session(str(uuid4()))).cursor, horizon=2**64 - 1)
        assert not (await reader.changes([str(uuid4())], cursor)).usable


@pytest.fixture
def standby(own_postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """A server with a watched table that became a standby."""

    async def prepare() -> None:
        connection = await asyncpg.connect(own_postgres.dsn())
        await connection.execute(JOB)
        await connection.close()
        await install(own_postgres.dsn(), JOBS)

    asyncio.run(prepare())
    own_postgres.stop()
    facts, signal_file = own_postgres.data.stat(), own_postgres.data / "standby.signal"
    signal_file.touch()
    shutil.chown(signal_file, facts.st_uid, facts.st_gid)
    own_postgres.start()
    return own_postgres


async def test_a_standby_is_refused(standby: EmbeddedPostgres) -> None:
    async with PostgresReader(standby.dsn(), JOBS) as reader:
        with pytest.raises(ReadOnlyDatabase):
            await reader.session(str(uuid4()))
        with pytest.raises(ReadOnlyDatabase):
            await reader.changes([str(uuid4())], Cursor("0" * 16, 3))


@pytest.mark.fault(63)
async def test_a_database_that_takes_no_writes_can_be_read_while_it_remembers(own_jobs: Lab) -> None:
    key, name = await own_jobs.add(), await own_jobs.value("SELECT current_database()")
    owner = str((await own_jobs.row(key))["owner"])
    await own_jobs.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with own_jobs.reader() as reader:
        assert set(versions(await reader.session(owner))) == {str(key)}
        await own_jobs.execute("DELETE FROM rowcast.epoch")
        with pytest.raises(DatabaseUnavailable, match="no writes"):
            await reader.session(owner)


async def test_a_role_with_the_rights_that_are_documented_can_read(own_jobs: Lab) -> None:
    key, role = await own_jobs.add(), f"reader_{uuid4().hex[:8]}"
    owner = str((await own_jobs.row(key))["owner"])
    await own_jobs.execute(f"CREATE ROLE {role} LOGIN")
    await own_jobs.execute(f"GRANT SELECT ON job TO {role}; GRANT USAGE ON SCHEMA rowcast TO {role}")
    await own_jobs.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA rowcast TO {role}")
    await own_jobs.execute("DELETE FROM rowcast.epoch")
    async with PostgresReader(own_jobs.dsn.replace("postgres@", f"{role}@"), JOBS) as reader:
        read = await reader.session(owner)
        assert set(versions(read)) == {str(key)}
        assert (await reader.changes([owner], read.cursor)).usable
    await own_jobs.execute(f"DROP OWNED BY {role}")
    await own_jobs.execute(f"DROP ROLE {role}")


async def test_a_database_without_the_watch_says_what_to_do(bare: Lab) -> None:
    async with bare.reader() as reader:
        with pytest.raises(ConfigurationError, match="migrate"):
            await reader.session(str(uuid4()))


async def test_a_reader_that_is_closed_says_so(jobs: Lab) -> None:
    with pytest.raises(DatabaseUnavailable):
        await jobs.reader().session(str(uuid4()))

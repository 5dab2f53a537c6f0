"""Many at once apply a migration once, and one that was interrupted can be repeated."""

import asyncio
import signal
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from lab import Lab, OpenLab
from rowcast import ConfigurationError
from rowcast.postgres.ddl import install_steps
from rowcast.service import migrations
from rowcast.service.migrations.lock import hold_lock
from rowcast.service.migrations.runner import read
from rowcast.service.store.watched import REQUESTS
from schema import FIRST, ROOT, ROWCAST, dump, environment, upgrade

pytestmark = pytest.mark.anyio

INDEXES = ("rowcast_request_session_xid", "idx_request_session_updated")


async def start_migration(dsn: str) -> "asyncio.subprocess.Process":
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *ROWCAST, "migrate", cwd=ROOT, env=environment(dsn), stdout=pipe, stderr=pipe
    )


async def finish(process: "asyncio.subprocess.Process") -> str:
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def until_migration(lab: Lab, condition: str) -> int:
    """Return the process id of the migration's backend once it is as wanted."""
    query = (
        f"SELECT pid FROM pg_stat_activity WHERE application_name = 'rowcast-migrate' AND datname = $1 AND {condition}"
    )
    name = await lab.value("SELECT current_database()")
    async with asyncio.timeout(30):
        while (pid := await lab.value(query, name)) is None:
            await asyncio.sleep(0.005)
    return int(pid)


async def add_request(lab: Lab) -> Any:
    session = await lab.value("INSERT INTO session (user_owner) VALUES ('test|1') RETURNING session_id")
    return await lab.add(session_id=session, request="?")


async def revision(lab: Lab) -> str:
    return str(await lab.value("SELECT version_num FROM alembic_version"))


async def test_ten_at_once_apply_it_once(open_lab: OpenLab, database_url: str, service_database: str) -> None:
    lab = await open_lab(database_url, REQUESTS)
    await lab.execute("""
        CREATE SCHEMA spy;
        CREATE TABLE spy.seen (tag text, what text);
        CREATE FUNCTION spy.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO spy.seen SELECT command_tag, object_identity FROM pg_event_trigger_ddl_commands();
        END $$;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION spy.note()
    """)
    processes = [await start_migration(database_url) for _ in range(10)]
    for process in processes:
        await finish(process)
    await lab.execute("DROP EVENT TRIGGER note")
    seen = await lab.main.fetch("SELECT tag, what, count(*) FROM spy.seen GROUP BY 1, 2")
    counts = {(row["tag"], row["what"]): row["count"] for row in seen}
    assert counts["CREATE TRIGGER", "request_status_update_trigger on public.request"] == 1
    assert counts["CREATE TABLE", "public.request"] == 1
    assert counts["CREATE INDEX", "public.idx_request_session_updated"] == 1
    await lab.execute("DROP SCHEMA spy CASCADE")
    assert dump(database_url) == dump(service_database)


async def test_with_nothing_to_do_no_lock_is_taken(service: Lab) -> None:
    async with hold_lock(service.dsn):
        await service.execute("BEGIN")
        await service.execute("LOCK TABLE request, session, query, rowcast.watch, rowcast.epoch")
        assert await asyncio.wait_for(asyncio.to_thread(migrations.migrate, service.dsn), 20) is False


async def test_who_waits_too_long_for_another_migration_is_told_so(service: Lab) -> None:
    async with hold_lock(service.dsn):
        with pytest.raises(ConfigurationError, match="another migration is still running"):
            async with hold_lock(service.dsn, timeout_seconds=0):
                pytest.fail("two hold the lock")
    async with hold_lock(service.dsn, timeout_seconds=0):
        pass


async def test_killed_while_it_waits_for_the_table_it_can_be_repeated(unwatched: Lab, service_database: str) -> None:
    key, other = await add_request(unwatched), await unwatched.connect()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE request SET rating = 1 WHERE request_id = $1", key)
    process = await start_migration(unwatched.dsn)
    await until_migration(unwatched, f"{other.get_server_pid()} = ANY (pg_blocking_pids(pid))")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await transaction.commit()
    assert await revision(unwatched) == FIRST
    await asyncio.to_thread(upgrade, unwatched.dsn)
    assert dump(unwatched.dsn) == dump(service_database)


@pytest.mark.parametrize("orphan", ["ended", "still at work"])
async def test_killed_while_it_builds_the_index_it_can_be_repeated(
    unwatched: Lab, service_database: str, orphan: str
) -> None:
    """PostgreSQL does not notice at once that the client is gone: the build may go on without it."""
    await add_request(unwatched)
    other = await unwatched.connect()
    await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await other.execute("SELECT 1")  # the build waits for this snapshot to go
    process = await start_migration(unwatched.dsn)
    backend = await until_migration(unwatched, "wait_event = 'virtualxid'")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    state = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'rowcast_request_session_xid'::regclass"
    assert await unwatched.value(state) is False
    if orphan == "ended":
        assert await unwatched.value("SELECT pg_terminate_backend($1, 20000)", backend)
        await other.execute("COMMIT")
        await asyncio.to_thread(upgrade, unwatched.dsn)
    else:
        again = await start_migration(unwatched.dsn)
        await until_migration(unwatched, f"{backend} = ANY (pg_blocking_pids(pid))")
        await other.execute("COMMIT")
        await finish(again)
    assert await unwatched.value(state) is True
    assert dump(unwatched.dsn) == dump(service_database)


@pytest.mark.parametrize("index", INDEXES)
async def test_an_invalid_index_is_built_anew(unwatched: Lab, service_database: str, index: str) -> None:
    for statement in (step for part in install_steps(REQUESTS)[:1] for step in part.statements):
        await unwatched.execute(statement)
    await unwatched.execute(f"CREATE INDEX {index} ON request (status)")
    await unwatched.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", index)
    await asyncio.to_thread(upgrade, unwatched.dsn)
    assert await unwatched.value("SELECT indisvalid FROM pg_index WHERE indexrelid = $1::text::regclass", index)
    assert dump(unwatched.dsn) == dump(service_database)


@pytest.mark.parametrize("index", INDEXES)
async def test_an_invalid_index_is_dropped_without_holding_up_writers(unwatched: Lab, index: str) -> None:
    """While somebody's transaction is open, others must still get through."""
    key = await add_request(unwatched)
    for statement in (step for part in install_steps(REQUESTS)[:1] for step in part.statements):
        await unwatched.execute(statement)
    await unwatched.execute(f"CREATE INDEX {index} ON request (status)")
    await unwatched.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", index)
    steps = dict(zip(INDEXES, (install_steps(REQUESTS)[1].statements[0], read("b725927e9e64_up.sql")[0]), strict=True))
    reader, migration = await unwatched.connect(), await unwatched.connect()
    await reader.execute("BEGIN")
    await reader.execute("SELECT * FROM request")
    dropping = asyncio.create_task(migration.execute(steps[index]))
    await unwatched.until_waiting(migration)
    await asyncio.wait_for(unwatched.set(key, "rating = 1"), 2)
    assert not dropping.done()
    await reader.execute("COMMIT")
    await asyncio.wait_for(dropping, 20)
    assert await unwatched.value("SELECT to_regclass($1)", index) is None


async def test_a_step_that_fails_leaves_what_can_be_repeated(unwatched: Lab, service_database: str) -> None:
    await unwatched.execute("CREATE FUNCTION notify_request_status_update() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(DBAPIError, match="cannot change return type"):
        await asyncio.to_thread(upgrade, unwatched.dsn)
    assert await revision(unwatched) == FIRST
    await unwatched.execute("DROP FUNCTION notify_request_status_update")
    await asyncio.to_thread(upgrade, unwatched.dsn)
    assert dump(unwatched.dsn) == dump(service_database)

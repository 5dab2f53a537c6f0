"""The epoch lasts as long as the database remembers everything, and not a moment longer."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest

from lab import JOB, JOBS, Lab, OpenLab
from rowcast import ReadOnlyDatabase, Watch
from rowcast.postgres import PostgresReader, install, uninstall
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries

pytestmark = pytest.mark.anyio

EPOCH = "SELECT rowcast.current_epoch('job', 'job')"
SESSION = "00000000-0000-0000-0000-000000000001"


async def epoch_of(dsn: str, watch: Watch = JOBS) -> str:
    async with PostgresReader(dsn, watch) as reader:
        return (await reader.session(SESSION)).cursor.epoch


async def watched(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    await connection.execute(JOB)
    await connection.close()
    await install(dsn, JOBS)
    return dsn


def program(name: str) -> Path:
    """The client program of the server that is tested."""
    return find_binaries(origin=os.environ.get("TEST_POSTGRES") or None).directory / name  # type: ignore[arg-type]


async def test_it_stays_the_same_while_nothing_is_forgotten(own_jobs: Lab) -> None:
    before, remembered = await epoch_of(own_jobs.dsn), await own_jobs.value(EPOCH)
    key = await own_jobs.add()
    await own_jobs.set(key, "state = 'done'")
    await own_jobs.execute("DELETE FROM job")
    await own_jobs.execute("VACUUM FULL job")
    await own_jobs.execute("SELECT rowcast.begin_epoch('job')")
    assert await epoch_of(own_jobs.dsn) == before
    assert await own_jobs.value(EPOCH) == remembered
    assert len(before) == 16
    assert set(before) <= set("0123456789abcdef")


async def test_a_truncate_ends_it_if_it_is_committed(own_jobs: Lab) -> None:
    before = await epoch_of(own_jobs.dsn)
    transaction = own_jobs.main.transaction()
    await transaction.start()
    await own_jobs.execute("TRUNCATE job")
    await transaction.rollback()
    assert await epoch_of(own_jobs.dsn) == before
    await own_jobs.execute("TRUNCATE job")
    assert await epoch_of(own_jobs.dsn) != before


async def test_one_that_was_emptied_is_begun_once_however_many_begin_it(own_jobs: Lab) -> None:
    await own_jobs.execute("DELETE FROM rowcast.epoch")
    assert await own_jobs.value(EPOCH) is None
    first, second = await own_jobs.connect(), await own_jobs.connect()
    transaction = first.transaction()
    await transaction.start()
    await first.execute("SELECT rowcast.begin_epoch('job')")
    begun = await first.fetchval(EPOCH)
    other = asyncio.create_task(second.execute("SELECT rowcast.begin_epoch('job')"))
    await own_jobs.until_waiting(second)
    await transaction.commit()
    await other
    assert await second.fetchval(EPOCH) == begun
    assert await epoch_of(own_jobs.dsn) == await epoch_of(own_jobs.dsn)
    assert await second.fetchval(EPOCH) == begun


async def test_readers_that_find_it_empty_at_once_agree(own_jobs: Lab) -> None:
    before = await epoch_of(own_jobs.dsn)
    await own_jobs.execute("DELETE FROM rowcast.epoch")
    found = set(await asyncio.gather(*[epoch_of(own_jobs.dsn) for _ in range(8)]))
    assert len(found) == 1
    assert before not in found


async def test_installing_again_ends_it(own_jobs: Lab) -> None:
    before = await epoch_of(own_jobs.dsn)
    await install(own_jobs.dsn, JOBS)
    between = await epoch_of(own_jobs.dsn)
    await uninstall(own_jobs.dsn, JOBS)
    await install(own_jobs.dsn, JOBS)
    assert len({before, between, await epoch_of(own_jobs.dsn)}) == 3


async def test_a_copy_of_the_database_has_another(postgres: EmbeddedPostgres, own_jobs: Lab) -> None:
    name, before = own_jobs.dsn.split("/", 3)[3].split("?")[0], await epoch_of(own_jobs.dsn)
    own_jobs.main.terminate()
    await asyncio.to_thread(postgres.drop_database, f"{name}_copy")
    async with asyncio.timeout(20):
        while True:
            try:
                copy = await asyncio.to_thread(postgres.create_database, f"{name}_copy", name)
                break
            except asyncpg.ObjectInUseError:  # the reader's connection is still on its way out
                await asyncio.sleep(0.02)
    try:
        assert await epoch_of(copy) != before
    finally:
        await asyncio.to_thread(postgres.drop_database, f"{name}_copy")


async def test_a_dump_that_is_restored_elsewhere_has_another(
    own_jobs: Lab, open_lab: OpenLab, database_url: str
) -> None:
    """With the same random id, and the same versions and transaction ids in its rows."""
    key = await own_jobs.add(state="done")
    await own_jobs.execute("DELETE FROM job WHERE id = $1", await own_jobs.add())
    dump = subprocess.run([program("pg_dump"), own_jobs.dsn], check=True, capture_output=True)
    restore = [program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database_url]
    subprocess.run(restore, input=dump.stdout, check=True, capture_output=True)
    copy = await open_lab(database_url, JOBS)
    ids = "SELECT id FROM rowcast.epoch"
    assert await copy.value(ids) == await own_jobs.value(ids)
    assert dict(await copy.row(key)) == dict(await own_jobs.row(key))
    assert await copy.main.fetch("SELECT * FROM rowcast.tombstone") == await own_jobs.main.fetch(
        "SELECT * FROM rowcast.tombstone"
    )
    assert await copy.value(EPOCH) != await own_jobs.value(EPOCH)


async def test_a_table_that_was_made_anew_has_another(own_jobs: Lab) -> None:
    before = await own_jobs.value(EPOCH)
    await own_jobs.execute("CREATE TABLE other (LIKE job INCLUDING ALL); ALTER TABLE job RENAME TO old")
    await own_jobs.execute("ALTER TABLE other RENAME TO job")
    assert await own_jobs.value(EPOCH) != before


async def test_without_the_right_to_read_the_system_identifier_it_still_works(own_jobs: Lab) -> None:
    role = "owner_without_rights"
    await own_jobs.execute(f"CREATE ROLE {role}")
    await own_jobs.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    before = await own_jobs.value(EPOCH)
    await own_jobs.execute(f"GRANT ALL ON SCHEMA rowcast TO {role}")
    await own_jobs.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA rowcast TO {role}")
    await own_jobs.execute(f"ALTER FUNCTION rowcast.current_epoch(text, regclass) OWNER TO {role}")
    assert len(await own_jobs.value(EPOCH)) == 16
    assert await own_jobs.value(EPOCH) != before
    await own_jobs.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    await own_jobs.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_every_start_and_a_promotion_end_it(own_postgres: EmbeddedPostgres) -> None:
    """The database itself remembers through an orderly restart; but it may have been started on older files."""
    dsn = await watched(own_postgres.dsn())
    seen = [await epoch_of(dsn)]
    connection = await asyncpg.connect(dsn)
    remembered = await connection.fetchval(EPOCH)
    await connection.close()
    await asyncio.to_thread(own_postgres.restart)
    seen.append(await epoch_of(dsn))
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval(EPOCH) == remembered
    await connection.close()

    await asyncio.to_thread(own_postgres.restart, "immediate")
    seen.append(await epoch_of(dsn))
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.to_thread(own_postgres.start)
    seen.append(await epoch_of(dsn))

    own_postgres.stop()
    facts, signal_file = own_postgres.data.stat(), own_postgres.data / "standby.signal"
    signal_file.touch()
    shutil.chown(signal_file, facts.st_uid, facts.st_gid)
    await asyncio.to_thread(own_postgres.start)
    async with PostgresReader(dsn, JOBS) as reader:
        with pytest.raises(ReadOnlyDatabase):
            await reader.session(SESSION)
    standby = await asyncpg.connect(dsn)
    assert await standby.fetchval("SELECT pg_promote()")
    await standby.close()
    seen.append(await epoch_of(dsn))
    assert len(set(seen)) == 5

"""The database comes back with less than it had: everybody learns that, and shows what there is now."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import StartPostgres

from crowd import Crowd, Gather
from follower import Follower
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from schema import program

pytestmark = [pytest.mark.anyio, pytest.mark.fault(26)]


async def go_on(crowd: Crowd, times: int) -> None:
    """Change every request several times, add one and delete one: what is to be forgotten."""
    for number in range(times):
        await crowd.execute("UPDATE request SET response = $1, error = $1", f"{number}")
    for session in crowd.sessions:
        await crowd.execute(
            "DELETE FROM request WHERE request_id ="
            " (SELECT request_id FROM request WHERE session_id = $1::text::uuid ORDER BY sequence_number LIMIT 1)",
            session,
        )
        await crowd.request(session)


async def everybody_starts_over(crowd: Crowd, visitor: Follower, back: float) -> None:
    """Every stream is the one that it was, was told why, and shows what is stored; so does who was away."""
    await crowd.converged(within=3, since=back)
    assert crowd.is_unbroken
    for client in crowd.streams:
        reasons = [data["reason"] for name, data in client.seen if name == "resync"]
        assert set(reasons) == {"epoch_changed"}, reasons
    before = visitor.epoch
    await crowd.returns(visitor)
    assert [data["reason"] for name, data in visitor.seen if name == "resync"] == ["epoch_changed"]
    assert visitor.epoch != before
    assert {name for client in crowd.polls for name in client.counts if name.startswith("poll ")} <= {
        "poll 200", "poll 304", "poll 503"
    }  # fmt: skip
    async with crowd.written():
        await crowd.until(lambda: crowd.counts["committed"] > 20, "there is load")
    await crowd.converged(within=2)


async def gathered(gather: Gather, server: Any) -> Crowd:
    crowd = await gather(server)
    await crowd.join()
    for client in crowd.streams:
        client.is_noting = True
    return crowd


@pytest.mark.parametrize("source", ["notify", "poll"])
async def test_a_dump_takes_the_place_of_the_database(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, tmp_path: Path, source: str
) -> None:
    dsn, copy = own_postgres.dsn("rowcast"), str(tmp_path / "dump")
    crowd = await gathered(gather, own_servers(dsn, ROWCAST_SOURCE=source))
    await go_on(crowd, 2)
    subprocess.run([program("pg_dump"), "-Fc", "-f", copy, dsn], check=True)
    await go_on(crowd, 5)
    await crowd.converged(within=2)
    visitor, newest = await crowd.visitor(crowd.sessions[0]), max(crowd.streams[0].versions.values())

    restored = await asyncio.to_thread(own_postgres.create_database, "restored")
    subprocess.run([program("pg_restore"), "-d", restored, "--exit-on-error", copy], check=True)
    crowd.dsn = own_postgres.dsn("postgres")
    await crowd.execute("ALTER DATABASE rowcast ALLOW_CONNECTIONS false")
    await crowd.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'rowcast'")
    await crowd.execute("ALTER DATABASE rowcast RENAME TO former")
    await crowd.execute("ALTER DATABASE restored RENAME TO rowcast")
    crowd.dsn, back = dsn, time.monotonic()
    assert await crowd.value("SELECT max(rowcast_version) FROM request") < newest
    await everybody_starts_over(crowd, visitor, back)


@pytest.mark.parametrize("how", ["a base backup", "a copy of the stopped server's files"])
async def test_the_files_of_an_earlier_day_are_put_back(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, tmp_path: Path, how: str
) -> None:
    crowd = await gathered(gather, own_servers(own_postgres.dsn("rowcast")))
    await go_on(crowd, 2)
    copy, data = tmp_path / "copy", own_postgres.data
    if how == "a base backup":
        subprocess.run([program("pg_basebackup"), "-D", copy, "-c", "fast", "-d", own_postgres.dsn()], check=True)
    else:
        await asyncio.to_thread(own_postgres.stop)
        subprocess.run(["cp", "-a", data, copy], check=True)
        await asyncio.to_thread(own_postgres.start)
        await crowd.until_seen("synced", more_than=1)
        await crowd.converged(within=3)
        for client in crowd.streams:
            client.seen.clear()
    await go_on(crowd, 5)
    await crowd.converged(within=2)
    visitor, newest = await crowd.visitor(crowd.sessions[0]), max(crowd.streams[0].versions.values())

    await asyncio.to_thread(own_postgres.stop)
    owner = data.stat()
    shutil.rmtree(data)
    copy.rename(data)
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", data], check=True)
    await asyncio.to_thread(own_postgres.start)
    back = time.monotonic()
    # Other changes than those that were forgotten, to the same versions, by the same numbers of transactions.
    for _ in range(5):
        await crowd.execute("UPDATE request SET error = NULL, response = md5(random()::text)")
    assert await crowd.value("SELECT min(rowcast_version) FROM request") <= newest
    await everybody_starts_over(crowd, visitor, back)


async def test_a_crash_forgets_what_was_committed_but_not_written(
    start_postgres: StartPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    postgres = start_postgres(synchronous_commit="off", wal_writer_delay="10s")
    dsn = await asyncio.to_thread(postgres.create_database, "rowcast")
    await asyncio.to_thread(migrations.migrate, dsn)
    crowd = await gathered(gather, own_servers(dsn))
    session, stamp = crowd.sessions[0], "SELECT rowcast_version AS version, rowcast_xid::text AS xid FROM request"
    await crowd.execute("CHECKPOINT")
    for _ in range(20):
        await crowd.value("SELECT txid_current()")
    await crowd.execute("UPDATE request SET response = 'forgotten' WHERE session_id = $1::text::uuid", session)
    stamped = await crowd.rows(f"{stamp} WHERE session_id = $1::text::uuid", session)
    await crowd.until(
        lambda: all(each["has_response"] for each in crowd.streams[0].rows.values()), "the stream shows the change"
    )
    visitor = await crowd.visitor(session)
    assert all(each["has_response"] for each in visitor.rows.values())
    await asyncio.to_thread(postgres.stop, "immediate")
    await asyncio.to_thread(postgres.start)
    back = time.monotonic()
    assert await crowd.value("SELECT count(*) FROM request WHERE response IS NOT NULL") == 0, "nothing was forgotten"
    while await crowd.value("SELECT txid_current()") < int(stamped[0]["xid"]) - 1:
        pass  # the same versions by the same transaction (unless a probe comes between), with other content
    await crowd.execute("UPDATE request SET error = 'other' WHERE session_id = $1::text::uuid", session)
    again = await crowd.rows(f"{stamp} WHERE session_id = $1::text::uuid", session)
    assert {each["version"] for each in again} == {each["version"] for each in stamped}
    print("\nstamped", stamped[0], "and again", again[0])
    await everybody_starts_over(crowd, visitor, back)

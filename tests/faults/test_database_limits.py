"""The database takes no writes, or has no room for them: reads go on, streams stay, writes are asked to come back."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from crowd import Crowd, Gather, readiness, until_ready
from rowcast.postgres.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.anyio, pytest.mark.fault(63)]

OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'rowcast' AND pid <> pg_backend_pid()"
)
Mount = Callable[[int], Path]


@pytest.fixture
def mount(own_postgres: EmbeddedPostgres) -> Iterator[Mount]:
    """Make a directory with so many MiB of room, and no more, for the account that PostgreSQL runs as."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a small file system; run the tests as root in a container")
    owner, mounted = own_postgres.data.stat(), []

    def make(mebibytes: int) -> Path:
        directory = tempfile.mkdtemp(prefix="rowcast-room-", dir="/tmp")  # pytest's own are closed to other accounts
        options = f"size={mebibytes}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        Path(directory).chmod(0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rowcast-test", directory], check=True)
        mounted.append(directory)
        return Path(directory)

    yield make
    own_postgres.stop("immediate")
    for directory in mounted:
        subprocess.run(["umount", directory], check=True)
        Path(directory).rmdir()


async def refused(crowd: Crowd, method: str, path: str, body: dict[str, Any]) -> bool:
    """Send a write; say whether it was refused, in the one form that this has."""

    def send() -> bool:
        with crowd.server.client(crowd.token) as client:
            answer = client.request(method, path, json=body)
            if answer.status_code in (200, 201):
                return False
            assert answer.status_code == 503, (answer.status_code, answer.text)
            assert 1 <= int(answer.headers["Retry-After"]) <= 10
            assert answer.json()["error"] == "Temporarily unavailable"
            return True

    return await asyncio.to_thread(send)


async def polls_are_answered(crowd: Crowd) -> None:
    before = [client.counts["poll 200"] + client.counts["poll 304"] for client in crowd.polls]
    await crowd.until(
        lambda: all(
            client.counts["poll 200"] + client.counts["poll 304"] > count + 2
            for client, count in zip(crowd.polls, before, strict=True)
        ),
        "every poll is answered",
    )


async def test_a_read_only_database_can_be_followed(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()
    request = await crowd.request(crowd.sessions[0])
    await crowd.execute("ALTER DATABASE rowcast SET default_transaction_read_only = on")
    await crowd.execute(OTHERS)
    await crowd.until_seen("synced", more_than=1)
    for path in ("/api/session", f"/api/request/{crowd.sessions[0]}"):
        assert await refused(crowd, "POST", path, {"request": "x"} if "request" in path else {})
    await polls_are_answered(crowd)
    assert await until_ready(crowd.server) < 5
    await crowd.follow(crowd.sessions[1])
    # Whoever is allowed to still writes, and is heard.
    await crowd.execute(f"BEGIN READ WRITE; UPDATE request SET error = 'x' WHERE request_id = '{request}'; COMMIT")
    await crowd.converged(within=2)

    await crowd.execute("BEGIN READ WRITE; ALTER DATABASE rowcast RESET default_transaction_read_only; COMMIT")
    await crowd.execute(OTHERS)
    back = time.monotonic()
    assert not await refused(crowd, "POST", f"/api/request/{crowd.sessions[0]}", {"request": "x"})
    await crowd.converged(within=2, since=back)
    assert crowd.is_unbroken


async def test_a_table_without_room_refuses_what_does_not_fit(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, mount: Mount
) -> None:
    room = mount(16)
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()
    await crowd.execute(f"CREATE TABLESPACE small LOCATION '{room}'")
    await crowd.execute("ALTER TABLE request SET TABLESPACE small")
    _fill(room, leave=1 << 21)
    path, text = f"/api/request/{crowd.sessions[0]}", os.urandom(9000).hex()
    async with asyncio.timeout(30):
        while not await refused(crowd, "POST", path, {"request": text}):
            pass
    await polls_are_answered(crowd)
    await crowd.converged(within=2)
    await crowd.follow(crowd.sessions[0])
    assert await until_ready(crowd.server) < 2
    (room / "ballast").unlink()
    freed = time.monotonic()
    assert not await refused(crowd, "POST", path, {"request": text})
    await crowd.converged(within=2, since=freed)
    assert crowd.is_unbroken


async def test_a_log_without_room_ends_postgres_and_no_stream(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, mount: Mount
) -> None:
    """PostgreSQL cannot go on without its log: it panics, and cannot recover until there is room."""
    room, log = mount(96), own_postgres.data / "pg_wal"
    await asyncio.to_thread(own_postgres.stop)
    for path in log.iterdir():
        shutil.copytree(path, room / path.name) if path.is_dir() else shutil.copy(path, room)
    subprocess.run(["chown", "-R", "--reference", own_postgres.data, room], check=True)
    shutil.rmtree(log)
    log.symlink_to(room)
    await asyncio.to_thread(own_postgres.start)

    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()
    _fill(room, leave=0)
    writing = [asyncio.create_task(_write_much(crowd)) for _ in range(2)]
    try:
        await crowd.until_seen("degraded", seconds=60)
        status, said = await asyncio.to_thread(readiness, crowd.server)
        assert status == 503, said
        assert await refused(crowd, "POST", f"/api/request/{crowd.sessions[0]}", {"request": "x"})
        assert crowd.is_unbroken
        assert "No space left on device" in (own_postgres.data / "rowcast.log").read_text()
    finally:
        for task in writing:
            task.cancel()
        await asyncio.wait(writing)
    (room / "ballast").unlink()
    await asyncio.to_thread(own_postgres.restart, "immediate")
    back = time.monotonic()
    await crowd.request(crowd.sessions[0])
    await crowd.converged(within=2, since=back)
    assert crowd.is_unbroken
    assert not await refused(crowd, "POST", f"/api/request/{crowd.sessions[0]}", {"request": "x"})


async def _write_much(crowd: Crowd) -> None:
    """Write a lot, for as long as it is possible."""
    connection = await asyncpg.connect(crowd.dsn)
    try:
        while True:
            await connection.execute(
                "CREATE TABLE much AS SELECT md5(n::text) AS n FROM generate_series(1, 50000) AS n"
            )
            await connection.execute("DROP TABLE much")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        pass
    finally:
        connection.terminate()


def _fill(room: Path, *, leave: int) -> None:
    """Write a file that leaves so many bytes of room."""
    free = os.statvfs(room).f_bavail * os.statvfs(room).f_frsize
    (room / "ballast").write_bytes(bytes(free - leave))

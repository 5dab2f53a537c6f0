"""Another database becomes the primary: the one that is no more is refused, the one that is gets found."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conftest import free_port
from tests.faults.conftest import StartPostgres

from crowd import Gather, readiness, until_ready
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from schema import program
from switch import Switch

pytestmark = [pytest.mark.anyio, pytest.mark.fault(58)]

REPLAYED = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"


@pytest.fixture
def primary(start_postgres: StartPostgres) -> EmbeddedPostgres:
    cluster = start_postgres("primary", port=free_port())
    migrations.migrate(cluster.create_database("rowcast"))
    return cluster


@pytest.fixture
def standby(primary: EmbeddedPostgres, start_postgres: StartPostgres) -> EmbeddedPostgres:
    """A streaming standby of the primary."""
    copy = primary.data.parent / "standby"
    subprocess.run([program("pg_basebackup"), "-R", "-c", "fast", "-D", copy, "-d", primary.dsn()], check=True)
    _own_like(primary, "standby")
    return start_postgres("standby", port=free_port())


@pytest.fixture
def switch(primary: EmbeddedPostgres) -> Iterator[Switch]:
    assert primary.port is not None
    with Switch(primary.port) as address:
        yield address


def _own_like(primary: EmbeddedPostgres, name: str) -> None:
    facts = primary.data.stat()
    path = primary.data.parent / name
    subprocess.run(["chown", "-R", f"{facts.st_uid}:{facts.st_gid}", path], check=True)


def _demote(cluster: EmbeddedPostgres) -> None:
    """Have the next start be that of a standby."""
    (cluster.data / "standby.signal").touch()
    facts = cluster.data.stat()
    shutil.chown(cluster.data / "standby.signal", facts.st_uid, facts.st_gid)


def reasons(server: Any) -> list[str]:
    """Why the listener says that it lost the database."""
    lines = [line for line in server.log.splitlines() if "the listener lost the database" in line]
    return [json.loads(line)["reason"] if line.startswith("{") else line for line in lines]


@pytest.mark.parametrize("how", ["switched over", "failed over"])
async def test_a_standby_is_refused_and_the_new_primary_is_found(
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    switch: Switch,
    own_servers: Callable[..., Any],
    gather: Gather,
    how: str,
) -> None:
    address = primary.dsn("rowcast").replace(f":{primary.port}/", f":{switch.port}/")
    crowd = await gather(own_servers(address))
    await crowd.join()
    for client in crowd.streams:
        client.is_noting = True
    async with crowd.written():
        await crowd.until(lambda: crowd.counts["committed"] > 30, "there is load")
    await crowd.converged(within=2)
    visitor = await crowd.visitor(crowd.sessions[0])

    # To the standby, while the primary lives: it could be read, but nothing that it says of running transactions holds.
    written = await crowd.value("SELECT pg_current_wal_lsn()::text")
    crowd.dsn = standby.dsn("rowcast")
    async with asyncio.timeout(10):
        while not await crowd.value(REPLAYED, written):
            await asyncio.sleep(0.01)
    assert standby.port is not None
    switch.move(standby.port)
    await crowd.until_seen("degraded")
    await crowd.until(lambda: any("standby" in each for each in reasons(crowd.server)), "the log says why")
    status, said = await asyncio.to_thread(readiness, crowd.server)
    assert status == 503
    assert "This is a standby" in said
    with crowd.server.client(crowd.token) as client:
        assert client.get(f"/api/session/{crowd.sessions[0]}/requests").status_code == 503
        assert client.get(f"/api/sse/{crowd.sessions[0]}").status_code == 503

    # The primary ends; what it was becomes a standby, or is gone; the standby is promoted.
    if how == "switched over":
        await asyncio.to_thread(primary.stop)
        _demote(primary)
        await asyncio.to_thread(primary.start)
        assert primary.port is not None
        switch.move(primary.port)  # for a moment the address still leads there
    else:
        await asyncio.to_thread(primary.kill)
    assert (await asyncio.to_thread(readiness, crowd.server))[0] == 503
    assert await crowd.value("SELECT pg_promote()")
    if how == "switched over":
        switch.move(standby.port)  # to move it where it leads already would cut the listener that is back by now
    moved = time.monotonic()
    async with crowd.written():
        await crowd.until(lambda: crowd.counts["committed"] > 60, "the new primary is written to")
    took = await crowd.converged(within=3, since=moved)
    await until_ready(crowd.server)
    assert crowd.is_unbroken
    for client in crowd.streams:
        assert {data["reason"] for name, data in client.seen if name == "resync"} == {"epoch_changed"}
        assert client.counts["degraded"] == 1
    before = visitor.epoch
    await crowd.returns(visitor)
    assert visitor.epoch != before
    said_once = [reason for reason in reasons(crowd.server) if "standby" in reason]
    assert len(said_once) <= 3, "each attempt says the same again"
    print(f"\nconverged {took:.2f} s after the address had moved; {reasons(crowd.server)}")

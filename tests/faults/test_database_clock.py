"""The clock of the database jumps back: it orders nothing, so nothing happens."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crowd import Gather
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
from rowcast.service import migrations

pytestmark = [pytest.mark.anyio, pytest.mark.fault(62)]

NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


@pytest.fixture
def clock() -> Iterator[Path]:
    """A file that says how far the clock of `faked_postgres` is off, where every account can read it."""
    with tempfile.TemporaryDirectory(prefix="rowcast-clock-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        (Path(name) / "offset").write_text("+0\n")
        yield Path(name) / "offset"


@pytest.fixture
def faked_postgres(clock: Path, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A cluster whose clock can be set."""
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
    if library is None:
        pytest.skip("no libfaketime; on Debian: apt-get install faketime")
    found = find_binaries(origin="machine")
    programs = clock.parent / "bin"
    programs.mkdir()
    programs.chmod(0o755)
    (programs / "initdb").symlink_to(found.directory / "initdb")
    (programs / "postgres").write_text(
        f"#!/bin/sh\nLD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1"
        f' FAKETIME_DONT_FAKE_MONOTONIC=1 exec {found.directory}/postgres "$@"\n'
    )
    (programs / "postgres").chmod(0o755)
    with EmbeddedPostgres(
        tmp_path / "data", binaries=replace(found, directory=programs), settings={"fsync": "off"}
    ) as cluster:
        migrations.migrate(cluster.create_database("rowcast"))
        yield cluster
    shutil.rmtree(programs)


async def test_a_clock_that_jumps_changes_no_order(
    faked_postgres: EmbeddedPostgres, clock: Path, own_servers: Callable[..., Any], gather: Gather
) -> None:
    crowd = await gather(own_servers(faked_postgres.dsn("rowcast")))
    await crowd.join()
    key = "request_id = $1::text::uuid"
    for hours in (-1, 2, -1):
        request = await crowd.request(crowd.sessions[0])
        before, now = (
            await crowd.value(f"SELECT rowcast_version FROM request WHERE {key}", request),
            await crowd.value(NOW),
        )
        clock.write_text(f"{hours:+d}h\n")
        assert abs(await crowd.value(NOW) - now - 3600 * hours) < 60, "the clock did not jump"
        await crowd.update(request, "x")
        await crowd.execute(f"DELETE FROM request WHERE {key}", request)
        await crowd.execute(
            "INSERT INTO request (request_id, session_id, request) VALUES ($1::text::uuid, $2::text::uuid, 'again')",
            request,
            crowd.sessions[0],
        )
        assert await crowd.value(f"SELECT rowcast_version FROM request WHERE {key}", request) >= before + 2
        await crowd.converged(within=2)
        async with crowd.written():
            await crowd.until(lambda: crowd.counts["committed"] > 30, "there is load")
            clock.write_text("+0\n")
            crowd.counts.clear()
            await crowd.until(lambda: crowd.counts["committed"] > 30, "there is load")
        await crowd.converged(within=2)
        crowd.counts.clear()
    assert crowd.is_unbroken
    assert all(client.counts["snapshot"] == 1 and client.counts["degraded"] == 0 for client in crowd.streams)
    with crowd.server.client() as client:
        assert "rowcast_sweep_found_total 0.0" in client.get("/metrics").text

"""Everything that can be killed is killed, at random moments under load; the stores are right soon after it is back.

KILLS says how often each is (3); the figures are printed.
"""

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from tests.conftest import free_port

from crowd import Crowd, Gather
from rowcast.postgres.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("KILLS", "3"))
LISTENER = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'rowcast-listener' AND datname = current_database()"
)


async def killed_again_and_again(crowd: Crowd, kill: Callable[[], Awaitable[float]]) -> None:
    """Kill under load, as often as KILLS says; `kill` returns when the thing was back."""
    took = []
    for _ in range(KILLS):
        async with crowd.written(writers=3):
            await asyncio.sleep(random.uniform(0, 0.7))
            back = await kill()
        took.append(await crowd.converged(within=2, since=back))
    assert crowd.counts["committed"] > 0
    print(f"\n{KILLS} kills: slowest {max(took):.2f} s, mean {sum(took) / KILLS:.2f} s; {dict(crowd.counts)}")


@pytest.mark.fault(27)
async def test_postgres_is_killed(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()

    async def kill() -> float:
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        return time.monotonic()

    await killed_again_and_again(crowd, kill)
    assert crowd.is_unbroken


@pytest.mark.fault(28)
async def test_the_backend_of_the_listener_is_killed(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    """PostgreSQL takes that for a crash: it ends every connection and recovers."""
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()

    async def kill() -> float:
        (listener,) = await crowd.rows(LISTENER)
        os.kill(listener["pid"], signal.SIGKILL)
        while True:
            with suppress(OSError, Exception):
                if await crowd.value("SELECT pg_postmaster_start_time() IS NOT NULL"):
                    return time.monotonic()

    await killed_again_and_again(crowd, kill)
    assert crowd.is_unbroken


@pytest.mark.fault(1)
async def test_the_server_is_killed(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    port = free_port()
    crowd = await gather(own_servers(own_postgres.dsn("rowcast"), port=port))
    await crowd.join()

    async def kill() -> float:
        crowd.server.process.kill()
        await asyncio.to_thread(crowd.server.process.wait)
        crowd.server = await asyncio.to_thread(own_servers, own_postgres.dsn("rowcast"), port=port)
        return time.monotonic()

    await killed_again_and_again(crowd, kill)


class Asking(threading.Thread):
    """Asks in all sessions, many times a second, until told to stop."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self.asked = 0
        self.stopping = threading.Event()
        self._crowd = crowd

    def run(self) -> None:
        with self._crowd.server.client(self._crowd.token) as client:
            while not self.stopping.wait(random.uniform(0, 0.05)):
                with suppress(httpx2.HTTPError):
                    path = f"/api/request/{random.choice(self._crowd.sessions)}"
                    self.asked += client.post(path, json={"request": "x", "handler": "nap"}).status_code == 201


@pytest.mark.fault(35)
async def test_the_worker_is_killed(
    own_postgres: EmbeddedPostgres,
    own_servers: Callable[..., Any],
    gather: Gather,
    start_worker: Callable[..., "subprocess.Popen[bytes]"],
    handlers: str,
) -> None:
    """What it ran ends as an error within its lease, everything else is answered by the next one."""
    settings = {"PYTHONPATH": handlers, "ROWCAST_LEASE_SECONDS": 2}
    dsn = own_postgres.dsn("rowcast")
    crowd = await gather(own_servers(dsn, ROWCAST_LEASE_SECONDS=2), requests=0)
    await crowd.join()

    async def ended(*, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while await crowd.value("SELECT count(*) FROM request WHERE status IN ('pending', 'in_progress')"):
                await asyncio.sleep(0.02)

    worker = start_worker(database_url=dsn, **settings)
    asking, took = Asking(crowd), []
    asking.start()
    try:
        for _ in range(KILLS):
            done = "SELECT count(*) FROM request WHERE status = 'done'"
            before = await crowd.value(done)
            async with asyncio.timeout(20):
                while await crowd.value(done) <= before:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(random.uniform(0, 0.7))
            worker.kill()
            await asyncio.to_thread(worker.wait)
            worker = start_worker(database_url=dsn, **settings)
    finally:
        asking.stopping.set()
        await asyncio.to_thread(asking.join)
    took.append(await crowd.converged(within=2))
    await ended()
    took.append(await crowd.converged(within=2))
    errors = await crowd.rows("SELECT error, count(*) FROM request WHERE status = 'error' GROUP BY error")
    assert {row["error"] for row in errors} <= {
        "It was a bad dream.", "The worker that ran this request was lost. Retry it."
    }  # fmt: skip
    assert await crowd.value("SELECT count(*) FROM request") == asking.asked
    assert crowd.is_unbroken
    print(f"\n{KILLS} kills: slowest {max(took):.2f} s; asked {asking.asked}, {errors}")

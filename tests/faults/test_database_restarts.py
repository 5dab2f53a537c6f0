"""PostgreSQL goes away and comes back: streams stay, and show what was committed."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import StartServer
from tests.faults.conftest import QUICK

from crowd import Gather, readiness, until_ready
from rowcast.postgres.embedded import EmbeddedPostgres, Mode

pytestmark = pytest.mark.anyio

LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'rowcast-listener' AND datname = current_database()"
)
RESTARTS = int(os.environ.get("RESTARTS", "20"))


@pytest.mark.fault(27)
@pytest.mark.parametrize(("mode", "source"), [("immediate", "notify"), ("fast", "notify"), ("immediate", "poll")])
async def test_a_restart_with_open_streams_loses_nothing(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, mode: Mode, source: str
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast"), ROWCAST_SOURCE=source))
    await crowd.join()
    async with crowd.written():
        await crowd.until(lambda: crowd.counts["committed"] > 20, "there is load")
        await asyncio.to_thread(own_postgres.stop, mode)
        await crowd.until_seen("degraded")
        status, said = await asyncio.to_thread(readiness, crowd.server)
        assert status == 503
        assert "database" in said
        await asyncio.to_thread(own_postgres.start)
        back = time.monotonic()
    took = await crowd.converged(within=2, since=back)
    await crowd.until_seen("synced", more_than=1)
    assert crowd.is_unbroken
    assert [client.counts["degraded"] for client in crowd.streams] == [1] * len(crowd.streams)
    assert await until_ready(crowd.server) < 2
    print(f"\nconverged {1000 * took:.0f} ms after the start; {dict(crowd.counts)}")


@pytest.mark.fault(28)
async def test_a_terminated_listener_is_back_and_what_was_committed_meanwhile_arrives(
    start_server: StartServer, gather: Gather
) -> None:
    crowd = await gather(start_server(**QUICK))
    await crowd.join()
    request = await crowd.request(crowd.sessions[0])
    slowest = 0.0
    for number in range(5):
        for _ in range(random.randrange(4)):  # committed just before, which the listener may or may not hear
            await crowd.update(request, f"before {random.random()}")
        (listener,) = await crowd.rows(LISTENERS)
        # Ended and changed in one statement's time: nobody listens when it is committed.
        await crowd.execute(f"SELECT pg_terminate_backend({listener['pid']}, 1000)")
        ended = time.monotonic()
        await crowd.update(request, f"during {number}")
        await asyncio.sleep(random.uniform(0, 0.1))
        await crowd.update(request, f"after {number}")
        slowest = max(slowest, await crowd.converged(within=2, since=ended))
        await crowd.until_seen("synced", more_than=number + 1)
    assert crowd.is_unbroken
    assert all(client.counts["degraded"] == 5 for client in crowd.streams)
    assert all(client.counts["snapshot"] == 1 for client in crowd.streams), "a gap is caught up with, not sent anew"
    print(f"\nslowest {1000 * slowest:.0f} ms after the listener was ended")


@pytest.mark.fault(28)
async def test_a_listener_that_is_terminated_at_random_under_load_loses_nothing(
    start_server: StartServer, gather: Gather
) -> None:
    crowd = await gather(start_server(**QUICK))
    await crowd.join()
    async with crowd.written(writers=4):
        for _ in range(8):
            await asyncio.sleep(random.uniform(0, 0.4))
            await crowd.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listeners")
        ended = time.monotonic()
    took = await crowd.converged(within=2, since=ended)
    assert crowd.is_unbroken
    assert crowd.counts["refused"] == 0
    print(f"\nconverged {1000 * took:.0f} ms after the last; {dict(crowd.counts)}")


@pytest.mark.fault(29)
async def test_without_a_database_clients_are_asked_to_come_back(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")), sessions=1)
    (session,) = crowd.sessions
    await asyncio.to_thread(own_postgres.stop, "immediate")

    def ask() -> None:
        with crowd.server.client(crowd.token) as client:
            for path in (f"/api/sse/{session}", f"/api/session/{session}/requests", f"/api/request/{session}/1"):
                answer = client.get(path)
                assert answer.status_code == 503, (path, answer.text)
                assert 1 <= int(answer.headers["Retry-After"]) <= 10
                assert answer.json()["error"] == "Temporarily unavailable"
            assert client.get("/livez").status_code == 200

    await asyncio.to_thread(ask)
    joining = asyncio.create_task(crowd.join())
    await crowd.until(
        lambda: crowd.streams and crowd.streams[0].counts["life ended with 503"] > 2, "the stream was refused"
    )
    await asyncio.to_thread(own_postgres.start)
    back = time.monotonic()
    await joining
    await crowd.update(await crowd.request(session), "after")
    await crowd.converged(within=2, since=back)


@pytest.mark.fault(59)
@pytest.mark.timeout(180)
async def test_a_database_that_restarts_again_and_again_under_load(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()
    modes: list[Mode] = ["immediate", "fast"]
    async with crowd.written(writers=3):
        for number in range(RESTARTS):
            await asyncio.sleep(random.choice([0, random.uniform(0, 0.3), random.uniform(0.5, 3.5)]))
            await asyncio.to_thread(own_postgres.stop, modes[number % 2])
            await asyncio.sleep(random.choice([0, random.uniform(0, 0.5)]))
            await asyncio.to_thread(own_postgres.start)
        back = time.monotonic()
    took = await crowd.converged(within=2, since=back)
    # Also where the database goes again while a stream reads anew what it forgot.
    assert crowd.is_unbroken
    print(f"\nconverged {1000 * took:.0f} ms after the last of {RESTARTS} starts; {dict(crowd.counts)}")

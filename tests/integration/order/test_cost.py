"""What a watcher costs: one LISTEN connection a process, and no read for what is delivered live."""

import asyncio
import re
import resource
from collections import Counter
from typing import Any

import asyncpg
import pytest

from follower import Follower
from rowcast import LatestByRow
from rowcast.postgres import postgres_hub
from rowcast.service.store import REQUESTS

pytestmark = pytest.mark.anyio

STREAMS, SESSIONS = 1000, 100


@pytest.fixture
def many_descriptors() -> Any:
    """Enough descriptors for both ends of all streams; the server inherits them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def metrics(place: Any) -> Counter[str]:
    with place.server.client() as client:
        text = client.get("/metrics").text
    return Counter({name: float(value) for name, value in re.findall(r"^(rowcast_\S+) (\S+)$", text, re.MULTILINE)})


async def test_a_thousand_streams_are_one_listener_and_an_update_reads_nothing(
    many_descriptors: None, open_place: Any
) -> None:
    place = await open_place(ROWCAST_HEARTBEAT_MS=60_000, ROWCAST_SWEEP_SECONDS=3600)
    sessions = [await place.session() for _ in range(SESSIONS)]
    requests = {session: await place.request(session) for session in sessions}
    followers = [place.follower(sessions[number % SESSIONS]) for number in range(STREAMS)]
    changed = sessions[7]
    version: dict[str, int] = {}
    synced = asyncio.Event()
    told = asyncio.Event()

    def look(follower: Follower) -> bool:
        if sum(follower.counts["synced"] for follower in followers) == STREAMS:
            synced.set()
        if version and follower.session == changed and follower.versions == version:
            readers = [follower for follower in followers if follower.session == changed]
            if all(reader.versions == version for reader in readers):
                told.set()
        return False

    tasks = [
        asyncio.create_task(follower.follow(until=lambda follower=follower: look(follower)))  # type: ignore[misc]
        for follower in followers
    ]
    async with asyncio.timeout(60):
        await synced.wait()

    listeners = await place.writer.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'rowcast-listener' AND datname = current_database()"
    )
    assert listeners == 1

    before = metrics(place)
    assert before["rowcast_streams"] == STREAMS
    async with place.writer.transaction():  # so that nobody can see it before we know what to look for
        version.update(
            await place.writer.fetch(
                "UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid"
                " RETURNING request_id::text, rowcast_version",
                requests[changed],
            )
        )
    async with asyncio.timeout(20):
        await told.wait()
    after = metrics(place)
    assert after["rowcast_frames_total"] - before["rowcast_frames_total"] == STREAMS / SESSIONS
    for name in after:
        if name.startswith("rowcast_read"):
            assert after[name] == before[name], f"{name} changed"
    assert after['rowcast_notifications_total{outcome="delivered"}'] == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_only_the_readers_of_the_session_are_woken(service_database: str) -> None:
    writer = await asyncpg.connect(service_database)
    sessions = [
        str(await writer.fetchval("INSERT INTO session (user_owner) VALUES ('guest|a') RETURNING session_id"))
        for _ in range(50)
    ]
    async with postgres_hub(service_database, REQUESTS) as hub:
        while not hub.is_live:
            await asyncio.sleep(0.01)
        woken = {session: asyncio.Event() for session in sessions}
        subscriptions = [hub.subscribe(session, woken[session].set) for session in sessions for _ in range(3)]
        for subscription in subscriptions:
            subscription.finish_join(LatestByRow())
        for rows in (1, 20):
            before = hub.statistics()["wakes"]
            await writer.execute(
                "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, $2)",
                sessions[3],
                rows,
            )
            async with asyncio.timeout(10):
                await woken[sessions[3]].wait()
            assert hub.statistics()["wakes"] - before == 3
            woken[sessions[3]].clear()
        assert not any(event.is_set() for event in woken.values())
        for subscription in subscriptions:
            hub.unsubscribe(subscription)
    await writer.close()

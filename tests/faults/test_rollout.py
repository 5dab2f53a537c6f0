"""Streams are switched off, or taken from some users, while they are open: everybody is served on, by polling."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.conftest import wait_until

from crowd import RawStream, raise_descriptor_limit
from rowcast import bucket_of
from rowcast.postgres import connect
from rowcast.service.rollout import change_rollout
from rowcast.service.settings import Settings
from watching import OWNER, Table, Watcher, becomes, converges, following, settles, table_of, token_of
from wire import metric

pytestmark = pytest.mark.anyio

RAW, FOLLOWING = 450, 50
MANY = {"ROWCAST_STREAMS_PER_OWNER": 2000, "ROWCAST_DRAIN_SECONDS": 2}


async def set_rollout(server: Any, share: str, salt: str | None = None) -> None:
    await change_rollout(Settings(database_url=server.database_url), share, salt=salt)


def reads(server: Any) -> float:
    """How many times the database was read for clients so far."""
    return metric(server, "rowcast_read_seconds_count")


@pytest.mark.fault(48)
@pytest.mark.timeout(180)
async def test_the_kill_switch_sends_everybody_to_polling(start_server: Any) -> None:
    raise_descriptor_limit()
    server = start_server(**MANY)
    token = token_of(server)
    async with table_of(server.database_url) as table, AsyncExitStack() as stack:
        keys = [await table.add() for _ in range(3)]
        headers = {"Authorization": f"Bearer {token}"}
        streams = [RawStream(server.url, f"/api/sse/{table.session}?proto=1", headers) for _ in range(RAW)]
        tasks = [asyncio.create_task(stream.follow()) for stream in streams]
        watchers = [
            await stack.enter_async_context(following(server.url, table.session, token)) for _ in range(FOLLOWING)
        ]
        await becomes(lambda: all(stream.is_live for stream in streams), what="all streams are live", within=60)
        for watcher in watchers:
            await settles(watcher, "live")

        writing = asyncio.create_task(table.write(100, *keys))
        await set_rollout(server, "0")
        await asyncio.gather(*tasks)
        for stream in streams:
            (goodbye,) = stream.told("goodbye")
            assert stream.ended == "whole"
            assert (goodbye["reason"], goodbye["transport"]) == ("switched_off", "poll")
            assert 0 < goodbye["retry_ms"] <= 2000
        assert len({stream.told("goodbye")[0]["retry_ms"] for stream in streams}) > RAW / 4, (
            "each comes at its own time"
        )
        for watcher in watchers:
            await settles(watcher, "polling")
        await writing
        for watcher in watchers:
            await converges(watcher, table)
        await quiet_polls_read_nothing(server, table, watchers)


async def quiet_polls_read_nothing(server: Any, table: Table, watchers: list[Watcher]) -> None:
    """Held polls cost one read a change and client at most, and none while nothing changes."""
    key = await table.add()
    for watcher in watchers:
        await converges(watcher, table)
    before = reads(server)
    for number in range(3):
        await table.write(1, key)
        for watcher in watchers:
            await converges(watcher, table)
        assert reads(server) - before <= (number + 1) * len(watchers)


@pytest.mark.fault(48)
async def test_a_share_that_is_narrowed_takes_streams_from_those_outside_only(start_server: Any) -> None:
    server = start_server(workers=2, **MANY)
    salt = next(salt for salt in map(str, range(100)) if 0.1 < bucket_of(OWNER, salt) / 10_000 < 0.9)
    inside = bucket_of(OWNER, salt) / 100 + 1
    token = token_of(server)
    async with table_of(server.database_url) as table, AsyncExitStack() as stack:
        await table.add()
        watchers = [await stack.enter_async_context(following(server.url, table.session, token)) for _ in range(6)]
        for watcher in watchers:
            await settles(watcher, "live")
        await set_rollout(server, f"{inside:.2f}", salt)
        await becomes(lambda: server.log.count("the roll-out changed") == 2, what="both processes know of it")
        assert all(watcher.live.reconnects == 0 for watcher in watchers)
        await set_rollout(server, f"{inside - 2:.2f}")
        for watcher in watchers:
            await settles(watcher, "polling")
        await table.add()
        for watcher in watchers:
            await converges(watcher, table)


async def test_a_server_that_is_newer_than_its_database_serves_streams(start_server: Any) -> None:
    """In the middle of a deployment the table may be gone, or not be there yet."""
    server = start_server()
    token = token_of(server)
    connection = await connect(server.database_url, application_name="test")
    try:
        await connection.execute("ALTER TABLE rollout RENAME TO rollout_of_later")
        wait_until(lambda: "the roll-out cannot be looked at" in server.log, what="it is said")
        async with table_of(server.database_url) as table, following(server.url, table.session, token) as watcher:
            await settles(watcher, "live")
        assert server.log.count("the roll-out cannot be looked at") == 1
    finally:
        await connection.execute("ALTER TABLE rollout_of_later RENAME TO rollout")
        await connection.close()

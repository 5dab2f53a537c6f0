"""Thousands who come back at once: spread by their own delays, and served in the end where nothing spreads them."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.conftest import StartServer

from crowd import Crowd, Gather, RawStream, raise_descriptor_limit
from rowcast.following.policy import Ended, Policy, Why
from wire import metric

pytestmark = [pytest.mark.anyio, pytest.mark.fault(50), pytest.mark.timeout(300)]

CLIENTS, CROWD = 2000, 5000
SESSIONS = 50
WINDOW_SECONDS = 0.1
AWAY_SECONDS = 2
"""How long the server that was killed is not started again."""

POOLS = {"rowcast-reader": 4, "rowcast-service": 8, "rowcast-listener": 1}
READS = "rowcast_read_seconds_count"
SETTINGS: dict[str, Any] = {
    "ROWCAST_STREAMS_PER_OWNER": 2 * CROWD,
    "ROWCAST_STREAMS_PER_PROCESS": 2 * CROWD,
    "ROWCAST_SWEEP_SECONDS": 3600,
    "ROWCAST_HEARTBEAT_MS": 30_000,
}


class Client:
    """A client over a raw socket whose decisions are those of the Python client: its own policy says when to return.

    `chose` is when it chose to ask for the stream that it has now; a loop that lags, since it has thousands of clients
    to run, may come to it later. `was_refused` says that a server without a database sent it away meanwhile.
    """

    def __init__(self, stream: RawStream) -> None:
        self.stream = stream
        self.chose = 0.0
        self.was_refused = False
        self._policy = Policy("auto")

    async def run(self) -> None:
        while True:
            await self.stream.follow()
            ended = self._ended()
            self.was_refused |= ended.why is Why.BUSY
            if not self._policy.streams:
                self._policy.probed(None if self.stream.live_at else ended)
            wait_seconds = self._policy.note(ended)
            if not self._policy.streams:  # it polls meanwhile, and looks for a stream as often as this
                wait_seconds = self._policy.seconds_to_probe()
            self.chose = time.monotonic() + wait_seconds
            await asyncio.sleep(wait_seconds)

    def _ended(self) -> Ended:
        stream, now = self.stream, time.monotonic()
        if stream.status == 503:
            return Ended(why=Why.BUSY, reason="503", floor_seconds=stream.retry_after)
        if stream.ended == "refused":
            return Ended(why=Why.UNREACHABLE, reason="refused")
        if not stream.live_at:
            return Ended(why=Why.FAILED, reason="cut before it began")
        lived = now - stream.live_at
        return Ended(why=Why.BROKEN, reason="cut", lived_seconds=lived, synced_seconds=lived)


@asynccontextmanager
async def running(tasks: "list[asyncio.Task[Any]]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def rates(instants: list[float]) -> tuple[float, float]:
    """The highest number within any window, and how many a window there are on average, as long as they come.

    The last hundredth does not count for that: a few that are late make a herd smaller, not thinner.
    """
    ordered, first, most = sorted(instants), 0, 0
    for last, instant in enumerate(ordered):
        while instant - ordered[first] > WINDOW_SECONDS:
            first += 1
        most = max(most, last - first + 1)
    number = len(ordered) * 99 // 100
    return most, number / max(1.0, (ordered[number - 1] - ordered[0]) / WINDOW_SECONDS)


def streams_of(crowd: Crowd, number: int) -> list[RawStream]:
    headers = {"Authorization": f"Bearer {crowd.token}"}
    sessions = crowd.sessions
    return [
        RawStream(crowd.server.url, f"/api/sse/{sessions[turn % len(sessions)]}?proto=1", headers)
        for turn in range(number)
    ]


async def all_have(crowd: Crowd, streams: list[RawStream]) -> None:
    """Wait until every stream was told what the table holds, by snapshot or since."""
    truth = await crowd.truth()
    stored = {session: {key: row["version"] for key, row in rows.items()} for session, rows in truth.items()}

    def known(stream: RawStream) -> dict[str, int]:
        rows = [row for part in stream.told("snapshot") for row in part["requests"]] + stream.told("request_update")
        return {row["request_id"]: row["version"] for row in sorted(rows, key=lambda row: int(row["version"]))}

    def has_all(stream: RawStream) -> bool:
        session = stream.path.removeprefix("/api/sse/").partition("?")[0]
        return known(stream) == stored[session]

    waiting = list(streams)
    deadline = time.monotonic() + 30
    while waiting := [stream for stream in waiting if not has_all(stream)]:
        assert time.monotonic() < deadline, f"{len(waiting)} were not told: {waiting[0].events}"
        await asyncio.sleep(0.1)


async def test_two_thousand_that_are_cut_at_once_come_back_spread(start_server: StartServer, gather: Gather) -> None:
    raise_descriptor_limit()
    server = await asyncio.to_thread(lambda: start_server(**SETTINGS))
    crowd = await gather(server, sessions=SESSIONS, requests=1)
    clients = [Client(stream) for stream in streams_of(crowd, CLIENTS)]
    streams = [client.stream for client in clients]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    async with running(tasks):
        await crowd.until(lambda: all(stream.is_live for stream in streams), "all are live", seconds=60)
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        cut_at = time.monotonic()
        await asyncio.sleep(AWAY_SECONDS)
        crowd.server = await asyncio.to_thread(
            lambda: start_server(port=int(server.url.rpartition(":")[2]), **SETTINGS)
        )
        back_seconds = time.monotonic() - cut_at
        await crowd.until(lambda: any(stream.live_at > cut_at for stream in streams), "somebody is back", seconds=60)
        await crowd.execute("UPDATE request SET response = 'in the middle of it'")
        await crowd.until(lambda: all(stream.live_at > cut_at for stream in streams), "all are back", seconds=120)
        await all_have(crowd, streams)
    in_order = [client.chose - cut_at for client in clients if not client.was_refused]
    most, mean = rates(in_order)
    print(
        f"\nready {back_seconds:.2f} s after the cut; {len(in_order)} came back after {min(in_order):.2f} to"
        f" {max(in_order):.2f} s, at most {most} in {WINDOW_SECONDS} s, {mean:.0f} on average;"
        f" {CLIENTS - len(in_order)} were sent away for a while"
    )
    assert len(in_order) > CLIENTS / 2
    assert most <= 3 * mean


def test_where_another_server_takes_over_at_once_the_first_wave_is_spread() -> None:
    """Nobody is refused then: what spreads them is the first delay alone."""
    cut = Ended(why=Why.BROKEN, reason="cut", lived_seconds=60, synced_seconds=60)
    delays = [Policy("auto").note(cut) for _ in range(CLIENTS)]
    most, mean = rates(delays)
    assert len(set(delays)) > CLIENTS * 0.99
    assert most <= 3 * mean
    assert max(delays) - min(delays) > 0.4


async def until_live(stream: RawStream, refusals: "Counter[int]") -> None:
    """Come back at once, or when a refusal says so, and stay."""
    while True:
        await stream.follow()
        assert stream.status in (200, 503, 0), stream.status
        assert stream.status != 503 or 1 <= stream.retry_after <= 10
        refusals[stream.status] += 1
        await asyncio.sleep(stream.retry_after or 0.5)


async def most_connections(crowd: Crowd, most: "Counter[str]") -> None:
    """Count the connections of each pool again and again."""
    connection = await asyncpg.connect(crowd.dsn)
    try:
        while True:
            rows = await connection.fetch(
                "SELECT application_name AS name, count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'rowcast-%' GROUP BY 1"
            )
            for row in rows:
                most[row["name"]] = max(most[row["name"]], row["count"])
            await asyncio.sleep(0.02)
    finally:
        connection.terminate()


async def test_five_thousand_at_once_are_all_served_with_no_more_reads_than_there_are_readers(
    start_server: StartServer, gather: Gather
) -> None:
    """Nothing spreads them: first everybody comes with nothing, then everybody comes back from a cursor."""
    number = min(CROWD, raise_descriptor_limit() - 500)
    server = await asyncio.to_thread(lambda: start_server(**SETTINGS))
    crowd = await gather(server, sessions=SESSIONS, requests=3)
    streams = streams_of(crowd, number)
    most: Counter[str] = Counter()
    async with running([asyncio.create_task(most_connections(crowd, most))]):
        for mode in ("snapshot", "resume"):
            reads, refusals = await asyncio.to_thread(metric, server, READS), Counter[int]()
            began = time.monotonic()
            for stream in streams:
                stream.live_at = 0.0
            tasks = [asyncio.create_task(until_live(stream, refusals)) for stream in streams]
            async with running(tasks):
                await crowd.until(
                    lambda: sum(stream.is_live for stream in streams) > number / 4, "a quarter", seconds=60
                )
                await crowd.execute("UPDATE request SET response = $1", f"in the middle of {mode}")
                is_middle = not all(stream.is_live for stream in streams)
                await crowd.until(lambda: all(stream.is_live for stream in streams), "all are served", seconds=120)
                took = time.monotonic() - began
                await all_have(crowd, streams)
                done = await asyncio.to_thread(metric, server, READS) - reads
                print(
                    f"\n{mode}: {number} streams live after {took:.1f} s, {done:.0f} reads, refused {dict(refusals)}, "
                    f"connections {dict(most)}; updated in the middle: {is_middle}"
                )
                assert {stream.told("connected")[0]["mode"] for stream in streams} == {mode}
                assert done <= number + sum(refusals.values())
                assert all(most[name] <= POOLS[name] for name in most), most
                assert await asyncio.to_thread(metric, server, "rowcast_streams") == number
    assert "Traceback" not in server.log
    assert '"level": "error"' not in server.log

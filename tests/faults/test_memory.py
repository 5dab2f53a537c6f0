"""What a server holds on to: next to nothing for a reader who does not read, and nothing for one who has left."""

import asyncio
import os
import re
import resource
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from crowd import Crowd, Gather
from follower import Chunks, Follower

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

UPDATES = int(os.environ.get("UPDATES", "100000"))
"""How many updates a reader who does not read is spared; 1,000,000 take some minutes."""

ROWS = 500
MIB = 1 << 20
LASTING: dict[str, Any] = {
    "ROWCAST_HEARTBEAT_MS": 60_000,
    "ROWCAST_STREAMS_PER_OWNER": 5000,
    "ROWCAST_WRITE_TIMEOUT_SECONDS": 3600,
}


class Process:
    """What the operating system says of a server."""

    def __init__(self, server: Any) -> None:
        self._directory = Path("/proc", str(server.process.pid))
        self._server = server

    @property
    def resident_bytes(self) -> int:
        match = re.search(r"^VmRSS:\s+(\d+) kB$", (self._directory / "status").read_text(), re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    @property
    def threads(self) -> int:
        return sum(1 for _ in (self._directory / "task").iterdir())

    @property
    def sockets(self) -> int:
        links = []
        for descriptor in (self._directory / "fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(descriptor.readlink()))
        return sum(link.startswith("socket:") for link in links)

    def metric(self, name: str) -> float:
        with self._server.client() as client:
            match = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    @contextmanager
    def watched(self) -> Iterator[list[int]]:
        """Note the resident memory all through the block."""
        seen, over = [self.resident_bytes], threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                seen.append(self.resident_bytes)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
            seen.append(self.resident_bytes)


class Sleeper(Follower):
    """A client with a small window that reads nothing between `fall_asleep` and `wake_up`."""

    def fall_asleep(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((self.host, self.port))
        head = f"GET /api/sse/{self.session}?proto=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n\r\n"
        self._socket.sendall(head.encode())

    def wake_up(self, *, until: Callable[[], bool]) -> None:
        """Read what has been waiting, and what follows, until the client shows what it should."""
        self._socket.settimeout(20)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65536)
        chunks, unparsed = Chunks(), b""
        data = data.partition(b"\r\n\r\n")[2]
        while True:
            *frames, unparsed = (unparsed + chunks.feed(data)).split(b"\n\n")
            for frame in frames:
                self._take(frame.decode())
            if until():
                break
            data = self._socket.recv(65536)
            assert data, "the stream has ended"
        self._socket.close()


async def settled(is_true: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for a fact that the end of streams brings about."""
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


# -- a reader who does not read --


async def update_all(crowd: Crowd, session: str, times: int) -> None:
    """Change every row of a session so many times, one commit each time."""
    await crowd.execute(
        f"""DO $$ BEGIN FOR i IN 1..{times} LOOP
            UPDATE request SET response = md5(random()::text) WHERE session_id = '{session}'; COMMIT;
        END LOOP; END $$"""
    )


async def median_delay(crowd: Crowd, session: str, times: int = 100) -> float:
    """How long it takes, in seconds, from a change of one row until every stream has been told."""
    (request, *_) = (await crowd.truth())[session]
    connection = await asyncpg.connect(crowd.dsn)
    delays = []
    try:
        for _ in range(times):
            wanted = [client.counts["request_update"] + 1 for client in crowd.streams]
            began = time.monotonic()
            await connection.execute(
                "UPDATE request SET response = md5(random()::text) WHERE request_id = $1::text::uuid", request
            )
            async with asyncio.timeout(20):
                while any(
                    client.counts["request_update"] < count for client, count in zip(crowd.streams, wanted, strict=True)
                ):
                    await asyncio.sleep(0)
            delays.append(time.monotonic() - began)
    finally:
        await connection.close()
    return statistics.median(delays)


@pytest.mark.fault(10)
@pytest.mark.timeout(1800)
async def test_a_reader_who_does_not_read_costs_no_memory(start_server: Callable[..., Any], gather: Gather) -> None:
    """Nor does it cost the others of its session anything; and when it reads after all, it is told the newest state."""
    server = await asyncio.to_thread(start_server, **LASTING)
    crowd, process = await gather(server, sessions=1, requests=0), Process(server)
    session = crowd.sessions[0]
    await crowd.execute(
        "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, $2)",
        session,
        ROWS,
    )
    await crowd.join(streams=2, polls=0)
    alone = await median_delay(crowd, session)
    sleeper = Sleeper(server.url, crowd.token, session)
    sleeper.fall_asleep()
    await crowd.until(lambda: process.metric("rowcast_streams") == 3, "the sleeper is connected")
    await update_all(crowd, session, 50)
    await crowd.converged(within=20)

    told = [client.counts["request_update"] for client in crowd.streams]
    rounds = 10
    with process.watched() as seen:
        began = time.monotonic()
        for _ in range(rounds):
            await update_all(crowd, session, UPDATES // ROWS // rounds)
            await crowd.converged(within=20)
            now = [client.counts["request_update"] + client.counts["snapshot"] for client in crowd.streams]
            assert all(later > earlier for earlier, later in zip(told, now, strict=True)), "others are told meanwhile"
            told = now
        took = time.monotonic() - began
    growth, peak = seen[-1] - seen[0], max(seen) - seen[0]
    print(
        f"\n{UPDATES} updates in {took:.0f} s: {growth / MIB:+.2f} MiB, at most {peak / MIB:+.2f} MiB"
        f" over {seen[0] / MIB:.1f} MiB"
    )
    beside = await median_delay(crowd, session)
    print(f"told after {1000 * beside:.2f} ms beside the sleeper, {1000 * alone:.2f} ms without: {beside / alone:.2f}")
    assert process.metric("rowcast_streams") == 3
    assert beside < 10 * alone, "who reads is told as soon as ever"
    assert growth < 5 * MIB
    assert peak < 20 * MIB

    stored = (await crowd.truth())[session]
    versions = {key: row["version"] for key, row in stored.items()}
    await asyncio.to_thread(sleeper.wake_up, until=lambda: sleeper.versions == versions)
    assert sleeper.counts["stale"] == 0
    assert sleeper.counts["request_update"] < UPDATES / 10


# -- readers who leave --


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Enough descriptors for both ends of all streams; a server that is started now inherits them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def come_and_go(crowd: Crowd, clients: int) -> None:
    """Have clients come, each to one of the sessions; some leave in mid-frame, some when they are live."""

    async def visit(number: int) -> None:
        client = Follower(crowd.server.url, crowd.token, crowd.sessions[number % len(crowd.sessions)])
        if number % 3 == 0:
            await client.follow(cut_after=number % 1500 + 1)
        else:
            await client.follow(until=lambda: client.counts["synced"] > 0)
            assert client.status == 200

    for start in range(0, clients, 50):
        await asyncio.gather(*(visit(number) for number in range(start, min(start + 50, clients))))


async def test_a_thousand_readers_who_left_have_left_nothing(start_server: Callable[..., Any], gather: Gather) -> None:
    with many_descriptors():
        server = await asyncio.to_thread(start_server, **LASTING)
    crowd, process = await gather(server, sessions=20, requests=10), Process(server)

    async def wave() -> tuple[int, int, int]:
        """Return bytes, sockets and threads when everybody has left."""
        changing = asyncio.create_task(crowd.execute("UPDATE request SET response = md5(random()::text)"))
        await come_and_go(crowd, 250)
        await changing
        await settled(lambda: process.metric("rowcast_streams") == 0, lambda: process.metric("rowcast_streams"))
        return process.resident_bytes, process.sockets, process.threads

    for _ in range(2):
        before = await wave()  # what is kept for good is kept now: pools, caches, what the allocator has set aside
    for _ in range(4):
        after = await wave()
    print(f"\n1000 came and went: {before} became {after}")
    assert after[0] - before[0] < 4 * MIB
    # The reader's pool has up to four connections, and the service's own up to eight, as they were wanted last.
    await settled(lambda: process.sockets <= before[1] + 10, lambda: f"{before[1]} sockets became {process.sockets}")
    assert after[2] <= before[2] + 2


@asynccontextmanager
async def idle_streams(crowd: Crowd, count: int) -> AsyncIterator[None]:
    """Keep so many streams open; the clients hold no more than their sockets."""
    host, _, port = crowd.server.url.removeprefix("http://").partition(":")
    writers: list[asyncio.StreamWriter] = []

    async def open_one(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        path = f"/api/sse/{crowd.sessions[number % len(crowd.sessions)]}?proto=1"
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {crowd.token}\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(20):
            await reader.readuntil(b"event: synced")

    try:
        for start in range(0, count, 50):
            await asyncio.gather(*(open_one(number) for number in range(start, min(start + 50, count))))
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


async def test_an_idle_stream_costs_little(start_server: Callable[..., Any], gather: Gather) -> None:
    streams = 2000
    with many_descriptors():
        server = await asyncio.to_thread(start_server, **LASTING)
        crowd, process = await gather(server, sessions=200, requests=2), Process(server)
        async with idle_streams(crowd, 200):
            pass
        await settled(lambda: process.metric("rowcast_streams") == 0, lambda: process.metric("rowcast_streams"))
        before = process.resident_bytes
        async with idle_streams(crowd, streams):
            assert process.metric("rowcast_streams") == streams
            cost = (process.resident_bytes - before) / streams
    print(f"\n{cost / 1024:.1f} KiB for each of {streams} idle streams")
    assert cost < 40 * 1024


# -- rows that change, come and go --


async def come_and_vanish(crowd: Crowd, session: str, times: int) -> None:
    """Add 500 rows to a session and delete them again, so many times."""
    await crowd.execute(
        f"""DO $$ BEGIN FOR i IN 1..{times} LOOP
            INSERT INTO request (session_id, request) SELECT '{session}', 'passing' FROM generate_series(1, 500);
            COMMIT;
            DELETE FROM request WHERE session_id = '{session}' AND request = 'passing';
            COMMIT;
        END LOOP; END $$"""
    )


async def test_rows_that_have_gone_are_forgotten_some_day(start_server: Callable[..., Any], gather: Gather) -> None:
    """Else a session in which rows come and go would cost ever more, for as long as somebody watches it."""
    server = await asyncio.to_thread(start_server, **LASTING)
    crowd, process = await gather(server, sessions=1, requests=3), Process(server)
    await crowd.join(streams=2, polls=0)
    for client in crowd.streams:
        client.is_noting = True

    async def pass_by(times: int) -> None:
        for _ in range(times // 10):
            await come_and_vanish(crowd, crowd.sessions[0], 10)
            await crowd.converged(within=20)
            for client in crowd.streams:
                reasons.update(data["reason"] for name, data in client.seen if name == "resync")
                client.seen.clear()

    reasons: set[str] = set()
    await pass_by(30)
    assert "truncated" in reasons, "they have never started over"
    with process.watched() as sizes:
        await pass_by(60)
    print(f"\n30,000 rows came and went: {(sizes[-1] - sizes[0]) / MIB:+.2f} MiB over {sizes[0] / MIB:.1f} MiB")
    assert sizes[-1] - sizes[0] < 5 * MIB
    assert crowd.is_unbroken


@pytest.mark.fault(61)
async def test_ten_thousand_rows_that_change_at_once_leave_nothing(
    start_server: Callable[..., Any], gather: Gather
) -> None:
    server = await asyncio.to_thread(start_server, **LASTING)
    crowd, process = await gather(server, sessions=3, requests=0), Process(server)
    for session in crowd.sessions:
        await crowd.execute(
            "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, 3334)",
            session,
        )
    await crowd.join(streams=2, polls=0)

    async def change_all(times: int) -> None:
        for _ in range(times):
            await crowd.execute("UPDATE request SET response = md5(random()::text)")
            await crowd.converged(within=20)

    await change_all(3)
    with process.watched() as sizes:
        await change_all(5)
    print(
        f"\n50,000 changes: {(sizes[-1] - sizes[0]) / MIB:+.2f} MiB, at most {(max(sizes) - sizes[0]) / MIB:+.2f} MiB"
    )
    assert sizes[-1] - sizes[0] < 5 * MIB
    assert max(sizes) - sizes[0] < 40 * MIB
    assert crowd.is_unbroken

"""More connections than there are descriptors: those who are in notice nothing, others are told, and it passes."""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.conftest import Server, StartServer
from tests.faults.conftest import QUICK

from crowd import Crowd, Gather, RawStream, raise_descriptor_limit

pytestmark = [pytest.mark.anyio, pytest.mark.fault(51)]

DESCRIPTORS = 256
MOST_STREAMS = DESCRIPTORS * 4 // 5
HELD_SECONDS = 3
"""How long there is no descriptor left; the loops of asyncio try again after one."""


@contextmanager
def descriptor_limit(number: int) -> Iterator[None]:
    """What is started in the block may open so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(server: Server) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


class Streams:
    """Streams of one crowd that are opened and closed many at a time."""

    def __init__(self, crowd: Crowd) -> None:
        self.open: dict[RawStream, asyncio.Task[str]] = {}
        self._crowd = crowd

    async def ask(self, number: int) -> list[RawStream]:
        """Ask for so many more at once; return those that were refused, when it is known of each."""
        headers = {"Authorization": f"Bearer {self._crowd.token}"}
        path = f"/api/sse/{self._crowd.sessions[0]}?proto=1"
        asked = [RawStream(self._crowd.server.url, path, headers) for _ in range(number)]
        self.open |= {stream: asyncio.create_task(stream.follow()) for stream in asked}
        await self._crowd.until(lambda: all(stream.is_live or stream.ended for stream in asked), "all are answered")
        refused = [stream for stream in asked if stream.ended]
        for stream in refused:
            await self.open.pop(stream)
        return refused

    async def leave(self, number: int) -> None:
        leaving = [self.open.pop(stream) for stream in list(self.open)[:number]]
        for task in leaving:
            task.cancel()
        if leaving:
            await asyncio.wait(leaving)

    def have(self, request: str, version: int) -> bool:
        """Whether every stream was told of a version."""
        return all(
            any(row["request_id"] == request and row["version"] == version for row in stream.told("request_update"))
            for stream in self.open
        )


@asynccontextmanager
async def idle_connections(server: Server, number: int) -> AsyncIterator[None]:
    """Connections that say nothing, more than the server has descriptors for."""
    host, port = server.url.removeprefix("http://").split(":")
    opened = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(number)))
    try:
        yield
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def changed(crowd: Crowd, streams: Streams, request: str, text: str) -> None:
    """Change a row, and see that every open stream is told."""
    await crowd.update(request, text)
    query = "SELECT rowcast_version FROM request WHERE request_id = $1::text::uuid"
    version = await crowd.value(query, request)
    await crowd.until(lambda: streams.have(request, version), "every stream is told")


@pytest.fixture
def few_descriptors(start_server: StartServer) -> Callable[[], Server]:
    def start() -> Server:
        with descriptor_limit(DESCRIPTORS):
            return start_server(**QUICK)

    return start


async def test_streams_beyond_the_cap_are_refused_and_all_else_goes_on(
    few_descriptors: Callable[[], Server], gather: Gather
) -> None:
    raise_descriptor_limit()
    server = await asyncio.to_thread(few_descriptors)
    crowd = await gather(server, sessions=1, requests=1)
    (request,) = (await crowd.truth())[crowd.sessions[0]]
    streams = Streams(crowd)

    # More than there may be: so many are let in, the others are told to come back.
    refused = await streams.ask(MOST_STREAMS + 26)
    assert len(streams.open) == MOST_STREAMS
    assert {stream.status for stream in refused} == {503}
    assert {1 <= stream.retry_after <= 10 for stream in refused} == {True}
    await changed(crowd, streams, request, "full")
    await streams.leave(MOST_STREAMS)
    await crowd.until(lambda: descriptors(server) < DESCRIPTORS // 4, "the descriptors are free again")
    before = descriptors(server)

    # More than there can be: nobody new gets in at all.
    await streams.ask(MOST_STREAMS)
    assert len(streams.open) == MOST_STREAMS
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as known:
        assert (await known.get("/readyz")).status_code == 200
        async with idle_connections(server, DESCRIPTORS):
            await crowd.until(lambda: descriptors(server) >= DESCRIPTORS - 2, "there is no descriptor left")
            log = server.log
            for turn in range(HELD_SECONDS):
                await changed(crowd, streams, request, f"exhausted {turn}")
                await asyncio.sleep(1)
                assert (await known.get("/readyz")).status_code == 200
            said = server.log.removeprefix(log)
            print(
                f"\nwithout a descriptor for {HELD_SECONDS} s it logged {len(said.splitlines())} lines: {said[:2000]}"
            )
            assert len(said.splitlines()) <= 2 * HELD_SECONDS
            assert all(stream.is_live for stream in streams.open)

    # It passes: the cap still holds, and for each that leaves another is let in.
    await crowd.until(lambda: descriptors(server) < DESCRIPTORS - 20, "the server lets go of those who said nothing")
    assert {stream.status for stream in await streams.ask(5)} == {503}
    await streams.leave(50)
    await crowd.until(lambda: descriptors(server) <= before + MOST_STREAMS - 50, "the server lets go of those who left")
    assert await streams.ask(50) == []
    await changed(crowd, streams, request, "again")
    assert all(Counter(name for name, _ in stream.events)["connected"] == 1 for stream in streams.open)
    await streams.leave(MOST_STREAMS)
    await crowd.until(lambda: descriptors(server) <= before, "no descriptor has leaked")
    assert server.process.poll() is None
    assert "Traceback" not in server.log

"""The proxy does what it says, or the tests that stand on it show nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.faults.toxic import Toxic, toxic

pytestmark = pytest.mark.anyio


class Peer:
    """A server that keeps what it hears, and says what it is told to."""

    def __init__(self) -> None:
        self.heard = b""
        self.is_over = asyncio.Event()
        self.writer: Any = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while data := await reader.read(65536):
                self.heard += data
        except ConnectionResetError:
            self.heard += b"RST"
        self.is_over.set()
        writer.close()


@asynccontextmanager
async def linked(**how: Any) -> AsyncIterator[tuple[Toxic, Peer, asyncio.StreamReader, asyncio.StreamWriter]]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, toxic(address, **how) as proxy, connected(proxy) as (reader, writer):
        yield proxy, peer, reader, writer


@asynccontextmanager
async def connected(proxy: Toxic) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchanged(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a word each way."""
    heard = len(peer.heard)
    writer.write(b"hello")
    async with asyncio.timeout(10):
        while peer.heard[heard:] != b"hello":
            await asyncio.sleep(0.005)
        peer.writer.write(b"world")
        assert await reader.readexactly(5) == b"world"


async def silent(reader: asyncio.StreamReader, seconds: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), seconds)


async def test_it_carries_bytes_both_ways_and_counts() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        big = bytes(range(256)) * 8192
        peer.writer.write(big)
        assert await reader.readexactly(len(big)) == big
        assert (proxy.connections, proxy.open, proxy.bytes) == (1, 1, {"up": 5, "down": 5 + len(big)})
        writer.close()
        await asyncio.wait_for(peer.is_over.wait(), 5)
        assert peer.heard == b"hello"


async def test_delay_is_for_each_way() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set(delay_ms=150)
        began = time.monotonic()
        await exchanged(peer, reader, writer)
        assert 0.3 <= time.monotonic() - began < 1
        proxy.set("up", delay_ms=0)
        began = time.monotonic()
        await exchanged(peer, reader, writer)
        assert 0.15 <= time.monotonic() - began < 0.3


async def test_delay_does_not_slow_what_follows() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set(delay_ms=200)
        began = time.monotonic()
        for number in range(10):
            peer.writer.write(b"%d" % number)
            await asyncio.sleep(0.01)
        assert await reader.readexactly(10) == b"0123456789"
        assert time.monotonic() - began < 0.6


async def test_a_slow_link_slows_the_sender_down() -> None:
    async with linked(receive_buffer=4096) as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set("down", bytes_per_second=2000)
        peer.writer.write(bytes(1000))
        began = time.monotonic()
        await reader.readexactly(1000)
        assert 0.4 < time.monotonic() - began < 1.5
        peer.writer.write(bytes(8_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.writer.drain(), 0.5)


async def test_what_is_stalled_is_kept_and_comes_later() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set("down", stall=True)
        peer.writer.write(b"late")
        await silent(reader)
        peer.heard = b""
        writer.write(b"the other way works")
        async with asyncio.timeout(5):
            while peer.heard != b"the other way works":
                await asyncio.sleep(0.005)
        peer.writer.close()
        await silent(reader)
        assert proxy.open == 1
        proxy.clear()
        assert await reader.read() == b"late"


async def test_it_cuts_after_so_many_bytes() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set("down", cut_after=3)
        peer.writer.write(b"abcdef")
        assert await reader.read() == b"abc"
        await asyncio.wait_for(peer.is_over.wait(), 5)
        assert proxy.bytes["down"] == 8


@pytest.mark.parametrize("by_count", [True, False])
async def test_it_resets_both_sides(by_count: bool) -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        if by_count:
            proxy.set("down", reset_after=2)
            peer.writer.write(b"abcdef")
        else:
            proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await asyncio.wait_for(peer.is_over.wait(), 5)
        assert peer.heard == b"helloRST"


async def test_a_client_that_resets_is_passed_on() -> None:
    async with linked() as (_, peer, reader, writer):
        await exchanged(peer, reader, writer)
        writer.transport.abort()
        await asyncio.wait_for(peer.is_over.wait(), 5)


async def test_it_closes_everything_at_once() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.close()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await asyncio.wait_for(peer.is_over.wait(), 5)


async def test_it_writes_small_pieces() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set("down", split=1)
        peer.writer.write("🙂ß".encode())
        pieces = []
        while sum(map(len, pieces)) < 6:
            pieces.append(await reader.read(100))
        assert b"".join(pieces).decode() == "🙂ß"
        assert len(pieces) > 1


async def test_it_refuses_and_listens_again() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await connected(proxy).__aenter__()
        await exchanged(peer, reader, writer)  # what is open stays
        await proxy.listen()
        async with connected(proxy) as another:
            await exchanged(peer, *another)
        proxy.hang_up()
        async with connected(proxy) as another:
            assert await another[0].read() == b""
        assert proxy.connections == 3


async def test_toxics_are_for_new_connections_or_for_open_ones() -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set(on="new", stall=True)
        await exchanged(peer, reader, writer)
        proxy.clear()
        proxy.set(on="open", stall=True)
        async with connected(proxy) as another:
            await exchanged(peer, *another)


@pytest.mark.parametrize(
    ("head", "body", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"abc", b"def"),
        (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"a", b"b"),
    ],
    ids=["chunked", "length", "none"],
)
async def test_it_holds_a_body_until_it_is_whole(head: bytes, body: bytes, end: bytes) -> None:
    async with linked() as (proxy, peer, reader, writer):
        await exchanged(peer, reader, writer)
        proxy.set("down", hold_body=True)
        peer.writer.write(head[:10])
        peer.writer.write(head[10:] + body)
        assert await reader.readexactly(len(head)) == head
        await silent(reader)
        peer.writer.write(end)
        assert await reader.readexactly(len(body + end)) == body + end
        peer.writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        assert await reader.readexactly(19) == b"HTTP/1.1 200 OK\r\n\r\n"
        await silent(reader)
        peer.writer.close()
        assert await reader.read() == b"until the end"

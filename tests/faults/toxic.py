"""A TCP proxy that does to connections what networks, and proxies in them, do to connections.

    async with toxic("http://127.0.0.1:8000") as proxy:
        ...                                   # talk to proxy.url
        proxy.set(delay_ms=300)               # each way, on connections that are open and on those to come
        proxy.set("down", bytes_per_second=200)
        proxy.set("down", on="new", hold_body=True)
        proxy.set(stall=True)                 # the cable is out, and nobody says so
        proxy.clear()                         # what was stalled goes on
        proxy.reset()                         # RST, now, to both sides of all that is open
        proxy.close()                         # FIN, now
        await proxy.refuse()                  # nobody listens any more; await proxy.listen() ends that

A toxic that is set replaces its earlier value and leaves the others as they are.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from tests.faults.held import HeldBody

Direction = Literal["up", "down"]
On = Literal["all", "new", "open"]

_DIRECTIONS: tuple[Direction, ...] = ("up", "down")
_READ_BYTES = 65536
_MOST_HELD = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxics:
    """What happens to the bytes that go in one direction. `None` and zero are harmless.

    `split` writes pieces of so many bytes, `cut_after` and `reset_after` end the connection, by FIN or RST, when so
    many bytes have been delivered since it was set; `hold_body` lets the headers of an HTTP response through and its
    body only when it is complete, as a proxy does that buffers; `stall` takes bytes and delivers none.
    """

    delay_ms: float = 0
    bytes_per_second: float | None = None
    split: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    hold_body: bool = False
    stall: bool = False


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pipe:
    """One direction of one connection: a task that reads, a task that delivers, and what is held between them."""

    def __init__(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.toxics = Toxics()
        self.delivered = 0
        self._link = link
        self._reader = reader
        self._writer = writer
        self._held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        self._held_bytes = 0
        self._most_held = link.proxy.receive_buffer or _READ_BYTES
        self._changed = asyncio.Event()
        self._since = 0
        self._body: HeldBody | None = None

    def set(self, toxics: Toxics) -> None:
        if (toxics.cut_after, toxics.reset_after) != (self.toxics.cut_after, self.toxics.reset_after):
            self._since = self.delivered
        self.toxics = toxics
        self._changed.set()

    async def run(self) -> None:
        """Carry bytes until the end has been delivered; what breaks on one side is broken on the other."""
        reading = asyncio.create_task(self._read())
        try:
            await self._deliver()
        except OSError:
            self._link.end(reset=True)
        finally:
            reading.cancel()

    async def _read(self) -> None:
        data: bytes | None = b"?"
        while data:
            while self._held_bytes > (_MOST_HELD if self.toxics.stall or self.toxics.hold_body else self._most_held):
                await self._wait(0.01)
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError:
                data = None
            self._held_bytes += len(data or b"")
            self._held.put_nowait((time.monotonic(), data))

    async def _deliver(self) -> None:
        is_end = False
        while not is_end:
            came_at, data = await self._held.get()
            self._held_bytes -= len(data or b"")
            is_end = not data
            while is_end and self.toxics.stall:
                await self._wait()
            if data is None:
                raise ConnectionResetError
            if self.toxics.hold_body and self._body is None:
                self._body = HeldBody()
            if self._body is not None:
                data = self._body.take(data) if self.toxics.hold_body and not is_end else self._body.rest() + data
            while data:
                data = data[await self._deliver_some(came_at, data) :]
        if not self._writer.transport.is_closing():
            self._writer.write_eof()

    async def _deliver_some(self, came_at: float, data: bytes) -> int:
        """Deliver as much as the toxics allow at the moment, and return how much that was."""
        toxics = self.toxics
        early = came_at + toxics.delay_ms / 1000 - time.monotonic()
        if toxics.stall or early > 0:
            await self._wait(None if toxics.stall else early)
            return 0
        size = min(len(data), toxics.split or len(data))
        if toxics.bytes_per_second is not None:
            size = min(size, max(1, round(toxics.bytes_per_second / 20)))
        ends = [at for at in (toxics.cut_after, toxics.reset_after) if at is not None]
        left = min(ends) - (self.delivered - self._since) if ends else size
        size = min(size, left)
        if size > 0:
            self._writer.write(data[:size])
            self.delivered += size
            self._link.proxy.bytes[self._link.direction_of(self)] += size
            await self._writer.drain()
        if ends and size == left:
            self._link.end(reset=toxics.reset_after == min(ends))
            await asyncio.Future()  # until the link is taken down
        elif toxics.bytes_per_second is not None:
            await asyncio.sleep(size / toxics.bytes_per_second)
        else:
            await asyncio.sleep(0)
        return size

    async def _wait(self, seconds: float | None = None) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, proxy: "Toxic", client: _Ends, server: _Ends) -> None:
        self.proxy = proxy
        self.writers = (client[1], server[1])
        self.pipes: dict[Direction, _Pipe] = {
            "up": _Pipe(self, client[0], server[1]),
            "down": _Pipe(self, server[0], client[1]),
        }
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def direction_of(self, pipe: _Pipe) -> Direction:
        return "up" if pipe is self.pipes["up"] else "down"

    async def run(self) -> None:
        pumps = [asyncio.create_task(pipe.run()) for pipe in self.pipes.values()]
        carrying = asyncio.gather(*pumps, return_exceptions=True)
        try:
            await asyncio.wait({carrying, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await carrying
            self.end(reset=False)

    def end(self, *, reset: bool) -> None:
        for writer in self.writers:
            if writer.transport.is_closing():
                continue
            if reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            else:
                writer.close()
        if not self._ended.done():
            self._ended.set_result(None)


class Toxic:
    """The proxy; made by `toxic`. `connections` and `bytes` count, `opened_at` has the time of every connection."""

    def __init__(self, host: str, port: int, *, receive_buffer: int | None) -> None:
        self.url = ""
        self.connections = 0
        self.bytes: dict[Direction, int] = {"up": 0, "down": 0}
        self.opened_at: list[float] = []
        self._target = (host, port)
        self.receive_buffer = receive_buffer
        self._port = 0
        self._new: dict[Direction, Toxics] = dict.fromkeys(_DIRECTIONS, Toxics())
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._refuses_politely = False

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def set(self, direction: Direction | None = None, *, on: On = "all", **toxics: object) -> None:
        """Set toxics of one direction, or of both; on the connections that are open, on those to come, or on all."""
        for each in _DIRECTIONS if direction is None else (direction,):
            if on != "open":
                self._new[each] = replace(self._new[each], **toxics)  # type: ignore[arg-type]
            if on != "new":
                for link in self._links:
                    link.pipes[each].set(replace(link.pipes[each].toxics, **toxics))  # type: ignore[arg-type]

    def clear(self) -> None:
        """Be harmless."""
        self._new = dict.fromkeys(_DIRECTIONS, Toxics())
        self._refuses_politely = False
        for link in self._links:
            for pipe in link.pipes.values():
                pipe.set(Toxics())

    def reset(self) -> None:
        """Reset every open connection, on both sides."""
        for link in tuple(self._links):
            link.end(reset=True)

    def close(self) -> None:
        """Close every open connection as if each side had done so."""
        for link in tuple(self._links):
            link.end(reset=False)

    def hang_up(self) -> None:
        """Accept connections from now on only to close them."""
        self._refuses_politely = True

    async def refuse(self) -> None:
        """Stop listening, so that connections are refused; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def listen(self) -> None:
        """Listen again, at the same address."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=_READ_BYTES)
            self._port = self._server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.opened_at.append(time.monotonic())
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = None
        try:
            if not self._refuses_politely:
                link = _Link(self, (reader, writer), await self._connect())
                for each in link.writers:
                    each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    each.transport.set_write_buffer_limits(0)
                for direction, pipe in link.pipes.items():
                    pipe.set(self._new[direction])
                self._links.add(link)
                await link.run()
        except OSError:
            pass  # the server is not there: the client gets what a proxy gives that has nothing to say
        finally:
            if link is not None:
                self._links.discard(link)
            writer.close()

    async def _connect(self) -> _Ends:
        upstream = socket.socket()
        upstream.setblocking(False)
        if self.receive_buffer is not None:
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(upstream, self._target)
        except BaseException:
            upstream.close()
            raise
        return await asyncio.open_connection(sock=upstream, limit=self.receive_buffer or _READ_BYTES)

    async def _stop(self) -> None:
        await self.refuse()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def toxic(target: str, *, receive_buffer: int | None = None) -> AsyncIterator[Toxic]:
    """Stand before the server at `target`, an address with a port, until the block ends.

    A small `receive_buffer` (bytes) keeps the kernel from hiding that a link is slow.
    """
    address = urlsplit(target)
    assert address.hostname is not None
    assert address.port is not None
    proxy = Toxic(address.hostname, address.port, receive_buffer=receive_buffer)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy._stop()

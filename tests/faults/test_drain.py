"""A deploy with a thousand streams: whoever can come back is asked to, spread over the window, and nobody is cut."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from crowd import Crowd, Gather, RawStream, raise_descriptor_limit

pytestmark = [pytest.mark.anyio, pytest.mark.fault(2)]

STREAMS = 1000
SIMPLE = 40
"""So many of them do not say `proto`, and will not come back by themselves."""

DRAIN_SECONDS = 5
WORKERS = [
    pytest.param(1, False, id="one"),
    pytest.param(4, False, id="four"),
    pytest.param(4, True, id="four-and-their-group"),
]


@asynccontextmanager
async def thousand(crowd: Crowd) -> AsyncIterator[tuple[list[RawStream], list[RawStream]]]:
    """A thousand live streams. Some ask `/readyz` when they are over, on the same connection: of the same process."""
    headers = {"Authorization": f"Bearer {crowd.token}"}
    streams = [
        RawStream(
            crowd.server.url,
            f"/api/sse/{crowd.sessions[number % len(crowd.sessions)]}" + ("" if number < SIMPLE else "?proto=1"),
            headers,
            behind="" if number % 10 else "/readyz",
        )
        for number in range(STREAMS)
    ]
    tasks = [asyncio.create_task(stream.follow()) for stream in streams]
    try:
        await crowd.until(lambda: all(stream.is_live for stream in streams), "all streams are live", seconds=60)
        yield streams[:SIMPLE], streams[SIMPLE:]
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def is_refused(server: Any) -> bool:
    """Whether nobody is behind the door any more: whoever connects is told so at once, and can go elsewhere."""
    port = int(server.url.rpartition(":")[2])
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    writer.transport.abort()
    return False


def group_is_gone(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return False
    return True


@pytest.mark.parametrize(("workers", "with_group"), WORKERS)
async def test_a_thousand_streams_say_goodbye_and_the_process_is_gone_in_time(
    start_server: Callable[..., Any], gather: Gather, workers: int, with_group: bool
) -> None:
    raise_descriptor_limit()
    server = await asyncio.to_thread(
        lambda: start_server(
            workers=workers,
            ROWCAST_DRAIN_SECONDS=DRAIN_SECONDS,
            ROWCAST_STREAMS_PER_OWNER=2 * STREAMS,
            ROWCAST_HEARTBEAT_MS=1000,
        )
    )
    crowd = await gather(server, sessions=10, requests=1)
    late: list[RawStream] = []
    took: dict[str, float] = {}

    async def arrive(began: float) -> None:
        """Newcomers, all the time, until nobody answers."""
        headers = {"Authorization": f"Bearer {crowd.token}"}
        while "refused" not in took:
            stream = RawStream(server.url, f"/api/sse/{crowd.sessions[0]}?proto=1", headers)
            late.append(stream)
            arriving = asyncio.create_task(stream.follow())
            await asyncio.wait([arriving], timeout=0.02)
            arrivals.append(arriving)
            if await is_refused(server):
                took["refused"] = time.monotonic() - began

    arrivals: list[asyncio.Task[str]] = []
    async with thousand(crowd) as (simple, knowing):
        began = time.monotonic()
        if with_group:
            os.killpg(server.process.pid, signal.SIGTERM)
        else:
            server.process.send_signal(signal.SIGTERM)
        newcomers = asyncio.create_task(arrive(began))
        await crowd.until(lambda: any(stream.ended for stream in knowing), "the first goodbye")
        took["first goodbye"] = time.monotonic() - began
        await crowd.until(lambda: all(stream.ended for stream in knowing), "every stream that may has gone")
        took["last goodbye"] = time.monotonic() - began
        # The others stay for the whole window, and yet nobody is kept waiting at a door that will not be opened.
        assert not any(stream.ended for stream in simple)
        await newcomers
        assert not any(stream.ended for stream in simple)
        assert server.process.poll() is None
        await crowd.until(lambda: all(stream.ended for stream in simple), "the window is over")
        took["others"] = time.monotonic() - began
        code = await asyncio.to_thread(server.process.wait, 60)
        took["exit"] = time.monotonic() - began
    await asyncio.gather(*arrivals)
    await crowd.until(lambda: group_is_gone(server.process.pid), "no worker is left")
    print(f"\n{workers} workers: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))

    assert code == 0
    assert took["others"] >= DRAIN_SECONDS
    assert took["exit"] < DRAIN_SECONDS + 1 + 15  # the promise is one second; the rest is for a machine under load
    assert '"level": "error"' not in server.log
    assert '"level": "critical"' not in server.log
    assert "Traceback" not in server.log

    everybody = [*simple, *knowing]
    assert {stream.ended for stream in everybody} == {"whole"}
    assert {len(stream.told("goodbye")) for stream in everybody} == {1}
    assert {stream.events[-1][0] for stream in everybody} == {"goodbye"}
    assert {stream.told("goodbye")[0]["reason"] for stream in everybody} == {"drain"}
    # By the time that anybody has a goodbye, its process says that it is not ready.
    answers = [stream.behind for stream in everybody[::10]]
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 503"}
    assert all(b"Not ready: accepting" in answer for answer in answers)
    # Newcomers are refused, one way or another. A worker that was told a little later takes its leave of them, too.
    for stream in late:
        assert stream.status in (0, 200, 503), stream.status
        assert stream.status != 200 or [data["reason"] for data in stream.told("goodbye")] == ["drain"]
    assert late[-1].status != 200

    waits = [stream.told("goodbye")[0]["retry_ms"] for stream in knowing]
    assert min(waits) > 0
    assert max(waits) <= DRAIN_SECONDS * 1000
    assert len(set(waits)) > len(waits) / 2  # its own for each
    tenths = Counter(min(9, wait * 10 // (DRAIN_SECONDS * 1000)) for wait in waits)
    share = len(waits) / 10
    assert all(share / 2 < tenths[tenth] < 2 * share for tenth in range(1, 10)), tenths
    assert tenths[0] < 2 * share


def rest_of(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            received += data
    return received


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_reads_nothing_of_what_it_is_sent_keeps_nobody(
    start_server: Callable[..., Any], gather: Gather, workers: int
) -> None:
    """Its goodbye cannot be written. It is let go when the window is over, which is no error of the server's."""
    server = await asyncio.to_thread(lambda: start_server(workers=workers, ROWCAST_DRAIN_SECONDS=1))
    crowd = await gather(server, sessions=2)
    large, small = crowd.sessions
    await crowd.execute(
        "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, 12000)", large
    )
    headers = {"Authorization": f"Bearer {crowd.token}"}
    other = RawStream(server.url, f"/api/sse/{small}", headers)
    following = asyncio.create_task(other.follow())
    await crowd.until(lambda: other.is_live, "the other stream is live")
    with socket.socket() as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mute.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        head = [f"GET /api/sse/{large}?proto=1 HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
        mute.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        await asyncio.to_thread(mute.recv, 1, socket.MSG_PEEK)  # three megabytes begin
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await following == "whole"
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        print(f"\nexit after {time.monotonic() - began:.2f} s")
        assert b"goodbye" not in await asyncio.to_thread(rest_of, mute)
    assert '"level": "error"' not in server.log, server.log
    assert "Traceback" not in server.log


async def test_a_second_ctrl_c_waits_for_no_window(start_server: Callable[..., Any], gather: Gather) -> None:
    server = await asyncio.to_thread(lambda: start_server(ROWCAST_DRAIN_SECONDS=100))
    crowd = await gather(server, sessions=1)
    simple = RawStream(server.url, f"/api/sse/{crowd.sessions[0]}", {"Authorization": f"Bearer {crowd.token}"})
    following = asyncio.create_task(simple.follow())
    await crowd.until(lambda: simple.is_live, "the stream is live")
    server.process.send_signal(signal.SIGINT)
    await crowd.until(lambda: '"event": "Shutting down"' in server.log, "it was heard")
    assert not simple.ended
    server.process.send_signal(signal.SIGINT)
    assert await following == "whole"
    assert [data["reason"] for data in simple.told("goodbye")] == ["drain"]
    assert await asyncio.to_thread(server.process.wait, 60) == 0


TWICE = """
import asyncio, os, signal, subprocess, sys
from rowcast.drain import drain_on_signals

SENDER = '''
import os, random, sys, time
pid = int(sys.argv[1])
for _ in sys.stdin:
    os.kill(pid, 15)
    end = time.perf_counter() + random.uniform(0, 6e-5)
    while time.perf_counter() < end:
        pass
    os.kill(pid, 15)
    print(flush=True)
'''

async def main(rounds):
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = [sys.executable, "-c", SENDER, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        for _ in range(rounds):
            calls = []
            with drain_on_signals(lambda: calls.append(1)):
                sender.stdin.write("now\\n")
                sender.stdin.flush()
                sum(number * number for number in range(3000))
                sender.stdout.readline()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert len(calls) == 1, calls
        sender.stdin.close()

asyncio.run(main(4000))
"""


async def test_a_signal_that_comes_again_at_the_same_moment_hurries_nobody() -> None:
    """As from outside and from a supervisor: the second may interrupt the handler of the first, anywhere in it."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", TWICE)
    assert await process.wait() == 0

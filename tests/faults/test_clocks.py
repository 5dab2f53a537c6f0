"""Clocks of clients and servers that are wrong, or set while they run: they order nothing, and end nothing early."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import Server, wait_until
from tests.faults.conftest import QUICK

from crowd import Crowd, Gather, RawStream
from rowcast.http import GuestTokens

pytestmark = [pytest.mark.anyio, pytest.mark.fault(52)]

HOUR = 3600
QUIET_SECONDS = 4
"""For so long nothing happens but a heartbeat a second."""

FOLLOW = """
import asyncio, json, sys, time
from rowcast.client import watch

async def follow(url, session, token, transport):
    def say(live):
        print(json.dumps({"status": live.status}), flush=True)

    async with watch(url, session, token=token, transport=transport, on_status=say) as live:
        async for change in live:
            told = {"id": change.row["request_id"], "version": change.row["version"], "lag": change.lag_seconds}
            print(json.dumps({**told, "now": time.time()}), flush=True)

asyncio.run(follow(*sys.argv[1:]))
"""


@dataclass
class Clock:
    """The clock of a process that is started in `environment`; the monotonic one is left alone, as in real life."""

    file: Path
    library: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Have it be off by so many seconds from now on."""
        self.file.write_text(f"{seconds:+d}\n")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    if library is None:
        pytest.skip("no libfaketime; on Debian: apt-get install faketime")
    clock = Clock(tmp_path / "clock", str(library))
    clock.set(0)
    return clock


# -- the server's ------------------------------------------------------------------------------------------------------


@pytest.fixture
def faked_server(start_server: Callable[..., Server], clock: Clock) -> Server:
    """A server whose clock can be set while it runs."""
    return start_server(**QUICK, **clock.environment)


def says(stream: RawStream) -> float:
    """What time it was for the server when it last said so."""
    return next(float(data["server_time"]) for _, data in reversed(stream.events) if "server_time" in data)


async def steps(clock: Clock, crowd: Crowd, stream: RawStream, seconds: int) -> None:
    """Set the server's clock, and wait until the server tells another time."""
    clock.set(seconds)
    await crowd.until(lambda: abs(says(stream) - time.time() - seconds) < 30, f"it is {seconds:+d} s for the server")


async def test_a_server_whose_clock_steps_goes_on_as_before(faked_server: Server, clock: Clock, gather: Gather) -> None:
    crowd = await gather(faked_server, sessions=2, requests=5)
    await crowd.join()
    stream = RawStream(
        faked_server.url, f"/api/sse/{crowd.sessions[0]}?proto=1", {"Authorization": f"Bearer {crowd.token}"}
    )
    following = asyncio.create_task(stream.follow())
    try:
        await crowd.until(lambda: stream.is_live, "the stream is live")
        for seconds in (HOUR, -HOUR, 0):
            await steps(clock, crowd, stream, seconds)
            crowd.counts.clear()
            async with crowd.written():
                await crowd.until(lambda: crowd.counts["committed"] > 30, "there is load")
            await crowd.converged(within=2)
            # Silence is measured by another clock: nobody falls silent, and nobody talks without a pause.
            before = len(stream.told("heartbeat"))
            await asyncio.sleep(QUIET_SECONDS)
            assert 1 <= len(stream.told("heartbeat")) - before <= 2 * QUIET_SECONDS
        assert not stream.ended
        assert {name for name, _ in stream.events} <= {
            "connected", "snapshot", "synced", "request_update", "request_removed", "heartbeat",
        }  # fmt: skip
        assert [name for name, _ in stream.events].count("synced") == 1
    finally:
        following.cancel()
        await asyncio.wait([following])
    assert crowd.is_unbroken
    assert all(client.counts["snapshot"] == 1 and client.counts["degraded"] == 0 for client in crowd.streams)
    assert "rowcast_sweep_found_total 0.0" in httpx2.get(f"{faked_server.url}/metrics").text
    assert "Traceback" not in faked_server.log


async def test_a_step_ends_the_tokens_that_are_over_then_and_nothing_else(
    faked_server: Server, clock: Clock, gather: Gather
) -> None:
    """Whether a token is over is for the server's clock to say."""
    crowd = await gather(faked_server, sessions=1, requests=1)
    owner = crowd.owner.partition("|")[2]
    short = GuestTokens(faked_server.signing_key, ttl_seconds=HOUR // 2).issue_for(owner)[0]
    path = f"/api/sse/{crowd.sessions[0]}?proto=1"

    def stream(token: str) -> RawStream:
        return RawStream(faked_server.url, path, {"Authorization": f"Bearer {token}"})

    dying, lasting = [stream(short) for _ in range(3)], [stream(crowd.token) for _ in range(3)]
    tasks = [asyncio.create_task(each.follow()) for each in (*dying, *lasting)]
    try:
        await crowd.until(lambda: all(each.is_live for each in (*dying, *lasting)), "all streams are live")

        # Shortly before the end they are warned, once; the clock is set right, and all is as before.
        await steps(clock, crowd, lasting[0], HOUR // 2 - 45)
        await crowd.until(lambda: all(each.told("token_expiring") for each in dying), "they are warned")
        assert all(0 < each.told("token_expiring")[0]["in_ms"] <= 45_000 for each in dying)
        await steps(clock, crowd, dying[0], 0)
        assert not any(each.ended for each in (*dying, *lasting))

        await steps(clock, crowd, lasting[0], HOUR)
        await crowd.until(lambda: all(each.ended for each in dying), "what is over ends")
        for each in dying:
            assert each.ended == "whole"
            assert each.events[-1][0] == "goodbye"
            assert [data["reason"] for data in each.told("goodbye")] == ["token_expired"]
            assert len(each.told("token_expiring")) == 1
        late = stream(short)
        await late.follow()
        assert late.status == 401

        await steps(clock, crowd, lasting[0], 0)
        again = stream(short)
        tasks.append(asyncio.create_task(again.follow()))
        await crowd.until(lambda: again.is_live, "the token is good again")
        assert not any(each.ended for each in lasting)
        assert not any(each.told("token_expiring") for each in lasting)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


# -- the client's ------------------------------------------------------------------------------------------------------


class Client:
    """A client in a process of its own, which prints what it is told."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self._output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines(keepends=True) if line.endswith("\n")]

    def said(self, version: int) -> bool:
        return any(line.get("version") == version for line in self.lines())


@pytest.fixture
def start_client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    started: list[Client] = []

    def start(*command: str, **environment: str) -> Client:
        started.append(Client([sys.executable, *command], environment, tmp_path / f"client-{len(started)}"))
        return started[-1]

    yield start
    for client in started:
        client.process.kill()
        client.process.wait()


@pytest.mark.parametrize("off", [HOUR, -HOUR])
@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_a_client_whose_clock_is_wrong_tells_every_change_in_order_and_its_true_lag(
    server: Server, clock: Clock, gather: Gather, start_client: Callable[..., Client], off: int, transport: str
) -> None:
    crowd = await gather(server, sessions=1, requests=1)
    (session,) = crowd.sessions
    (request,) = (await crowd.truth())[session]
    clock.set(off)
    client = start_client("-c", FOLLOW, server.url, session, crowd.token, transport, **clock.environment)
    version = "SELECT rowcast_version FROM request WHERE request_id = $1::text::uuid"
    first = await crowd.value(version, request)
    await crowd.until(lambda: client.said(first), "the client follows")
    status = "polling" if transport == "poll" else "live"
    await crowd.until(lambda: any(line.get("status") == status for line in client.lines()), "the client is live")
    newest = first
    for turn, seconds in enumerate((off, off, -off, 0, off)):
        clock.set(seconds)  # it may also be set while the client runs
        await crowd.update(request, str(turn))
        newest = await crowd.value(version, request)
        await crowd.until(lambda newest=newest: client.said(newest), f"it is told; it said {client.output}")  # type: ignore[misc]
    told = [line for line in client.lines() if "version" in line]
    versions = [line["version"] for line in told]
    assert versions == sorted(set(versions))
    assert len(versions) == 6
    assert any(abs(line["now"] - time.time()) > HOUR - 100 for line in told), "the clock is right"
    assert told[0]["lag"] is None
    lags = [line["lag"] for line in told[1:]]
    print(f"\n{transport} {off:+d} s: {', '.join(f'{1000 * lag:.0f} ms' for lag in lags)}")
    # An answer to a poll says the second only, and a machine under load may take its time.
    assert all(-5 <= lag < 10 for lag in lags), lags
    assert [line["status"] for line in client.lines() if "status" in line] == [status]


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_in_the_terminal_too(
    server: Server, clock: Clock, gather: Gather, start_client: Callable[..., Client], transport: str
) -> None:
    crowd = await gather(server, sessions=1, requests=1)
    (session,) = crowd.sessions
    clock.set(HOUR)
    where = ["--url", server.url, "--token", crowd.token, "--transport", transport]
    client = start_client("-m", "rowcast.cli", "tail", session, *where, **clock.environment)
    status = "polling" if transport == "poll" else "live"
    await crowd.until(lambda: "#1" in client.output and status in client.output, "it follows")
    await crowd.request(session)
    await crowd.until(lambda: "#2" in client.output, "it tells")
    (lag,) = re.findall(r"#2 .* (\d+) ms", client.output)
    assert int(lag) < 10_000
    client.process.send_signal(signal.SIGINT)
    await asyncio.to_thread(wait_until, lambda: client.process.poll() == 130, what="it ends")

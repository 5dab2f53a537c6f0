"""A server that is told to stop takes leave of its streams, and spreads their return."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from follower import Follower

pytestmark = [pytest.mark.anyio, pytest.mark.fault(2)]

STREAMS = 200
DRAIN_SECONDS = 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_stream_gets_its_goodbye_and_a_time_to_return(
    start_server: Callable[..., Any], workers: int
) -> None:
    server = await asyncio.to_thread(
        lambda: start_server(
            workers=workers, ROWCAST_DRAIN_SECONDS=DRAIN_SECONDS, ROWCAST_STREAMS_PER_OWNER=STREAMS,
            ROWCAST_HEARTBEAT_MS=1000,
        )
    )  # fmt: skip
    token = server.guest()
    async with httpx2.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as http:
        session = (await http.post("/api/session", json={})).json()["session_id"]
        request = {"request": "sales_by_month"}
        made = (await http.post(f"/api/request/{session}", json=request)).json()["request_id"]
    followers = [Follower(server.url, token, session) for _ in range(STREAMS)]
    for follower in followers:
        follower.is_noting = True
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    async with asyncio.timeout(60):
        while not all(follower.counts["synced"] for follower in followers):
            await asyncio.sleep(0.02)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(DRAIN_SECONDS + 60):
        await asyncio.gather(*tasks)
        code = await asyncio.to_thread(server.process.wait)
    lasted = time.monotonic() - began
    goodbyes = [data for follower in followers for name, data in follower.seen if name == "goodbye"]
    assert len(goodbyes) == STREAMS
    assert {goodbye["reason"] for goodbye in goodbyes} == {"drain"}
    waits = sorted(goodbye["retry_ms"] for goodbye in goodbyes)
    assert waits[0] > 0
    assert waits[-1] <= DRAIN_SECONDS * 1000
    # Spread over the window: no tenth of it holds more than three times its share.
    tenths = [0] * 10
    for wait in waits:
        tenths[min(9, wait * 10 // (DRAIN_SECONDS * 1000))] += 1
    assert max(tenths) <= 3 * STREAMS / 10
    assert code in (0, -signal.SIGTERM)
    assert lasted < DRAIN_SECONDS + 20
    assert '"level": "error"' not in server.log
    assert "Traceback" not in server.log
    assert all(list(follower.rows) == [made] for follower in followers)

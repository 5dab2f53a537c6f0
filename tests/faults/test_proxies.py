"""A real nginx between client and server: without a server behind it, compressing, and redirecting."""

import asyncio
import itertools
import time
import uuid
from pathlib import Path

import httpx2
import pytest
from tests.conftest import StartServer, free_port
from tests.faults.toxic import toxic

import rowcast.following.exchange
import rowcast.following.policy
from nginx import nginx
from rowcast.client import Transport
from scripted import ROW, STAY, event, peer, stream
from watching import Table, Watcher, becomes, converges, following, settles, table_of, token_of

pytestmark = pytest.mark.anyio


@pytest.mark.fault(12)
async def test_behind_a_proxy_that_holds_every_body_it_polls_and_streams_once_that_is_over(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers come, events do not. The patience of eight seconds, twice, is cut to two here."""
    monkeypatch.setattr(rowcast.following.exchange, "_FIRST_EVENT_SECONDS", 2.0)
    monkeypatch.setattr(rowcast.following.policy, "PROBE_SECONDS", (1.0,))
    server = await asyncio.to_thread(start_server)
    async with table_of(server.database_url) as table, toxic(server.url) as proxy:
        key = await table.add()
        proxy.set("down", hold_body=True)
        async with following(proxy.url, table.session, token_of(server)) as watcher:
            await settles(watcher, "polling", within=2 * 2 + 2)
            assert ("reconnecting", "no event came") in watcher.said
            await table.write(5, key)
            await converges(watcher, table, within=2)
            proxy.clear()
            await settles(watcher, "live", within=2 + 2)
            await table.write(5, key)
            await converges(watcher, table, within=1)


@pytest.mark.fault(14)
async def test_behind_a_proxy_that_cuts_what_is_quiet_it_asks_for_more_heartbeats(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await asyncio.to_thread(lambda: start_server(ROWCAST_HEARTBEAT_MS=5000))
    locations = f"location / {{ proxy_pass {server.url}; proxy_read_timeout 2s; }}"
    async with table_of(server.database_url) as table:
        key = await table.add()
        with nginx(tmp_path, free_port(), locations) as url:
            async with toxic(url) as proxy, following(proxy.url, table.session, token_of(server)) as watcher:
                await becomes(lambda: watcher.live.reconnects == 3, what="three streams are cut", within=15)
                pace = [later - earlier for earlier, later in itertools.pairwise(proxy.opened_at)]
                assert all(seconds >= 1 for seconds in pace)
                await settles(watcher, "live", within=5)
                until = time.monotonic() + 3  # longer than the proxy is patient
                while time.monotonic() < until:
                    assert watcher.live.reconnects == 3
                    await asyncio.sleep(0.1)
                await table.write(5, key)
                await converges(watcher, table, within=1)


@pytest.mark.fault(15)
async def test_a_proxy_without_a_server_behind_it_is_asked_again_with_patience(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await asyncio.to_thread(start_server)
    async with table_of(server.database_url) as table, toxic(server.url) as behind:
        key = await table.add()
        with nginx(tmp_path, free_port(), f"location / {{ proxy_pass {behind.url}; }}") as url:
            async with following(url, table.session, token_of(server)) as watcher:
                await settles(watcher, "live")
                await converges(watcher, table)
                await behind.refuse()
                behind.reset()
                await becomes(lambda: "502" in watcher.live.reason, what="nginx says that there is no server")
                asked = watcher.live.reconnects
                began = time.monotonic()
                while time.monotonic() - began < 4:
                    await table.write(1, key)
                    await asyncio.sleep(0.1)
                assert 1 <= watcher.live.reconnects - asked <= 8
                await behind.listen()
                await settles(watcher, "live", within=3)
                await converges(watcher, table, within=1)


GZIP = """
gzip on; gzip_types text/event-stream application/json; gzip_proxied any; gzip_min_length 1; gzip_http_version 1.0;
"""


@pytest.mark.fault(17)
async def test_a_stream_that_a_proxy_compresses_is_still_on_time(start_server: StartServer, tmp_path: Path) -> None:
    """nginx does not look at `no-transform`; what counts is that every event comes out at once, compressed or not."""
    server = await asyncio.to_thread(start_server)
    token = token_of(server)
    locations = f"location / {{ proxy_pass {server.url}; }}"
    async with table_of(server.database_url) as table:
        key = await table.add()
        with nginx(tmp_path, free_port(), locations, http=GZIP) as url:
            async with (
                following(url, table.session, token) as watcher,
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, verify=False) as browser,
                browser.stream("GET", f"{url}/api/sse/{table.session}?proto=1") as response,
            ):
                assert "no-transform" in response.headers["cache-control"]
                assert response.headers["content-encoding"] == "gzip"  # a browser would get it compressed
                text = ""
                pieces = response.aiter_text()
                while "event: synced" not in text:
                    text += await anext(pieces)
                await settles(watcher, "live")
                slowest = 0.0
                for turn in range(10):
                    began = time.monotonic()
                    await table.write(1, key)
                    version = (await table.rows())[str(key)][1]
                    while f'"version":{version}' not in text:
                        text += await asyncio.wait_for(anext(pieces), 2)
                    slowest = max(slowest, time.monotonic() - began)
                    await converges(watcher, table, within=1)
                    assert turn == 0 or slowest < 0.5
                print(f"\nthe slowest of ten compressed events took {1000 * slowest:.0f} ms")


@pytest.mark.fault(18)
@pytest.mark.parametrize(("transport", "status"), [("sse", 307), ("sse", 301), ("poll", 307), ("poll", 301)])
async def test_a_redirect_to_another_path_is_followed(
    start_server: StartServer, tmp_path: Path, transport: Transport, status: int
) -> None:
    server = await asyncio.to_thread(start_server)
    locations = f"""
        location /api/ {{ return {status} /moved$request_uri; }}
        location /moved/ {{ rewrite ^/moved(.*)$ $1 break; proxy_pass {server.url}; }}
    """
    async with table_of(server.database_url) as table:
        key = await table.add()
        with nginx(tmp_path, free_port(), locations) as url:
            async with (
                toxic(url) as proxy,
                following(proxy.url, table.session, token_of(server), transport) as watcher,
            ):
                await settles(watcher, within=5)
                await converges(watcher, table, within=2)
                proxy.reset()
                await table.write(3, key)
                await converges(watcher, table, within=5)


@pytest.mark.fault(18)
async def test_a_redirect_to_another_origin_is_followed_without_the_token(tmp_path: Path) -> None:
    row = event("request_update", {**ROW, "version": 1, "cause": "catchup"}, "c1")
    async with peer([stream(row, event("synced", {"cursor": "c1"}, "c1"), STAY)]) as (target, asked):
        with nginx(tmp_path, free_port(), f"location / {{ return 307 {target}$request_uri; }}") as url:
            async with following(url, "s", "secret", "sse") as watcher:
                await settles(watcher, "live", within=5)
    assert asked[0].startswith("GET /api/sse/s?")
    assert "secret" not in asked[0]
    assert "authorization" not in asked[0].lower()


@pytest.mark.fault(54)
async def test_poll_and_stream_hand_over_to_each_other_under_writes(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag at the proxy takes streams away, and gives them back, while rows change all the time."""
    monkeypatch.setattr(rowcast.following.policy, "PROBE_SECONDS", (0.5,))
    server = await asyncio.to_thread(start_server)
    flag = tmp_path / "no-streams"
    locations = f"""
        location /api/sse/ {{ if (-f {flag}) {{ return 501; }} proxy_pass {server.url}; }}
        location / {{ proxy_pass {server.url}; }}
    """
    async with table_of(server.database_url) as table:
        keys = [await table.add() for _ in range(5)]
        with nginx(tmp_path, free_port(), locations) as url:
            async with toxic(url) as proxy, following(proxy.url, table.session, token_of(server)) as watcher:
                await settles(watcher, "live")
                writing = asyncio.create_task(write_for_ever(table, keys))
                for _ in range(2):
                    flag.touch()
                    proxy.reset()
                    await settles(watcher, "polling", within=5)
                    await tells(watcher, "poll")
                    flag.unlink()
                    up_since = len(watcher.changes)
                    await settles(watcher, "live", within=5)
                    await tells(watcher, "sse")
                    longest = longest_silence(watcher, up_since)
                    print(f"\nfrom poll to stream, the longest silence was {1000 * longest:.0f} ms")
                    assert longest < 1
                writing.cancel()
                await asyncio.wait({writing})
                await converges(watcher, table, within=1)


async def write_for_ever(table: Table, keys: list[uuid.UUID]) -> None:
    while True:
        await table.write(1, keys[0])
        keys.append(keys.pop(0))
        await asyncio.sleep(0.02)


async def tells(watcher: Watcher, transport: Transport) -> None:
    """Wait until ten changes more have come by this transport."""
    before = len(watcher.changes)

    def has_told() -> bool:
        return [change.transport for change in watcher.changes[before:]].count(transport) >= 10

    await becomes(has_told, what=f"changes come by {transport}", within=5)


def longest_silence(watcher: Watcher, since: int) -> float:
    times = watcher.told_at[since:]
    return max(later - earlier for earlier, later in itertools.pairwise(times))

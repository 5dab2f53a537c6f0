"""Tokens that are refused, that run out while a stream is open, and that cannot be had."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.conftest import Server, StartServer

from rowcast import Unauthorized
from rowcast.client import FetchToken, Token, Transport, watch
from rowcast.http import GuestTokens
from scripted import ROW, STAY, answer, event, page, peer, stream
from watching import OWNER, Table, becomes, converges, following, settles, table_of

pytestmark = pytest.mark.anyio
TRANSPORTS: list[Transport] = ["sse", "poll"]


class Issuer:
    """Where clients fetch their tokens; it counts, and fails when it is told to."""

    def __init__(self, server: Server, *lifetimes: float) -> None:
        self.asked_at: list[float] = []
        self.is_down = False
        self.under_way = self.most_under_way = 0
        self._key = server.signing_key
        self._lifetimes = list(lifetimes)

    async def fetch(self) -> str:
        self.asked_at.append(time.monotonic())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0.1)
        finally:
            self.under_way -= 1
        if self.is_down:
            raise ConnectionError("the issuer answered 500")
        seconds = self._lifetimes.pop(0) if len(self._lifetimes) > 1 else self._lifetimes[0]
        return GuestTokens(self._key, ttl_seconds=seconds).issue_for(OWNER.partition("|")[2])[0]


@pytest.fixture(scope="module")
def shared(start_shared_server: StartServer) -> Server:
    return start_shared_server()


@pytest.fixture
async def table(shared: Server) -> AsyncIterator[Table]:
    async with table_of(shared.database_url) as table:
        yield table


async def followed_to_the_end(server: Server, table: Table, token: str | FetchToken, *, within: float) -> None:
    async with asyncio.timeout(within), watch(server.url, str(table.session), token=token) as live:
        async for _ in live:
            pass


@pytest.mark.fault(19)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_token_is_renewed_once(shared: Server, table: Table, transport: Transport) -> None:
    key = await table.add()
    issuer = Issuer(shared, 0.001, 3600)
    async with following(shared.url, table.session, issuer.fetch, transport) as watcher:
        await settles(watcher, within=2)
        await table.write(3, key)
        await converges(watcher, table, within=2)
        assert len(issuer.asked_at) == 2
        assert {status for status, _ in watcher.said} == {"authenticating", "live" if transport == "sse" else "polling"}


@pytest.mark.fault(19)
async def test_five_streams_that_share_a_token_renew_it_once(shared: Server, table: Table) -> None:
    key = await table.add()
    issuer = Issuer(shared, 0.001, 3600)
    token = Token(issuer.fetch)
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(following(shared.url, table.session, token)) for _ in range(5)]
        for watcher in watchers:
            await settles(watcher, "live", within=3)
        await table.write(3, key)
        for watcher in watchers:
            await converges(watcher, table, within=1)
    assert (len(issuer.asked_at), issuer.most_under_way) == (2, 1)


@pytest.mark.fault(19)
async def test_a_new_token_that_is_refused_like_the_old_one_is_the_end(shared: Server, table: Table) -> None:
    issuer = Issuer(shared, 0.001)
    with pytest.raises(Unauthorized):
        await followed_to_the_end(shared, table, issuer.fetch, within=5)
    assert len(issuer.asked_at) == 2


@pytest.mark.fault(20)
async def test_a_token_that_runs_out_is_renewed_while_the_old_stream_goes_on(shared: Server, table: Table) -> None:
    """Rows change all the time: what is told has no gap where one stream takes over from another."""
    key = await table.add()
    issuer = Issuer(shared, 6)
    async with following(shared.url, table.session, issuer.fetch) as watcher:
        await settles(watcher, "live")
        since = len(watcher.changes)
        began = time.monotonic()
        while time.monotonic() - began < 10:
            await table.write(1, key)
            await asyncio.sleep(0.02)
        await converges(watcher, table, within=1)
        times = watcher.told_at[since:]
        longest = max(later - earlier for earlier, later in itertools.pairwise(times))
        print(f"\n{len(issuer.asked_at)} tokens; the longest silence was {1000 * longest:.0f} ms")
        assert longest < 0.5
        assert 3 <= len(issuer.asked_at) <= 9
        assert watcher.live.reconnects == 0
        assert {status for status, _ in watcher.said} == {"live"}


@pytest.mark.fault(20)
async def test_the_successor_is_synced_before_the_old_stream_is_left() -> None:
    """What the old stream tells while the new one begins is told at once; what both tell is applied once."""
    expiring = event("token_expiring", {"expires_at": 1.0, "in_ms": 1000})
    begin = event("synced", {"cursor": "c1"}, "c1")
    row = event("request_update", {**ROW, "version": 1, "cause": "live"}, "c2")
    late = event("request_update", {**ROW, "version": 2, "cause": "catchup"}, "c3")
    streams = [stream(begin, expiring, row, STAY), stream(row, late, event("synced", {"cursor": "c3"}, "c3"), STAY)]
    tokens = iter(["old", "new"])

    async def fetch() -> str:
        return next(tokens)

    async with peer(streams) as (url, asked), following(url, "s", fetch) as watcher:
        await becomes(lambda: len(watcher.changes) == 2, what="both versions are told", within=3)
        assert ["Bearer old" in head for head in asked] == [True, False]
        assert "Bearer new" in asked[1]
        assert [status for status, _ in watcher.said] == ["live"]


@pytest.mark.fault(20)
async def test_without_a_way_to_renew_it_ends_when_the_token_does(shared: Server, table: Table) -> None:
    token = GuestTokens(shared.signing_key, ttl_seconds=2).issue_for(OWNER.partition("|")[2])[0]
    began = time.monotonic()
    with pytest.raises(Unauthorized):
        await followed_to_the_end(shared, table, token, within=10)
    assert 1 < time.monotonic() - began < 6


@pytest.mark.fault(21)
async def test_an_issuer_that_is_down_is_asked_with_patience_and_the_status_says_so(
    shared: Server, table: Table
) -> None:
    key = await table.add()
    issuer = Issuer(shared, 2, 3600)
    async with following(shared.url, table.session, issuer.fetch) as watcher:
        await settles(watcher, "live")
        issuer.is_down = True
        await settles(watcher, "authenticating", within=4)
        asked = len(issuer.asked_at)
        await table.write(5, key)
        await asyncio.sleep(5)
        assert watcher.live.status == "authenticating"
        assert "the issuer answered 500" in watcher.live.reason
        assert 1 <= len(issuer.asked_at) - asked <= 9
        issuer.is_down = False
        # No wait is longer than half of what the outage has lasted.
        await settles(watcher, "live", within=6)
        await converges(watcher, table, within=1)


@pytest.mark.fault(21)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_gets_no_token_at_all_sends_nothing_and_waits(transport: Transport) -> None:
    polls = [answer("200 OK", page({**ROW, "version": 1}), ETag='"1"'), answer("304 Not Modified")]
    is_down = True

    async def fetch() -> str:
        if is_down:
            raise ConnectionError("no issuer")
        return "t"

    begin = event("request_update", {**ROW, "version": 1}, "c1") + event("synced", {"cursor": "c1"}, "c1")
    async with peer([stream(begin, STAY)], polls) as (url, asked), following(url, "s", fetch, transport) as watcher:
        await settles(watcher, "authenticating", within=1)
        await asyncio.sleep(1)
        assert asked == []
        is_down = False
        await settles(watcher, within=5)
        assert watcher.rows() == {"r": ("pending", 1)}

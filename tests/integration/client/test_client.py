"""The Python client: by stream or by poll, through restarts and refusals, it ends up with what the table holds."""

import asyncio
import signal
import uuid
from typing import Any

import pytest
from tests.conftest import Server, StartServer

from rowcast import ConfigurationError, NotFound, Unauthorized
from rowcast.client import Transport, watch
from scripted import CONNECTED, ROW, STAY, answer, event, page, peer, stream
from watching import becomes, converges, following, settles, table_of, token_of

pytestmark = pytest.mark.anyio
TRANSPORTS: list[Transport] = ["sse", "poll"]


async def follow_to_the_end(url: str, session: object, token: str, transport: Transport) -> None:
    async with asyncio.timeout(10), watch(url, str(session), token=token, transport=transport) as live:
        async for _ in live:
            pass


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_sees_every_change(server: Server, transport: Transport) -> None:
    async with table_of(server.database_url) as table:
        before = await table.add()
        async with following(server.url, table.session, token_of(server), transport) as follower:
            await settles(follower)
            await converges(follower, table)
            key = await table.add()
            await converges(follower, table)
            for status in ("in_progress", "done"):
                await table.set(key, status)
                await converges(follower, table)
            await table.remove(before)
            await converges(follower, table)
        told = [
            (str(change.row["request_id"]), change.removed, change.row.get("status")) for change in follower.changes
        ]
        assert told == [
            (str(before), False, "pending"),
            (str(key), False, "pending"),
            (str(key), False, "in_progress"),
            (str(key), False, "done"),
            (str(before), True, "pending"),
        ]
        assert {change.transport for change in follower.changes} == {transport}
        assert follower.changes[0].lag_seconds is None
        assert all(change.lag_seconds is not None and change.lag_seconds < 5 for change in follower.changes[1:4])


@pytest.mark.parametrize(
    ("transport", "number"), [("sse", signal.SIGTERM), ("poll", signal.SIGKILL), ("auto", signal.SIGKILL)]
)
async def test_it_resumes_after_a_restart_of_the_server_and_loses_nothing(
    start_server: StartServer, transport: Transport, number: int
) -> None:
    server = start_server()
    async with table_of(server.database_url) as table:
        kept, changed, removed = await table.add(), await table.add(), await table.add()
        async with following(server.url, table.session, token_of(server), transport) as follower:
            await settles(follower)
            await converges(follower, table)
            await asyncio.to_thread(server.stop, number)
            await table.set(changed, "in_progress")
            await table.remove(removed)
            added = await table.add()

            async def is_away() -> bool:
                return follower.live.status == "reconnecting"

            await becomes(is_away, what="the client knows that the server is away")
            assert follower.live.reason
            await asyncio.to_thread(start_server, port=int(server.url.rpartition(":")[2]))
            await converges(follower, table)
            await table.set(added, "in_progress")
            await converges(follower, table)
        versions: dict[str, list[int]] = {}
        for change in follower.changes:
            if not change.removed:
                versions.setdefault(change.row["request_id"], []).append(change.row["version"])
        assert all(each == sorted(set(each)) for each in versions.values())
        assert len(versions[str(kept)]) == 1  # it resumed from where it stood


async def test_it_polls_where_streams_are_refused(start_server: StartServer) -> None:
    server = start_server(ENABLE_SSE_ENDPOINT="false")
    async with table_of(server.database_url) as table:
        async with following(server.url, table.session, token_of(server), "auto") as follower:
            await settles(follower)
            assert follower.live.status == "polling"
            await table.set(await table.add(), "in_progress")
            await converges(follower, table)
        assert {change.transport for change in follower.changes} == {"poll"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_ends_where_no_retry_helps(server: Server, transport: Transport) -> None:
    async with table_of(server.database_url) as table:
        cases: list[tuple[object, str, type[Exception]]] = [
            (uuid.uuid4(), token_of(server), NotFound),
            (table.session, server.guest(), NotFound),
            (table.session, "no token", Unauthorized),
        ]
        for session, token, error in cases:
            with pytest.raises(error):
                await follow_to_the_end(server.url, session, token, transport)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://x", "http://", ""])
async def test_an_address_that_cannot_work_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigurationError):
        async with watch(address, "x"):
            pass


# -- servers and proxies that are not what they should be --------------------------------------------------------------


async def test_an_event_that_makes_no_sense_is_asked_for_again() -> None:
    good = event("request_update", {**ROW, "version": 1, "cause": "live"}, "c1")
    bad = event("request_update", "{no json", "c2") + event("heartbeat", {"server_time": 1}, "c3")
    better = event("request_update", {**ROW, "version": 2, "cause": "live"}, "c2")
    async with peer([stream(good, bad), stream(better)]) as (url, asked), following(url, "s", "t", "sse") as follower:

        async def has_all() -> bool:
            return [change.row["version"] for change in follower.changes] == [1, 2]

        await becomes(has_all, what="both versions arrived")
        assert "cursor=c1" in asked[1]
    assert any("request_update" in reason for _, reason in follower.said)


async def test_it_does_not_spin_on_a_proxy_that_answers_every_poll_at_once() -> None:
    row = {**ROW, "version": 1}
    polls = [answer("200 OK", page(row), ETag='"1"'), answer("304 Not Modified")]
    async with peer([], polls) as (url, asked), following(url, "s", "t", "poll") as follower:
        await settles(follower)
        await asyncio.sleep(1.5)  # the time in which it could have spun
        assert len(asked) <= 4


@pytest.mark.parametrize(
    "refusal",
    [
        answer("200 OK", "<html>", Content_Type="text/html"),
        answer("503 Service Unavailable", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        answer("501 Not Implemented"),
        stream(event("goodbye", {"reason": "switched_off", "resume": False, "retry_ms": 10, "transport": "poll"})),
        stream(event("error", {"error": "Internal server error", "code": "internal", "retryable": False})),
        stream(),
    ],
    ids=["portal", "503", "501", "goodbye", "error", "cut"],
)
async def test_it_polls_where_streams_do_not_work(refusal: str) -> None:
    polls = [answer("200 OK", page({**ROW, "version": 1}), ETag='"1"'), answer("304 Not Modified")]
    async with peer([refusal], polls) as (url, asked), following(url, "s", "t", "auto") as follower:

        async def has_row() -> bool:
            return follower.rows() == {"r": ("pending", 1)}

        await becomes(has_row, what="the row arrived by poll")
        assert follower.live.status == "polling"
        assert sum("/api/sse/" in head for head in asked) <= 3


@pytest.mark.parametrize(("reason", "error"), [("revoked", NotFound), ("token_expired", Unauthorized)])
async def test_a_goodbye_for_good_ends_it(reason: str, error: type[Exception]) -> None:
    goodbye = event("goodbye", {"reason": reason, "resume": False, "retry_ms": 10})
    async with peer([stream(goodbye)]) as (url, _):
        with pytest.raises(error):
            await follow_to_the_end(url, "s", "t", "auto")


async def test_another_epoch_replaces_everything_even_where_versions_are_lower() -> None:
    old: dict[str, Any] = {"session_id": "s", "epoch": "e", "mode": "full", "part": 1, "more": False}
    first = event("snapshot", {**old, "requests": [{**ROW, "version": 9}, {**ROW, "request_id": "q", "version": 5}]})
    hello = event("connected", {**CONNECTED, "epoch": "f", "mode": "resync"})
    second = event("snapshot", {**old, "epoch": "f", "requests": [{**ROW, "version": 2}]})
    async with (
        peer([stream(first), stream(hello, second)]) as (url, _),
        following(url, "s", "t", "sse") as follower,
    ):

        async def is_replaced() -> bool:
            return follower.rows() == {"r": ("pending", 2)}

        await becomes(is_replaced, what="the store is replaced")


async def test_the_token_is_not_sent_to_where_a_redirect_leads() -> None:
    async with peer([stream(event("request_update", {**ROW, "version": 1}))]) as (target, asked):
        redirect = answer("307 Temporary Redirect", Location=f"{target}/api/sse/s")
        async with peer([redirect]) as (url, first), following(url, "s", "secret", "sse") as follower:

            async def has_row() -> bool:
                return bool(follower.changes)

            await becomes(has_row, what="the redirect is followed")
            assert "Bearer secret" in first[0]
            assert "secret" not in asked[0]


@pytest.mark.parametrize(("mode", "version"), [("delta", 2), ("full", 1)])
async def test_while_the_server_cannot_hear_its_database_it_asks_beside_the_stream(mode: str, version: int) -> None:
    """An answer in full is left alone: it would remove what the stream has told since."""
    row = event("request_update", {**ROW, "version": 1, "cause": "catchup"}, "c1")
    begin = row + event("synced", {"cursor": "c1"}, "c1") + event("degraded", {"reason": "database", "since": 1.0})
    polls = [answer("200 OK", {**page({**ROW, "version": 2}), "mode": mode}), answer("304 Not Modified")]
    async with peer([stream(begin, STAY)], polls) as (url, asked), following(url, "s", "t", "auto") as follower:

        async def was_asked() -> bool:
            return len(asked) > 1 and follower.rows() == {"r": ("pending", version)}

        await becomes(was_asked, what="the poll told what the stream could not")
        assert follower.live.status == "degraded"
        assert "cursor=c1" in asked[1]
        assert follower.live.cursor == ("c" if mode == "delta" else "c1")


async def test_a_stream_that_begins_with_everything_never_takes_over_from_another() -> None:
    """Its snapshot may be older than what was told meanwhile; so it begins anew, alone."""
    begin = event("request_update", {**ROW, "version": 1}, "c1") + event("synced", {"cursor": "c1"}, "c1")
    bad = event("request_update", "{no json", "c2")
    newer = event("request_update", {**ROW, "request_id": "q", "version": 5, "cause": "live"}, "c3")
    rows = [{**ROW, "version": 2}, {**ROW, "request_id": "q", "version": 5}]
    old = {"session_id": "s", "epoch": "e", "mode": "full", "part": 1, "more": False}
    without = event("snapshot", {**old, "requests": rows[:1]}, "c2") + event("synced", {"cursor": "c2"}, "c2")
    whole = event("snapshot", {**old, "requests": rows}, "c3") + event("synced", {"cursor": "c3"}, "c3")
    streams = [stream(begin, bad, newer, STAY), stream(without, STAY), stream(whole, STAY)]
    async with peer(streams) as (url, asked), following(url, "s", "t", "sse") as follower:

        async def is_right() -> bool:
            return follower.rows() == {"r": ("pending", 2), "q": ("pending", 5)}

        await becomes(is_right, what="both rows are there")
        assert len(asked) == 3
    assert not any(change.removed for change in follower.changes)

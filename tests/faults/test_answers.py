"""Answers that are not what they should be: of somebody else, of a server in trouble, or without sense."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.conftest import StartServer

import rowcast.following.policy
from rowcast.client import Transport
from scripted import ROW, STAY, answer, event, page, peer, stream
from watching import becomes, converges, following, settles, table_of, token_of
from wire import metric

pytestmark = pytest.mark.anyio

PORTAL = answer("200 OK", "<html>Accept our terms, and surf!</html>", Content_Type="text/html")


def row(version: int, **fields: Any) -> dict[str, Any]:
    return {**ROW, "version": version, **fields}


def update(version: int, cursor: str, **fields: Any) -> str:
    return event("request_update", row(version, cause="live", **fields), cursor)


def synced(cursor: str) -> str:
    return event("synced", {"cursor": cursor, "server_time": 1.0}, cursor)


def snapshot(cursor: str, *rows: object) -> str:
    data = {"session_id": "s", "epoch": "e", "mode": "full", "requests": rows, "part": 1, "more": False}
    return event("snapshot", data, cursor)


def lines(asked: list[str]) -> list[str]:
    """The first line of every request."""
    return [head.split("\r\n", 1)[0] for head in asked]


@pytest.mark.fault(16)
async def test_a_page_that_answers_instead_of_the_stream_has_the_client_poll() -> None:
    polls = [answer("200 OK", page(row(3)), ETag='"1"'), answer("304 Not Modified")]
    async with peer([PORTAL], polls) as (url, asked), following(url, "s", "t") as watcher:
        await settles(watcher, "polling", within=2)
        assert watcher.rows() == {"r": ("pending", 3)}
        assert ("reconnecting", "the answer is not an event stream but text/html") in watcher.said
        assert sum("/api/sse/" in line for line in lines(asked)) == 1


@pytest.mark.fault(16)
@pytest.mark.parametrize("transport", ["auto", "sse", "poll"])
async def test_a_portal_that_answers_everything_is_waited_for(transport: Transport) -> None:
    streams = [PORTAL] * 3 + [stream(snapshot("c1", row(3)), synced("c1"), STAY)]
    polls = [PORTAL] * 3 + [answer("200 OK", page(row(3)), ETag='"1"'), answer("304 Not Modified")]
    async with peer(streams, polls) as (url, asked), following(url, "s", "t", transport) as watcher:
        await settles(watcher, within=10)
        assert watcher.rows() == {"r": ("pending", 3)}
        assert any("event stream" in reason or "not understood" in reason for _, reason in watcher.said)
        assert len(asked) <= 7
    assert len(watcher.changes) == 1


@pytest.mark.fault(45)
@pytest.mark.parametrize("retryable", [True, None])
async def test_after_an_error_as_last_frame_it_comes_back_to_where_it_was(retryable: bool | None) -> None:
    said = {"error": "Internal server error", "session_id": "s"}
    error = event("error", said if retryable is None else {**said, "code": "internal", "retryable": retryable})
    first = stream(snapshot("c1", row(1)), synced("c1"), error)
    second = stream(update(2, "c2"), synced("c2"), STAY)
    async with peer([first, second]) as (url, asked), following(url, "s", "t") as watcher:
        await becomes(lambda: watcher.rows() == {"r": ("pending", 2)}, what="the next stream tells", within=2)
        assert watcher.live.status == "live"
        assert "cursor=c1" in lines(asked)[1]
    assert ("reconnecting", "Internal server error") in watcher.said


@pytest.mark.fault(45)
async def test_after_an_error_that_no_retry_helps_it_polls() -> None:
    said = {"error": "Internal server error", "session_id": "s", "code": "internal", "retryable": False}
    polls = [answer("200 OK", page(row(2)), ETag='"1"'), answer("304 Not Modified")]
    broken = stream(snapshot("c1", row(1)), synced("c1"), event("error", said))
    async with peer([broken], polls) as (url, asked), following(url, "s", "t") as watcher:
        await becomes(lambda: watcher.rows() == {"r": ("pending", 2)}, what="a poll tells", within=2)
        assert watcher.live.status == "polling"
        assert sum("/api/sse/" in line for line in lines(asked)) == 1


NONSENSE = {
    "no json": "{no json",
    "no object": "[1]",
    "not a number": '{"request_id": "r", "session_id": "s", "version": NaN}',
    "no version": '{"request_id": "r", "session_id": "s"}',
    "deep": "[" * 5000,
}


@pytest.mark.fault(46)
@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
async def test_an_event_without_sense_is_skipped_and_told_again_beside_the_stream(data: str) -> None:
    """The id of the skipped event is not adopted, nor are later ones: they claim it, too."""
    begin = (snapshot("c1", row(1), row(1, request_id="q")), synced("c1"))
    first = stream(*begin, event("request_update", data, "c2"), update(7, "c3", request_id="q"), STAY)
    second = stream(update(2, "c2"), update(7, "c3", request_id="q"), synced("c3"), STAY)
    async with peer([first, second]) as (url, asked), following(url, "s", "t") as watcher:
        rows = {"r": ("pending", 2), "q": ("pending", 7)}
        await becomes(lambda: watcher.rows() == rows, what="both rows are right", within=2)
        await becomes(lambda: watcher.live.cursor == "c3", what="ids count again", within=2)
        assert "cursor=c1" in lines(asked)[1]
        assert (watcher.live.skipped, watcher.live.reconnects, watcher.live.status) == (1, 0, "live")
        assert {status for status, _ in watcher.said} == {"live"}  # the stream lived until another took over
    assert [change.row["version"] for change in watcher.changes] == [1, 1, 7, 2]


@pytest.mark.fault(46)
async def test_what_makes_no_sense_twice_has_the_client_start_over() -> None:
    bad = event("request_update", "{no json", "c2")
    first = stream(snapshot("c1", row(1)), synced("c1"), bad, STAY)
    again = stream(bad, synced("c2"), STAY)
    third = stream(snapshot("c2", row(2)), synced("c2"), STAY)
    async with peer([first, again, third]) as (url, asked), following(url, "s", "t") as watcher:
        await becomes(lambda: watcher.rows() == {"r": ("pending", 2)}, what="the row is right", within=4)
        await settles(watcher, "live")
        assert ["cursor=" in line for line in lines(asked)] == [False, True, False]
        assert watcher.live.skipped == 2


@pytest.mark.fault(46)
async def test_a_snapshot_without_sense_is_asked_for_until_polling_is_left() -> None:
    broken = stream(event("snapshot", {"session_id": "s", "epoch": "e", "requests": 7}, "c1"), synced("c1"), STAY)
    polls = [answer("200 OK", page(row(2)), ETag='"1"'), answer("304 Not Modified")]
    async with peer([broken], polls) as (url, asked), following(url, "s", "t") as watcher:
        await settles(watcher, "polling", within=10)
        assert watcher.rows() == {"r": ("pending", 2)}
        assert sum("/api/sse/" in line for line in lines(asked)) == 3


@pytest.mark.fault(46)
async def test_unknown_events_and_fields_are_ignored() -> None:
    strange = event("weather", {"sunny": True}, "c2") + event("heartbeat", {"server_time": 1, "moon": "full"}, "c3")
    first = stream(snapshot("c1", row(1, colour="red")), synced("c1"), strange, update(2, "c4", colour="blue"), STAY)
    async with peer([first]) as (url, asked), following(url, "s", "t") as watcher:
        await becomes(lambda: watcher.rows() == {"r": ("pending", 2)}, what="everything is told", within=2)
        assert watcher.live.cursor == "c4"
        assert (watcher.live.skipped, len(asked)) == (0, 1)


@pytest.mark.fault(47)
async def test_polls_keep_to_the_floor_of_a_refusal_for_too_many() -> None:
    refusal = answer("429 Too Many Requests", Retry_After="2")
    polls = [answer("200 OK", page(row(1)), ETag='"1"'), answer("304 Not Modified")]
    async with peer([refusal], polls) as (url, asked), following(url, "s", "t") as watcher:
        began = time.monotonic()
        await settles(watcher, "polling", within=4)
        assert time.monotonic() - began > 1.9
        await asyncio.sleep(max(0.0, began + 5.5 - time.monotonic()))
        polled = [line for line in lines(asked) if "/requests" in line]
        assert 2 <= len(polled) <= 3
        assert all("wait=0" in line for line in polled)  # a poll that is held counts like a stream


@asynccontextmanager
async def crowded(url: str, session: object, token: str, number: int) -> AsyncIterator[None]:
    """Hold so many streams open."""
    address = urlsplit(url)
    head = f"GET /api/sse/{session}?proto=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    writers = []
    try:
        for _ in range(number):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writers.append(writer)
            writer.write(head.encode())
            assert b" 200 " in await reader.readline()
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.mark.fault(47)
async def test_the_twenty_first_stream_is_a_poll_until_there_is_room(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowcast.following.policy, "PROBE_SECONDS", (2.0,))
    server = await asyncio.to_thread(start_server)
    token = token_of(server)
    async with AsyncExitStack() as crowd, table_of(server.database_url) as table:
        key = await table.add()
        await crowd.enter_async_context(crowded(server.url, table.session, token, 20))
        async with following(server.url, table.session, token) as watcher:
            await settles(watcher, "reconnecting", within=2)
            assert watcher.live.reason == "the server answered 429"
            await table.write(5, key)
            await settles(watcher, "polling", within=18)  # ten seconds at most are asked for, and jitter comes on top
            await converges(watcher, table, within=1)
            assert metric(server, "rowcast_streams") == 20
            await crowd.aclose()
            await settles(watcher, "live", within=8)
            await table.write(5, key)
            await converges(watcher, table, within=1)
        assert {change.transport for change in watcher.changes} == {"poll", "sse"}

"""The stream: headers, order, positions, heartbeats, and how it ends."""

import json
import signal
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2
import pytest
from tests.conftest import wait_until

from database import execute, value
from rowcast.http import GuestTokens
from wire import CURSOR, Stream, check, metric, parse_frame, refusal, stream

HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "upgrade"}


def names(opened: Stream) -> list[str]:
    return [frame.event for frame in opened.seen]


def polled_rows(room: Any) -> dict[str, Any]:
    rows = check("SessionRows", room.client.get(room.poll).json())["requests"]
    return {row["request_id"]: row for row in rows}


class TestHeaders:
    def test_are_exactly_those_of_the_contract(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            headers = opened.response.headers
            hello = opened.next()
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-store, no-transform, private"
        assert headers["x-accel-buffering"] == "no"
        assert headers["vary"] == "Authorization, Cookie, Origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"] == hello.data["stream_id"]
        assert not {"content-length", "content-encoding", "server"} & set(headers)
        assert not HOP_BY_HOP & set(headers)
        for name in headers:
            assert len(headers.get_list(name)) == 1, name

    def test_accept_encoding_changes_nothing(self, room: Any) -> None:
        with stream(room.client, room.stream, accept_encoding="gzip, br, zstd") as opened:
            assert "content-encoding" not in opened.response.headers
            opened.until("synced")

    def test_a_callers_request_id_is_not_trusted(self, room: Any) -> None:
        with stream(room.client, room.stream, x_request_id="mine") as opened:
            assert opened.next().data["stream_id"] != "mine"

    def test_head_has_the_headers_and_ends(self, room: Any) -> None:
        response = room.client.head(room.stream)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.content == b""


class TestOrder:
    def test_a_first_connect_to_an_empty_session(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            hello, everything, done = opened.opening()
        assert [hello.event, everything.event, done.event] == ["connected", "snapshot", "synced"]
        assert hello.retry == 1000
        assert hello.data["session_id"] == room.session_id
        assert hello.data["mode"] == "snapshot"
        assert hello.data["protocol"] == 1
        assert abs(hello.data["timestamp"] - time.time()) < 60
        assert everything.data["requests"] == []
        assert everything.data["epoch"] == hello.data["epoch"]
        assert (everything.data["part"], everything.data["more"]) == (1, False)
        assert done.id == done.data["cursor"] == everything.id
        assert done.id.split(".")[1] == hello.data["epoch"]

    def test_old_states_are_never_replayed_as_updates(self, room: Any) -> None:
        asked = [room.ask() for _ in range(3)]
        room.finish(asked[0]["request_id"])
        with stream(room.client, room.stream) as opened:
            opened.opening()
            assert names(opened) == ["connected", "snapshot", "synced"]
            assert opened.rows == polled_rows(room)
            assert len(opened.rows) == 3

    def test_changes_follow_live_with_growing_versions(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            opened.opening()
            asked = room.ask()
            created = opened.news()
            assert created.event == "request_update"
            assert created.data == {k: v for k, v in asked.items() if k != "request"} | {"cause": "live"}
            room.begin(asked["request_id"])
            begun = opened.news()
            room.finish(asked["request_id"])
            done = opened.news()
            assert [f.data["status"] for f in (created, begun, done)] == ["pending", "in_progress", "done"]
            assert [f.data["terminal"] for f in (created, begun, done)] == [False, False, True]
            assert created.data["version"] < begun.data["version"] < done.data["version"]
            assert done.data["has_response"] is True
            assert done.data["has_error"] is False
            assert room.client.delete(f"/api/request/{asked['request_id']}").status_code == 204
            gone = opened.news()
            assert gone.event == "request_removed"
            assert gone.data["version"] > done.data["version"]
            assert opened.rows == {}

    def test_a_failed_request_tells_that_it_has_an_error_and_not_which(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            opened.opening()
            room.finish(room.ask()["request_id"], error="a secret: Zoë")
            failed = opened.until("request_update", status="error")
        assert (failed.data["has_response"], failed.data["has_error"], failed.data["terminal"]) == (False, True, True)
        assert "secret" not in str(opened.seen)

    def test_a_large_session_comes_in_parts_of_200(self, room: Any) -> None:
        execute(
            room.database_url,
            "INSERT INTO request (session_id, request) SELECT $1, 'x' FROM generate_series(1, 401)",
            room.session_id,
        )
        with stream(room.client, room.stream) as opened:
            _, *parts, done = opened.opening()
            assert [frame.event for frame in parts] == ["snapshot"] * 3
            assert [len(frame.data["requests"]) for frame in parts] == [200, 200, 1]
            assert [(frame.data["part"], frame.data["more"]) for frame in parts] == [(1, True), (2, True), (3, False)]
            assert parts[-1].id == done.id
            assert len(opened.rows) == 401

    def test_what_the_listener_cannot_know_is_not_sent(self, room: Any) -> None:
        """Writes that change nothing watched make no frame: a rating, or a state set to what it is."""
        with stream(room.client, room.stream) as opened:
            asked = room.ask()
            opened.until("request_update")
            changed = room.client.patch(f"/api/request/{asked['request_id']}", json={"rating": 5})
            assert changed.status_code == 200
            execute(room.database_url, "UPDATE request SET status = status WHERE request_id = $1", asked["request_id"])
            room.begin(asked["request_id"])
            assert opened.news().data["status"] == "in_progress"


class TestPosition:
    @pytest.mark.parametrize("by", ["header", "query"])
    def test_a_client_that_returns_gets_what_it_missed(self, room: Any, by: str) -> None:
        first, second, third = room.ask(), room.ask(), room.ask()
        with stream(room.client, room.stream) as opened:
            position = opened.opening()[-1].id
        room.finish(first["request_id"])
        room.client.delete(f"/api/request/{second['request_id']}")
        fourth = room.ask()
        path, headers = (room.stream, {"last_event_id": position})
        if by == "query":
            path, headers = (f"{room.stream}?cursor={position}", {})
        with stream(room.client, path, **headers) as opened:
            hello, *missed, _ = opened.opening()
        assert hello.data["mode"] == "resume"
        assert {(frame.event, frame.data["request_id"]) for frame in missed} == {
            ("request_update", first["request_id"]),
            ("request_removed", second["request_id"]),
            ("request_update", fourth["request_id"]),
        }
        assert all(frame.data["cause"] == "catchup" for frame in missed if frame.event == "request_update")
        assert third["request_id"] not in opened.rows
        # Until all of them are out, an id must not claim any of them.
        assert {frame.id for frame in missed} == {position}

    def test_the_id_of_a_live_frame_leads_back_to_it(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            opened.opening()
            first = room.ask()
            position = opened.until("request_update").id
        second = room.ask()
        with stream(room.client, room.stream, last_event_id=position) as opened:
            opened.opening()
            assert second["request_id"] in opened.rows
            assert set(opened.rows) <= {first["request_id"], second["request_id"]}
            assert "snapshot" not in names(opened)

    def test_the_header_beats_the_query(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            position = opened.opening()[-1].id
        with stream(room.client, f"{room.stream}?cursor=nonsense", last_event_id=position) as opened:
            assert opened.opening()[0].data["mode"] == "resume"
        with stream(room.client, f"{room.stream}?cursor={position}", last_event_id="nonsense") as opened:
            assert opened.opening()[0].data["mode"] == "resync"
        with stream(room.client, f"{room.stream}?cursor={position}", last_event_id="") as opened:
            assert opened.opening()[0].data["mode"] == "resume"

    @pytest.mark.parametrize(
        "cursor",
        ["garbage", "0", "1.", "-1", "1.0.0", "x" * 10_000, "%00", "1%0A2", "%F0%9F%98%80", "1.0123456789abcdef.7",
         "1.0123456789abcdef.99999999999999999999", "'; DROP TABLE request; --", "2.0123456789abcdef.7"],
        ids=lambda text: text[:20],
    )  # fmt: skip
    def test_what_cannot_be_understood_leads_to_everything(self, room: Any, cursor: str) -> None:
        asked = room.ask()
        with stream(room.client, f"{room.stream}?cursor={quote(cursor, safe='%')}") as opened:
            hello, again, everything, _ = opened.opening()
        assert hello.data["mode"] == "resync"
        assert again.event == "resync"
        assert again.data["reason"] in ("bad_cursor", "epoch_changed")
        assert everything.event == "snapshot"
        assert list(opened.rows) == [asked["request_id"]]

    def test_the_future_and_other_epochs_lead_to_everything(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            position = opened.opening()[-1].id
        version, epoch, horizon, tag = position.split(".")
        other = format(int(epoch, 16) ^ 1, "016x")
        for cursor, reason in (
            (f"{version}.{epoch}.{int(horizon) + 1_000_000}.{tag}", "bad_cursor"),
            (f"{version}.{other}.{horizon}.{tag}", "epoch_changed"),
        ):
            with stream(room.client, room.stream, last_event_id=cursor) as opened:
                assert opened.opening()[1].data == {"reason": reason}

    def test_a_long_header_is_no_trouble(self, room: Any) -> None:
        with stream(room.client, room.stream, last_event_id="y" * 10_000) as opened:
            assert opened.opening()[0].data["mode"] == "resync"

    @pytest.mark.fault(25)
    def test_another_sessions_position_leads_to_everything(self, shared: Any, room: Any, open_room: Any) -> None:
        other = open_room(shared)
        theirs = other.ask()
        with stream(other.client, other.stream) as opened:
            position = opened.opening()[-1].id
        other.finish(theirs["request_id"])
        mine = room.ask()
        with stream(room.client, room.stream, last_event_id=position) as opened:
            assert opened.opening()[1].data == {"reason": "bad_cursor"}
            assert set(opened.rows) == {mine["request_id"]}


class TestHeartbeat:
    def test_is_a_comment_and_an_event_in_one_frame(self, room: Any) -> None:
        with stream(room.client, room.stream) as opened:
            opened.opening()
            before = time.monotonic()
            beat = opened.until("heartbeat")
            assert 0.5 < time.monotonic() - before < 5
        assert beat.comment == "keep-alive"
        assert beat.id == beat.data["cursor"]
        assert CURSOR.fullmatch(beat.id)

    def test_moves_the_position(self, room: Any) -> None:
        """Without traffic of its own a session's position advances with the probe, so that catch-up stays short."""
        with stream(room.client, room.stream) as opened:
            start = int(opened.opening()[-1].id.split(".")[2])
            execute(room.database_url, "SELECT pg_current_xact_id()")
            while int(opened.until("heartbeat").id.split(".")[2]) <= start:
                pass

    @pytest.mark.parametrize(("wanted", "given"), [("0", 1000), ("1500", 1500), ("999999999", 60_000), (None, 1000)])
    def test_can_be_chosen_within_bounds(self, room: Any, wanted: str | None, given: int) -> None:
        with stream(room.client, room.stream + (f"?hb={wanted}" if wanted else "")) as opened:
            assert opened.next().data["heartbeat_ms"] == given

    @pytest.mark.parametrize("wanted", ["", "-1", "1e3", "1.5", "٣", "x", "1000000000", "%00"])
    def test_must_be_a_number(self, room: Any, wanted: str) -> None:
        refusal(room.client.get(f"{room.stream}?hb={wanted}"), 400, "invalid_request")


class TestRefusals:
    @pytest.mark.parametrize(
        "accept",
        ["application/json", "text/html, image/*", "text/event-stream;q=0", "text/event-stream;q=0.000, */*",
         "text/*;q=0"],
    )  # fmt: skip
    def test_406(self, room: Any, accept: str) -> None:
        refusal(room.client.get(room.stream, headers={"Accept": accept}), 406, "not_acceptable")

    @pytest.mark.parametrize("accept", ["text/event-stream", "*/*", "", "text/*;q=0.5", "text/html, TEXT/Event-Stream"])
    def test_what_is_accepted(self, room: Any, accept: str) -> None:
        with stream(room.client, room.stream, accept=accept) as opened:
            opened.next()

    def test_too_many_of_one_user(self, start_server: Any, open_room: Any) -> None:
        server = start_server(ROWCAST_STREAMS_PER_OWNER=2)
        room = open_room(server)
        with stream(room.client, room.stream), stream(room.client, room.stream) as second:
            second.opening()
            refusal(room.client.get(room.stream), 429, "too_many_streams")
            other = open_room(server)
            with stream(other.client, other.stream) as opened:
                opened.opening()
            etag = room.client.get(room.poll).headers["etag"]  # a poll that is not held keeps nothing open
            held = room.client.get(f"{room.poll}?wait=5", headers={"If-None-Match": etag})
            refusal(held, 429, "too_many_streams")

    def test_too_many_of_all(self, start_server: Any, open_room: Any) -> None:
        server = start_server(ROWCAST_STREAMS_PER_PROCESS=1)
        room, other = open_room(server), open_room(server)
        with stream(room.client, room.stream):
            refusal(other.client.get(other.stream), 503, "overloaded")

    def test_switched_off(self, start_server: Any, open_room: Any) -> None:
        room = open_room(start_server(ENABLE_SSE_ENDPOINT="false"))
        refusal(room.client.get(room.stream), 503, "switched_off")
        assert room.client.get(room.poll).status_code == 200


class TestEnd:
    def test_nothing_is_left_to_wait_for(self, room: Any) -> None:
        until = f"{room.stream}?until=terminal"
        with stream(room.client, until) as opened:
            opened.opening()  # an empty session may still get its first request
        asked = room.ask()
        with stream(room.client, until) as opened:
            position = opened.opening()[-1].id
        room.finish(asked["request_id"])
        response = room.client.get(until)
        assert (response.status_code, response.content) == (204, b"")
        response = room.client.get(until, headers={"Last-Event-ID": position})
        assert response.status_code == 204

    def test_a_token_ends_and_the_stream_with_it(self, start_server: Any, open_room: Any) -> None:
        server = start_server(ROWCAST_HEARTBEAT_MS=1000)
        room = open_room(server)
        owner = value(server.database_url, "SELECT user_owner FROM session WHERE session_id = $1", room.session_id)
        token, _ = GuestTokens(server.signing_key, ttl_seconds=3).issue_for(owner.partition("|")[2])
        ends = time.time() + 3
        with server.client(token) as client, stream(client, room.stream) as opened:
            warning = opened.until("token_expiring")
            assert abs(warning.data["expires_at"] - ends) < 1.5
            assert 0 < warning.data["in_ms"] <= 3000
            goodbye = opened.until("goodbye")
            assert goodbye.data["reason"] == "token_expired"
            assert abs(time.time() - warning.data["expires_at"]) < 0.5
            assert opened.next_or_end() is None
            refusal(client.get(room.stream), 401, "unauthorized")

    def test_old_age_ends_streams_of_clients_that_come_back(self, start_server: Any, open_room: Any) -> None:
        room = open_room(start_server(ROWCAST_MAX_STREAM_AGE_SECONDS=1, ROWCAST_HEARTBEAT_MS=1000))
        with stream(room.client, f"{room.stream}?proto=1") as opened, stream(room.client, room.stream) as simple:
            goodbye = opened.until("goodbye")
            assert (goodbye.data["reason"], goodbye.data["resume"]) == ("max_age", True)
            assert opened.next_or_end() is None
            asked = room.ask()
            simple.until("request_update", request_id=asked["request_id"])

    def test_every_end_is_counted_and_in_the_log(self, start_server: Any, open_room: Any) -> None:
        server = start_server(ROWCAST_MAX_STREAM_AGE_SECONDS=2, ROWCAST_HEARTBEAT_MS=1000)
        room = open_room(server)
        with stream(room.client, f"{room.stream}?proto=1") as aged, stream(room.client, room.stream) as left:
            left.opening()
            aged.until("goodbye")
            assert aged.next_or_end() is None
        ends = {aged.response.headers["x-request-id"]: "max_age", left.response.headers["x-request-id"]: "client_left"}

        def logged() -> dict[str, str]:
            lines = [json.loads(line) for line in server.log.splitlines() if '"a stream closed"' in line]
            assert all(line["events"] >= 3 and line["seconds"] > 0 for line in lines)
            return {line["stream_id"]: line["reason"] for line in lines}

        wait_until(lambda: logged() == ends, what=lambda: f"both ends are in the log: {logged()}")
        for reason in ends.values():
            assert metric(server, f'rowcast_stream_seconds_count{{reason="{reason}"}}') == 1

    def test_what_is_taken_from_its_owner_is_watched_no_longer(self, start_server: Any, open_room: Any) -> None:
        room = open_room(start_server(ROWCAST_RECHECK_SECONDS=1, ROWCAST_HEARTBEAT_MS=1000))
        ticket = check("StreamTicket", room.client.post(f"{room.stream}/ticket").json())
        with (
            httpx2.Client(base_url=room.client.base_url) as without_header,
            stream(room.client, room.stream) as opened,
            stream(without_header, ticket["url"]) as other,
        ):
            opened.opening()
            other.opening()
            for _ in range(3):  # still the owner's
                opened.until("heartbeat")
            execute(
                room.database_url,
                "UPDATE session SET user_owner = 'guest|somebody' WHERE session_id = $1",
                room.session_id,
            )
            for each in (opened, other):
                goodbye = each.until("goodbye")
                assert (goodbye.data["reason"], goodbye.data["resume"]) == ("revoked", False)
                assert each.next_or_end() is None
        assert room.client.get(room.stream).status_code == 404

    @pytest.mark.fault(22)
    def test_a_session_that_changes_hands_is_told_to_nobody_else(
        self, shared: Any, room: Any, in_background: Callable[..., Any]
    ) -> None:
        """At once, and what the new owner does from then on is not told; neither is it to a poll that is held."""
        asked = room.ask()
        etag = room.client.get(room.poll).headers["etag"]
        held = in_background(lambda: room.client.get(f"{room.poll}?wait=25", headers={"If-None-Match": etag}))
        with stream(room.client, room.stream) as opened:
            opened.opening()
            room.begin(asked["request_id"])
            assert held.result(timeout=10).status_code == 200
            etag = room.client.get(room.poll).headers["etag"]
            held = in_background(lambda: room.client.get(f"{room.poll}?wait=25", headers={"If-None-Match": etag}))
            execute(
                room.database_url,
                f"""DO $$ BEGIN
                    UPDATE session SET user_owner = 'guest|somebody' WHERE session_id = '{room.session_id}';
                    COMMIT;
                    UPDATE request SET status = 'done', response = '42' WHERE request_id = '{asked["request_id"]}';
                END $$""",
            )
            began = time.monotonic()
            assert [frame.event for frame in iter(opened.next_or_end, None) if frame.event != "heartbeat"] == [
                "request_update", "goodbye",
            ]  # fmt: skip
            assert opened.seen[-1].data["reason"] == "revoked"
            assert opened.seen[-1].data["resume"] is False
            assert time.monotonic() - began < 1
        refusal(held.result(timeout=10), 404, "not_found")
        refusal(room.client.get(room.stream), 404, "not_found")

    @pytest.mark.fault(24)
    @pytest.mark.parametrize("how", ["the API", "SQL", "TRUNCATE"])
    def test_a_session_that_is_deleted_is_taken_leave_of(self, start_server: Any, open_room: Any, how: str) -> None:
        room = open_room(start_server())
        asked = room.ask()
        with stream(room.client, room.stream) as opened:
            opened.opening()
            if how == "the API":
                assert room.client.delete(f"/api/session/{room.session_id}").status_code == 204
            elif how == "SQL":
                execute(room.database_url, "DELETE FROM session WHERE session_id = $1", room.session_id)
            else:
                execute(room.database_url, "TRUNCATE session CASCADE")
            if how != "TRUNCATE":
                opened.until("request_removed", request_id=asked["request_id"])
            goodbye = opened.until("goodbye")
            assert (goodbye.data["reason"], goodbye.data["resume"]) == ("session_closed", False)
            assert opened.next_or_end() is None
        refusal(room.client.get(room.stream), 404, "not_found")

    def test_a_drain_says_goodbye(self, start_server: Any, open_room: Any) -> None:
        """Those who come back by themselves go first; others when the window is over; then the process is gone."""
        server = start_server(ROWCAST_DRAIN_SECONDS=2)
        room = open_room(server)
        with stream(room.client, f"{room.stream}?proto=1") as opened, stream(room.client, room.stream) as simple:
            opened.opening()
            simple.opening()
            asked = room.ask()
            simple.until("request_update")
            server.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            goodbye = opened.until("goodbye")
            assert goodbye.data["reason"] == "drain"
            assert goodbye.data["resume"] is True
            assert 0 < goodbye.data["retry_ms"] <= 2000
            assert time.monotonic() - started < 1.5
            assert opened.next_or_end() is None
            room.begin(asked["request_id"])  # who stays longer still hears what happens
            assert simple.until("request_update", status="in_progress")
            assert simple.until("goodbye").data["reason"] == "drain"
            assert time.monotonic() - started > 1.5
            assert simple.next_or_end() is None
        assert server.process.wait(5) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log

    def test_a_held_poll_is_answered_when_the_server_drains(
        self, start_server: Any, open_room: Any, in_background: Callable[..., Any], wait_for_fact: Callable[..., None]
    ) -> None:
        server = start_server(ROWCAST_DRAIN_SECONDS=2)
        room = open_room(server)
        etag = room.client.get(room.poll).headers["etag"]
        held = in_background(lambda: room.client.get(f"{room.poll}?wait=25", headers={"If-None-Match": etag}))
        wait_for_fact(lambda: readers(server) == 1)
        server.process.send_signal(signal.SIGTERM)
        assert held.result(timeout=10).status_code == 304
        assert server.process.wait(5) in (0, -signal.SIGTERM)

    def test_a_client_that_leaves_is_forgotten(
        self, start_server: Any, open_room: Any, wait_for_fact: Callable[..., None]
    ) -> None:
        server = start_server()
        room = open_room(server)
        with stream(room.client, room.stream) as opened:
            opened.opening()
            assert metric(server, "rowcast_streams") == 1
        wait_for_fact(lambda: metric(server, "rowcast_streams") == 0)
        assert metric(server, 'rowcast_stream_seconds_count{reason="client_left"}') == 1
        assert "Traceback" not in server.log


def readers(server: Any) -> float:
    """How many polls read so far and did not answer: each held poll has read its session once."""
    reads = metric(server, 'rowcast_read_seconds_count{kind="session"}')
    return reads - metric(server, "rowcast_poll_seconds_count")


class TestRawBytes:
    def test_headers_and_first_frames_are_there_at_once(self, shared: Any, room: Any) -> None:
        """Without a client library: what comes before anything happens is the whole opening, in chunked encoding."""
        address = urlsplit(shared.url)
        assert address.hostname is not None
        with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
            token = room.client.headers["authorization"]
            raw.sendall(f"GET {room.stream} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
            received = raw.recv(65_536)  # one write of the server, so one read
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        size, _, rest = body.partition(b"\r\n")
        frames = rest[: int(size, 16)].split(b"\n\n")
        assert frames[-1] == b""
        assert [parse_frame(frame).event for frame in frames[:-1]] == ["connected", "snapshot", "synced"]

    def test_a_session_that_does_not_exist(self, room: Any) -> None:
        refusal(room.client.get(f"/api/sse/{uuid4()}"), 404, "not_found")

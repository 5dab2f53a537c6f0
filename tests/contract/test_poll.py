"""Polling: entity tags, deltas, and waiting that costs the database nothing."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from database import execute, value
from wire import check, metric, refusal, stream

Wait = Callable[..., None]
Background = Callable[..., Any]


def poll(room: Any, *, etag: str | None = None, **query: object) -> httpx2.Response:
    headers = {"If-None-Match": etag} if etag else {}
    response: httpx2.Response = room.client.get(room.poll, params=query, headers=headers)
    if response.status_code == 200:
        check("SessionRows", response.json())
    if response.status_code in (200, 304):
        assert response.headers["cache-control"] == "private, no-cache"
        assert response.headers["vary"] == "Authorization, Cookie, Origin"
        assert response.headers["etag"].startswith('"')
        assert response.headers["x-request-id"]
    if response.status_code == 304:
        assert response.content == b""
        assert "content-type" not in response.headers
    return response


class TestSession:
    def test_is_the_same_as_the_stream(self, room: Any) -> None:
        for _ in range(3):
            room.finish(room.ask()["request_id"])
        with stream(room.client, room.stream) as opened:
            opened.opening()
            body = poll(room).json()
            assert {row["request_id"]: row for row in body["requests"]} == opened.rows
        assert body["mode"] == "full"
        assert body["session_id"] == room.session_id
        assert body["cursor"].startswith(f"1.{body['epoch']}.")
        assert body["removed"] == []

    def test_unchanged_is_304(self, room: Any) -> None:
        room.ask()
        etag = poll(room).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response = poll(room, etag=known)
            assert response.status_code == 304, known
            assert response.headers["etag"] == etag
        assert poll(room, etag='"other"').status_code == 200

    def test_every_change_changes_the_tag(self, room: Any) -> None:
        tags = [poll(room).headers["etag"]]
        asked = room.ask()
        tags.append(poll(room).headers["etag"])
        room.begin(asked["request_id"])
        tags.append(poll(room).headers["etag"])
        room.finish(asked["request_id"])
        tags.append(poll(room).headers["etag"])
        assert len(set(tags)) == 4
        room.client.delete(f"/api/request/{asked['request_id']}")
        assert poll(room).headers["etag"] == tags[0]  # the tag names the state, and it is empty again

    def test_a_transaction_that_is_open_elsewhere_hides_nothing(self, room: Any) -> None:
        """Different states share a cursor then; the tag tells them apart all the same."""
        before = poll(room)
        asked = room.ask()
        after = poll(room, etag=before.headers["etag"], cursor=before.json()["cursor"])
        assert after.status_code == 200
        assert [row["request_id"] for row in after.json()["requests"]] == [asked["request_id"]]

    def test_a_delta_has_what_changed_and_what_went(self, room: Any) -> None:
        kept, gone = room.ask(), room.ask()
        first = poll(room).json()
        room.client.delete(f"/api/request/{gone['request_id']}")
        added = room.ask()
        second = poll(room, cursor=first["cursor"]).json()
        assert second["mode"] == "delta"
        changed = {row["request_id"] for row in second["requests"]}
        assert added["request_id"] in changed
        assert kept["request_id"] not in changed or value(
            room.database_url, "SELECT rowcast_xid::text::bigint FROM request WHERE request_id = $1", kept["request_id"]
        ) >= int(first["cursor"].rpartition(".")[2])
        (removed,) = second["removed"]
        assert removed["request_id"] == gone["request_id"]
        assert removed["version"] > gone["version"]
        assert second["epoch"] == first["epoch"]

    def test_a_delta_of_nothing_is_empty(self, room: Any) -> None:
        room.ask()
        cursor = poll(room).json()["cursor"]
        execute(room.database_url, "SELECT pg_current_xact_id()")
        cursor = poll(room, cursor=cursor).json()["cursor"]
        body = poll(room, cursor=cursor).json()
        assert (body["mode"], body["requests"], body["removed"]) == ("delta", [], [])

    @pytest.mark.parametrize("cursor", ["garbage", "\0", "1\n2", "x" * 10_000, "1.0123456789abcdef.5", "1.0.0"])
    def test_a_bad_cursor_leads_to_everything(self, room: Any, cursor: str) -> None:
        asked = room.ask()
        body = poll(room, cursor=cursor).json()
        assert body["mode"] == "full"
        assert [row["request_id"] for row in body["requests"]] == [asked["request_id"]]

    def test_says_how_often_to_ask(self, room: Any) -> None:
        assert poll(room).json()["poll"] == {"interval_ms": 15_000, "max_wait_s": 25}
        asked = room.ask()
        assert poll(room).json()["poll"]["interval_ms"] == 1000
        room.finish(asked["request_id"])
        assert poll(room).json()["poll"]["interval_ms"] == 15_000

    @pytest.mark.parametrize("wait", ["26", "-1", "1.5", "x", "", "٣", "1e1"])
    def test_wait_is_a_number_from_0_to_25(self, room: Any, wait: str) -> None:
        refusal(poll(room, wait=wait), 400, "invalid_request")
        refusal(room.client.get(f"/api/request/{room.session_id}/1", params={"wait": wait}), 400, "invalid_request")

    def test_head(self, room: Any) -> None:
        response = room.client.head(room.poll)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["etag"] == poll(room).headers["etag"]


class TestWaiting:
    def test_who_knows_nothing_does_not_wait(self, room: Any) -> None:
        started = time.monotonic()
        assert poll(room, wait=25).status_code == 200
        assert time.monotonic() - started < 5

    def test_who_knows_an_old_state_does_not_wait(self, room: Any) -> None:
        started = time.monotonic()
        assert poll(room, wait=25, etag='"old"').status_code == 200
        assert time.monotonic() - started < 5

    def test_ends_unchanged_after_that_time(self, room: Any) -> None:
        etag = poll(room).headers["etag"]
        started = time.monotonic()
        assert poll(room, wait=1, etag=etag).status_code == 304
        assert 0.9 < time.monotonic() - started < 5

    def test_ends_with_the_change(self, shared: Any, room: Any, in_background: Background, wait_for_fact: Wait) -> None:
        etag = poll(room).headers["etag"]
        reads = metric(shared, "rowcast_read_seconds_count")
        held = in_background(poll, room, wait=25, etag=etag)
        wait_for_fact(lambda: metric(shared, "rowcast_read_seconds_count") == reads + 1)
        started = time.monotonic()
        asked = room.ask()
        response = held.result(timeout=15)
        assert time.monotonic() - started < 5
        assert [row["request_id"] for row in response.json()["requests"]] == [asked["request_id"]]

    def test_is_done_by_the_hub_and_not_by_the_database(
        self, start_server: Any, open_room: Any, in_background: Background, wait_for_fact: Wait
    ) -> None:
        """Five held polls read once each when they come, and once more when something happened; nothing between."""
        server = start_server(ROWCAST_SWEEP_SECONDS=600)
        room, bystander = open_room(server), open_room(server)
        etag = poll(room).headers["etag"]
        counted = "rowcast_read_seconds_count"
        before = metric(server, counted)
        held = []
        for number in range(1, 6):  # one after the other: those that come together share a read
            held.append(in_background(poll, room, wait=5, etag=etag))
            wait_for_fact(lambda: metric(server, counted) == before + number)  # noqa: B023
        bystander.ask()  # somebody else's change wakes nobody
        wait_for_fact(lambda: metric(server, 'rowcast_notifications_total{outcome="unwatched"}') >= 1)
        answers = [each.result(timeout=15).status_code for each in held]
        assert answers == [304] * 5
        assert metric(server, counted) == before + 5

    def test_a_change_while_it_arrives_is_not_missed(self, room: Any, in_background: Background) -> None:
        """The reader is registered before it reads: whatever the order, one of the two sees the change."""
        etag = poll(room).headers["etag"]
        for _ in range(5):
            held = in_background(poll, room, wait=20, etag=etag)
            room.ask()
            started = time.monotonic()
            response = held.result(timeout=15)
            assert response.status_code == 200
            assert time.monotonic() - started < 5
            etag = response.headers["etag"]

    def test_a_session_that_is_deleted_meanwhile(
        self, shared: Any, room: Any, in_background: Background, wait_for_fact: Wait
    ) -> None:
        room.ask()
        etag = poll(room).headers["etag"]
        reads = metric(shared, "rowcast_read_seconds_count")
        held = in_background(poll, room, wait=25, etag=etag)
        wait_for_fact(lambda: metric(shared, "rowcast_read_seconds_count") == reads + 1)
        assert room.client.delete(f"/api/session/{room.session_id}").status_code == 204
        refusal(held.result(timeout=15), 404, "not_found")
        refusal(poll(room), 404, "not_found")


class TestRequest:
    def path(self, room: Any, number: object = 1) -> str:
        return f"/api/request/{room.session_id}/{number}"

    def test_has_the_answer(self, room: Any) -> None:
        asked = room.ask("sales_by_month year=2025")
        first = room.client.get(self.path(room))
        body = check("RequestDetail", first.json())
        assert {name: body[name] for name in asked} == asked
        assert (body["handler"], body["response"], body["error"], body["query_ids"]) == ("questions", None, None, [])
        room.finish(asked["request_id"], response='{"rows": 1}')
        second = room.client.get(self.path(room), headers={"If-None-Match": first.headers["etag"]})
        body = check("RequestDetail", second.json())
        assert (body["status"], body["response"], body["has_response"]) == ("done", '{"rows": 1}', True)
        assert second.headers["cache-control"] == "private, no-cache"

    def test_unchanged_is_304(self, room: Any) -> None:
        room.ask()
        etag = room.client.get(self.path(room)).headers["etag"]
        again = room.client.get(self.path(room), headers={"If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)

    def test_waits_for_its_end(self, shared: Any, room: Any, in_background: Background, wait_for_fact: Wait) -> None:
        asked = room.ask()
        etag = room.client.get(self.path(room)).headers["etag"]
        polls = 'rowcast_notifications_total{outcome="delivered"}'
        delivered = metric(shared, polls)
        held = in_background(
            lambda: room.client.get(self.path(room), params={"wait": 25}, headers={"If-None-Match": etag})
        )
        other = room.ask()  # another row of the session wakes the poll; it looks, and waits on

        def is_held() -> bool:
            room.client.patch(f"/api/request/{other['request_id']}", json={"rating": 1})
            execute(room.database_url, "UPDATE request SET response = coalesce(response, '') || 'x' "
                    "WHERE request_id = $1", other["request_id"])  # fmt: skip
            return metric(shared, polls) > delivered

        wait_for_fact(is_held)
        assert not held.done()
        room.finish(asked["request_id"])
        body = held.result(timeout=15).json()
        assert body["status"] in ("in_progress", "done")

    @pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "01", "٣", "%00", "10000000001", "9" * 400])
    def test_a_number_that_is_none(self, room: Any, number: str) -> None:
        refusal(room.client.get(self.path(room, number)), 400, "invalid_request")

    @pytest.mark.parametrize("number", ["2", "2147483647", "2147483648", "9999999999"])
    def test_a_number_that_was_not_given(self, room: Any, number: str) -> None:
        room.ask()
        refusal(room.client.get(self.path(room, number)), 404, "not_found")

    def test_of_a_session_that_is_not_there(self, room: Any) -> None:
        refusal(room.client.get(f"/api/request/{uuid4()}/1"), 404, "not_found")

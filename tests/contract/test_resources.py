"""Sessions, requests and queries: what their owner can do, and what is refused in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from database import execute, value
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from wire import check, get, refusal

ROUNDED = 0.0005


class TestSessions:
    def test_live_their_life(self, room: Any) -> None:
        created = room.client.post("/api/session", json={"name": "Zoë's 用户 😀", "tags": ["a", "b"]})
        assert created.status_code == 201
        body = check("SessionBody", created.json())
        path = f"/api/session/{body['session_id']}"
        assert (body["name"], body["tags"], body["request_count"]) == ("Zoë's 用户 😀", ["a", "b"], 0)
        assert abs(body["created_at"] * 1000 - round(body["created_at"] * 1000)) < ROUNDED
        assert check("SessionBody", room.client.get(path).json()) == body
        renamed = check("SessionBody", room.client.patch(path, json={"name": "other"}).json())
        assert (renamed["name"], renamed["tags"]) == ("other", ["a", "b"])
        assert renamed["updated_at"] >= body["updated_at"]
        assert check("SessionBody", room.client.patch(path, json={"tags": []}).json())["name"] == "other"
        room.client.post(f"/api/request/{body['session_id']}", json={"request": "x"})
        assert room.client.get(path).json()["request_count"] == 1
        deleted = room.client.delete(path)
        assert (deleted.status_code, deleted.content) == (204, b"")
        for method in ("GET", "PATCH", "DELETE"):
            refusal(room.client.request(method, path, json={} if method == "PATCH" else None), 404, "not_found")
        left = value(room.database_url, "SELECT count(*) FROM request WHERE session_id = $1", body["session_id"])
        assert left == 0

    def test_need_no_body(self, room: Any) -> None:
        assert check("SessionBody", room.client.post("/api/session").json())["name"] == ""

    def test_are_listed_page_by_page_newest_first(self, shared: Any, open_room: Any) -> None:
        room = open_room(shared)
        made = [room.session_id]
        made += [room.client.post("/api/session", json={"name": str(n)}).json()["session_id"] for n in range(6)]
        # Two made in the same instant are told apart by their ids.
        execute(room.database_url, "UPDATE session SET created_at = '2025-01-01' WHERE session_id = ANY ($1)", made[:3])
        listed: list[str] = []
        after: str | None = None
        pages = 0
        while True:
            query = {"limit": "2"} | ({"after": after} if after else {})
            page = check("SessionPage", room.client.get("/api/session", params=query).json())
            listed += [session["session_id"] for session in page["sessions"]]
            pages, after = pages + 1, page["next"]
            if after is None:
                break
        assert pages == 4
        assert listed == [*reversed(made[3:]), *sorted(made[:3], reverse=True)]
        whole = room.client.get("/api/session").json()
        assert [session["session_id"] for session in whole["sessions"]] == listed

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x", "after=%00", "after=😀",
                                       "after=OTk5OTk5OTk5OTk5OTk5OTk5OTk5LjA", "after=MS54"])  # fmt: skip
    def test_bad_pages(self, room: Any, query: str) -> None:
        refusal(room.client.get(f"/api/session?{query}"), 400, "invalid_request")


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        ['{"name": 1}', '{"nome": "x"}', '{"name": "' + "x" * 201 + '"}', '{"name": "a\\u0000b"}', '{"tags": "a"}',
         '{"tags": [""]}', '{"tags": ["' + "x" * 51 + '"]}', '{"tags": [' + ",".join(['"x"'] * 21) + "]}", "[]", "1",
         "{", "", '{"name": "\\ud800"}'],
    )  # fmt: skip
    def test_that_are_invalid(self, room: Any, body: str) -> None:
        response = room.client.patch(
            f"/api/session/{room.session_id}", content=body, headers={"Content-Type": "application/json"}
        )
        refusal(response, 422, "invalid_body")

    @pytest.mark.parametrize("body", [b"\xff\xfe{", b"[" * 30_000])
    def test_that_cannot_be_read(self, room: Any, body: bytes) -> None:
        response = room.client.patch(
            f"/api/session/{room.session_id}", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code in (400, 422)
        refusal(response, response.status_code)

    @pytest.mark.parametrize("body", ['{"rating": 6}', '{"rating": -2}', '{"rating": true}', '{"rating": "5"}',
                                      '{"review": "' + "x" * 4001 + '"}', '{"retry": null}', '{"retry": 1}',
                                      '{"status": "done"}'])  # fmt: skip
    def test_that_no_request_can_become(self, room: Any, body: str) -> None:
        asked = room.ask()
        response = room.client.patch(
            f"/api/request/{asked['request_id']}", content=body, headers={"Content-Type": "application/json"}
        )
        refusal(response, 422, "invalid_body")

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
    def test_that_are_not_json(self, room: Any, kind: str | None) -> None:
        headers = {"Content-Type": kind} if kind else {}
        for method, path in (("POST", "/api/session"), ("POST", f"/api/request/{room.session_id}")):
            response = room.client.request(method, path, content=b'{"request": "x"}', headers=headers)
            refusal(response, 415, "unsupported_media_type")

    def test_that_are_too_large(self, room: Any) -> None:
        large = b'{"request": "' + b"x" * 65_536 + b'"}'
        path = f"/api/request/{room.session_id}"
        headers = {"Content-Type": "application/json"}
        refusal(room.client.post(path, content=large, headers=headers), 413, "body_too_large")
        parts = (large[start : start + 1000] for start in range(0, len(large), 1000))
        refusal(room.client.post(path, content=parts, headers=headers), 413, "body_too_large")
        largest = b'{"request": "' + b"x" * (65_536 - 15) + b'"}'
        assert room.client.post(path, content=largest, headers=headers).status_code == 201
        parts = (largest[start : start + 1000] for start in range(0, len(largest), 1000))
        assert room.client.post(path, content=parts, headers=headers).status_code == 201


class TestRequests:
    def test_are_numbered_and_located(self, room: Any) -> None:
        first, second = room.ask("a"), room.ask("b")
        assert (first["sequence_number"], second["sequence_number"]) == (1, 2)
        assert (first["status"], first["terminal"], first["request"]) == ("pending", False, "a")
        response = room.client.post(f"/api/request/{room.session_id}", json={"request": "c", "handler": "other"})
        assert response.headers["location"] == f"/api/request/{room.session_id}/3"
        assert room.client.get(response.headers["location"]).json()["handler"] == "other"

    def test_are_asked_once_for_one_key(self, room: Any) -> None:
        path, headers = f"/api/request/{room.session_id}", {"Idempotency-Key": uuid4().hex}
        first = room.client.post(path, json={"request": "a"}, headers=headers)
        again = room.client.post(path, json={"request": "a"}, headers=headers)
        assert (again.status_code, again.json()) == (201, first.json())
        refusal(room.client.post(path, json={"request": "b"}, headers=headers), 409, "idempotency_key_reused")
        other = room.client.post("/api/session").json()["session_id"]
        response = room.client.post(f"/api/request/{other}", json={"request": "a"}, headers=headers)
        refusal(response, 409, "idempotency_key_reused")
        assert len(room.client.get(room.poll).json()["requests"]) == 1

    def test_have_keys_of_their_owner_only(self, shared: Any, room: Any, open_room: Any) -> None:
        headers = {"Idempotency-Key": uuid4().hex}
        other = open_room(shared)
        ids = {
            each.client.post(f"/api/request/{each.session_id}", json={"request": "a"}, headers=headers).json()[
                "request_id"
            ]
            for each in (room, other)
        }
        assert len(ids) == 2

    def test_with_one_key_at_the_same_time(self, room: Any, in_background: Callable[..., Any]) -> None:
        path, headers = f"/api/request/{room.session_id}", {"Idempotency-Key": uuid4().hex}
        calls = [
            in_background(lambda: room.client.post(path, json={"request": "a"}, headers=headers)) for _ in range(8)
        ]
        answers = [call.result(timeout=30) for call in calls]
        assert [answer.status_code for answer in answers] == [201] * 8
        assert len({answer.json()["request_id"] for answer in answers}) == 1
        jobs = value(room.database_url, "SELECT count(*) FROM request WHERE session_id = $1", room.session_id)
        assert jobs == 1

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    def test_bad_keys(self, room: Any, key: str) -> None:
        response = room.client.post(
            f"/api/request/{room.session_id}", json={"request": "a"}, headers={"Idempotency-Key": key}
        )
        refusal(response, 400, "invalid_request")

    def test_fill_a_session(self, room: Any) -> None:
        # Numbering takes the session's row for every request, ten thousand versions of it; so it is done by hand.
        fill = f"""DO $$ BEGIN
            SET LOCAL session_replication_role = replica;
            INSERT INTO request (session_id, sequence_number, request)
                SELECT '{room.session_id}', number, 'x' FROM generate_series(1, 10000) AS number;
            UPDATE session SET last_sequence_number = 10000 WHERE session_id = '{room.session_id}';
        END $$"""
        execute(room.database_url, fill)
        path = f"/api/request/{room.session_id}"
        refusal(room.client.post(path, json={"request": "a"}), 409, "session_full")
        body = check("SessionRows", room.client.get(room.poll).json())
        assert len(body["requests"]) == 10_000
        room.client.delete(f"/api/request/{body['requests'][0]['request_id']}")
        assert room.client.post(path, json={"request": "a"}).json()["sequence_number"] == 10_001

    def test_are_rated_and_reviewed(self, room: Any) -> None:
        path = f"/api/request/{room.ask()['request_id']}"

        def change(**body: object) -> tuple[int | None, str | None]:
            answer = check("RequestDetail", room.client.patch(path, json=body).json())
            return answer["rating"], answer["review"]

        assert change(rating=5, review="good") == (5, "good")
        assert change(rating=-1) == (-1, "good")
        assert change(review=None) == (-1, None)
        assert change() == (-1, None)

    def test_are_retried_when_they_have_ended(self, room: Any) -> None:
        asked = room.ask()
        path = f"/api/request/{asked['request_id']}"
        refusal(room.client.patch(path, json={"retry": True}), 409, "illegal_transition")
        room.begin(asked["request_id"])
        refusal(room.client.patch(path, json={"retry": True, "rating": 1}), 409, "illegal_transition")
        room.finish(asked["request_id"])
        before = room.client.get(f"/api/request/{room.session_id}/1").json()
        assert before["rating"] is None, "a refused change changes nothing"
        again = check("RequestDetail", room.client.patch(path, json={"retry": True}).json())
        assert (again["status"], again["response"], again["terminal"]) == ("pending", None, False)
        assert again["version"] > before["version"]
        jobs = "SELECT count(*) FROM pgqueuer WHERE payload = $1"
        assert value(room.database_url, jobs, asked["request_id"].encode()) == 2

    def test_are_deleted(self, room: Any) -> None:
        asked = room.ask()
        path = f"/api/request/{asked['request_id']}"
        response = room.client.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        refusal(room.client.delete(path), 404, "not_found")
        refusal(room.client.get(f"/api/request/{room.session_id}/1"), 404, "not_found")
        assert room.ask()["sequence_number"] == 2, "a number is never given twice"


class TestQueries:
    def test_metadata(self, room: Any) -> None:
        asked = room.ask()
        room.finish(asked["request_id"])
        statement = """INSERT INTO query (request_id, sql, columns, row_count, summary, duration_ms)
            VALUES ($1, 'SELECT 1', '[{"name": "n", "type": "int4"}]', 1, 'one row', 3) RETURNING query_id"""
        query_id = str(value(room.database_url, statement, asked["request_id"]))
        body = check("QueryMetadata", room.client.get(f"/api/query/{query_id}").json())
        assert body["columns"] == [{"name": "n", "type": "int4"}]
        assert (body["request_id"], body["row_count"], body["error"]) == (asked["request_id"], 1, None)
        assert room.client.get(f"/api/request/{room.session_id}/1").json()["query_ids"] == [query_id]

    def test_the_catalogue_is_open(self, shared: Any) -> None:
        questions = get(f"{shared.url}/api/questions").json()
        assert "sales_by_month" in [check("Question", question)["name"] for question in questions]


class TestRefusals:
    @pytest.mark.parametrize("path", ["/api/session/{}", "/api/session/{}/requests", "/api/sse/{}", "/api/query/{}",
                                      "/api/request/{}/1"])  # fmt: skip
    @pytest.mark.parametrize("bad", ["x", "%00", "1", "00000000-0000-0000-0000-00000000000g",
                                     "{00000000-0000-0000-0000-000000000000}", "é" * 50])  # fmt: skip
    def test_ids_that_are_none(self, room: Any, path: str, bad: str) -> None:
        refusal(room.client.get(path.format(bad)), 400, "invalid_request")

    def test_an_id_may_be_written_in_capitals(self, room: Any) -> None:
        asked = room.ask()
        shouted = room.session_id.upper()
        assert room.client.get(f"/api/session/{shouted}").json()["session_id"] == room.session_id
        body = room.client.get(f"/api/session/{shouted}/requests").json()
        assert [row["request_id"] for row in body["requests"]] == [asked["request_id"]]

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PUT", "/api/session", "GET, HEAD, POST"),
            ("POST", "/api/session/{session}", "DELETE, GET, HEAD, PATCH"),
            ("GET", "/api/request/{session}", "DELETE, PATCH, POST"),
            ("POST", "/api/sse/{session}", "GET, HEAD"),
            ("GET", "/api/sse/{session}/ticket", "POST"),
            ("POST", "/api/session/{session}/requests", "GET, HEAD"),
            ("GET", "/api/auth/guest", "POST"),
            ("POST", "/livez", "GET, HEAD"),
            ("TRACE", "/api/session", "GET, HEAD, POST"),
        ],
    )
    def test_405_names_what_is_allowed(self, room: Any, method: str, path: str, allowed: str) -> None:
        response = room.client.request(method, path.format(session=room.session_id))
        refusal(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/api/session", "/api/questions", "/api/config",
                                      "/.well-known/jwks.json", "/api/session/{session}", "/"])  # fmt: skip
    def test_head_is_get_without_a_body(self, room: Any, path: str) -> None:
        path = path.format(session=room.session_id)
        head, get = room.client.head(path), room.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/nothing"), ("GET", "/api/nothing"), ("POST", "/api/nothing"), ("GET", "/api/session/"),
         ("GET", "/%00"), ("GET", "/" + "x" * 300), ("GET", "/..%2f..%2fetc/passwd"), ("GET", "/index.html/x")],
    )  # fmt: skip
    def test_what_is_not_there(self, room: Any, method: str, path: str) -> None:
        refusal(room.client.request(method, path), 404, "not_found")

    def test_every_answer_has_its_id_and_says_who_may_keep_it(self, room: Any) -> None:
        ids = set()
        for path in ("/api/session", f"/api/session/{room.session_id}", "/api/questions", "/livez", "/"):
            response = room.client.get(path, headers={"X-Request-Id": "mine"})
            ids.add(response.headers["x-request-id"])
            assert response.headers["cache-control"].startswith("private")
            assert "Cookie" in response.headers["vary"]
            assert response.headers["x-content-type-options"] == "nosniff"
        assert len(ids) == 5
        assert "mine" not in ids

    def test_without_a_database(self, start_server: Any, tmp_path: Path, open_room: Any) -> None:
        """A database that is away is a 503 for all, and its return needs no restart."""
        with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as postgres:
            migrations.migrate(postgres.dsn())
            server = start_server(database_url=postgres.dsn())
            room = open_room(server)
            paths = ("/api/session", room.stream, room.poll, f"/api/request/{room.session_id}/1", "/readyz")
            postgres.stop()
            for path in paths:
                refusal(room.client.get(path), 503)
            assert room.client.get("/livez").status_code == 200
            postgres.start()
            assert room.client.get("/api/session").status_code == 200
            server.stop()

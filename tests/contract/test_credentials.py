"""Who may come in: guests, cookies, tickets, other origins; and what never stands in a log."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from rowcast.http import GuestTokens
from wire import browser, check, get, metric, refusal, stream


@pytest.fixture
def visitor(shared: Any) -> Iterator[tuple[Any, httpx2.Client]]:
    """The server, and a browser without any credentials at an address of its own: guests are counted by address."""
    address = f"2001:db8::{secrets.token_hex(2)}"
    with browser(shared.url, {"X-Forwarded-For": address}) as client:
        yield shared, client


@pytest.fixture(scope="module")
def friendly(start_shared_server: Any) -> Any:
    """A server that other origins may call."""
    return start_shared_server(ROWCAST_ALLOWED_ORIGINS="https://app.example.com, https://other.example:8443")


SAME = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}


class TestGuests:
    def test_get_a_token_and_a_cookie(self, visitor: tuple[Any, httpx2.Client]) -> None:
        server, client = visitor
        response = client.post("/api/auth/guest")
        assert response.status_code == 201
        assert response.headers["cache-control"] == "no-store"
        token = check("GuestToken", response.json())["token"]
        name, *flags = [part.strip() for part in response.headers["set-cookie"].split(";")]
        assert name == f"rowcast_token={token}"
        assert set(flags) == {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=86400"}, "no Secure: this is loopback"
        with server.client(token) as bearer:
            created = bearer.post("/api/session").json()
        assert client.get(f"/api/session/{created['session_id']}").json() == created, "the cookie is the same guest"
        again = client.post("/api/auth/guest", headers={"Sec-Fetch-Site": "same-origin"})
        assert (again.status_code, again.json()["token"]) == (200, None)
        assert "set-cookie" not in again.headers
        check("GuestToken", again.json())

    def test_keep_no_cookie_that_has_ended(self, visitor: tuple[Any, httpx2.Client]) -> None:
        server, client = visitor
        old, _ = GuestTokens(server.signing_key, ttl_seconds=1, clock=lambda: 1_000_000).issue()
        for cookie in (old, "nonsense"):
            response = client.post("/api/auth/guest", headers={"Cookie": f"rowcast_token={cookie}", **SAME})
            assert response.status_code == 201

    def test_have_a_secure_cookie_elsewhere(self, visitor: tuple[Any, httpx2.Client]) -> None:
        _, client = visitor
        for headers in ({"Host": "app.example.com"}, {"X-Forwarded-Proto": "https"}):
            assert "Secure" in client.post("/api/auth/guest", headers=headers).headers["set-cookie"].split("; ")
            client.cookies.clear()

    def test_are_ten_a_minute_and_address(self, visitor: tuple[Any, httpx2.Client]) -> None:
        _, client = visitor
        for _ in range(10):
            assert client.post("/api/auth/guest").status_code == 201
            kept = client.cookies
            client.cookies = httpx2.Cookies()
        refusal(client.post("/api/auth/guest"), 429, "rate_limited")
        client.cookies = kept
        assert client.post("/api/auth/guest", headers=SAME).status_code == 200, "who has a cookie is not counted"
        other = client.post("/api/auth/guest", headers={"X-Forwarded-For": "192.0.2.7", "Cookie": ""})
        assert other.status_code == 201, "a trusted proxy names the address"

    def test_are_off_unless_enabled(self, start_server: Any) -> None:
        server = start_server(ROWCAST_GUEST_ENABLED="false")
        refusal(httpx2.post(f"{server.url}/api/auth/guest", verify=False), 404, "not_found")
        with server.client() as client:
            refusal(client.get("/api/session"), 401, "unauthorized")

    def test_keys_are_public(self, visitor: tuple[Any, httpx2.Client]) -> None:
        server, client = visitor
        keys = check("KeySet", client.get("/.well-known/jwks.json").json())["keys"]
        assert [key["kid"] for key in keys] == [server.signing_key.kid]


class TestTokens:
    @pytest.mark.parametrize("header", [None, "Bearer", "Bearer x", "Bearer a.b.c", "Basic YTpi", "Bearer \xff"])
    def test_bad_ones_are_401(self, shared: Any, room: Any, header: str | None) -> None:
        headers = {} if header is None else {"Authorization": header.encode("latin-1").decode("latin-1")}
        with browser(shared.url) as client:
            for path in (room.stream, room.poll, "/api/session", "/api/config", f"/api/request/{room.session_id}/1"):
                sent = {name: value.encode("latin-1") for name, value in headers.items()}
                refusal(client.get(path, headers=sent), 401, "unauthorized")

    @pytest.mark.parametrize("name", ["token", "access_token", "Authorization", "jwt", "id_token"])
    def test_in_the_query_are_refused(self, shared: Any, room: Any, name: str) -> None:
        token = room.client.headers["authorization"].removeprefix("Bearer ")
        with browser(shared.url) as client:
            for path in (room.stream, room.poll, "/api/session"):
                refusal(client.get(path, params={name: token}), 401, "token_in_query")

    def test_a_401_shows_nothing_of_the_session(self, shared: Any, room: Any) -> None:
        with browser(shared.url) as client:
            body = refusal(client.get(room.stream), 401)
        assert room.session_id not in str(body)


class TestCookies:
    @pytest.fixture
    def cookie(self, room: Any) -> dict[str, str]:
        return {"Cookie": f"rowcast_token={room.client.headers['authorization'].removeprefix('Bearer ')}"}

    @pytest.mark.parametrize(
        "sent",
        [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
    )
    def test_open_a_stream_for_our_own_pages(
        self, shared: Any, room: Any, cookie: dict[str, str], sent: dict[str, str]
    ) -> None:
        with (
            browser(shared.url, cookie | sent) as client,
            stream(client, room.stream) as opened,
        ):
            opened.until("synced")

    @pytest.mark.parametrize(
        "sent",
        [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"},
         {"Origin": "null"}],
    )  # fmt: skip
    def test_open_nothing_for_others(
        self, shared: Any, room: Any, cookie: dict[str, str], sent: dict[str, str]
    ) -> None:
        with browser(shared.url, cookie | sent) as client:
            for path in (room.stream, room.poll, "/api/session"):
                refusal(client.get(path), 403, "cross_site")
            refusal(client.delete(f"/api/session/{room.session_id}"), 403, "cross_site")
            refusal(client.post(f"{room.stream}/ticket"), 403, "cross_site")
        assert room.client.get(f"/api/session/{room.session_id}").status_code == 200

    def test_change_nothing_without_a_good_sign(self, shared: Any, room: Any, cookie: dict[str, str]) -> None:
        with browser(shared.url, cookie) as client:
            path = f"/api/session/{room.session_id}"
            refusal(client.delete(path), 403, "cross_site")
            refusal(client.patch(path, json={"name": "x"}), 403, "cross_site")
            form = client.post("/api/session", data={"name": "x"}, headers={"Sec-Fetch-Site": "same-origin"})
            refusal(form, 403, "cross_site")
            assert client.patch(path, json={"name": "x"}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


class TestTickets:
    def test_open_one_session_again_and_again(self, shared: Any, room: Any) -> None:
        response = room.client.post(f"{room.stream}/ticket")
        assert response.status_code == 201
        assert response.headers["cache-control"] == "no-store"
        ticket = check("StreamTicket", response.json())
        assert ticket["url"] == f"{room.stream}?ticket={ticket['ticket']}"
        assert 55_000 < ticket["expires_in_ms"] <= 60_000
        with browser(shared.url) as page:
            for _ in range(2):  # browsers come back with the same address
                with stream(page, ticket["url"]) as opened:
                    position = opened.opening()[-1].id
            with stream(page, ticket["url"], last_event_id=position) as opened:
                assert opened.next().data["mode"] == "resume"

    def test_open_nothing_else(self, shared: Any, room: Any, open_room: Any) -> None:
        ticket = room.client.post(f"{room.stream}/ticket").json()["ticket"]
        mine = room.client.post("/api/session").json()["session_id"]
        other = open_room(shared)
        with browser(shared.url) as page:
            query = {"ticket": ticket}
            refusal(page.get(f"/api/sse/{mine}", params=query), 401, "unauthorized")
            refusal(page.get(other.stream, params=query), 401, "unauthorized")
            refusal(page.get(room.poll, params=query), 401, "unauthorized")
            refusal(page.post(f"{room.stream}/ticket", params=query), 401, "unauthorized")
            refusal(page.get("/api/session", headers={"Authorization": f"Bearer {ticket}"}), 401, "unauthorized")
            refusal(page.get(f"{room.stream}?ticket={ticket}&ticket={ticket}"), 401, "unauthorized")
            refusal(page.get(f"{room.stream}?ticket={ticket[:-4]}AAAA"), 401, "unauthorized")
            token = room.client.headers["authorization"].removeprefix("Bearer ")
            refusal(page.get(f"{room.stream}?ticket={token}"), 401, "unauthorized")

    def test_are_good_for_an_id_in_capitals(self, shared: Any, room: Any) -> None:
        shouted = f"/api/sse/{room.session_id.upper()}"
        ticket = room.client.post(f"{shouted}/ticket").json()
        with browser(shared.url) as page, stream(page, ticket["url"]) as opened:
            opened.until("synced")

    def test_end(self, start_server: Any, open_room: Any, wait_for_fact: Any) -> None:
        server = start_server(ROWCAST_TICKET_TTL_SECONDS=5)
        room = open_room(server)
        ticket = room.client.post(f"{room.stream}/ticket").json()
        with browser(server.url) as page, stream(page, ticket["url"]) as opened:
            opened.opening()
            wait_for_fact(lambda: page.get(ticket["url"], headers={"Accept": "no/thing"}).status_code == 401)
            asked = room.ask()  # what it opened stays open as long as its owner's token is good
            opened.until("request_update", request_id=asked["request_id"])


class TestOrigins:
    def test_a_listed_one_may_ask_with_credentials(self, friendly: Any, open_room: Any) -> None:
        room = open_room(friendly)
        origin = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}
        preflight = httpx2.options(
            verify=False,
            url=            friendly.url + room.poll,
            headers={**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers":
                     "authorization, last-event-id, if-none-match, idempotency-key, content-type"},
        )  # fmt: skip
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        assert preflight.headers["access-control-allow-credentials"] == "true"
        cookie = {"Cookie": f"rowcast_token={room.client.headers['authorization'].removeprefix('Bearer ')}"}
        with browser(friendly.url, origin | cookie) as page:
            for path in (room.poll, "/api/session", "/api/session/00000000-0000-0000-0000-000000000000"):
                headers = page.get(path).headers
                assert headers["access-control-allow-origin"] == "https://app.example.com"
                assert {"ETag", "Retry-After", "X-Request-Id"} == {
                    name.strip() for name in headers["access-control-expose-headers"].split(",")
                }
                assert "origin" in headers["vary"].lower()
            with stream(page, room.stream) as opened:
                assert opened.response.headers["access-control-allow-origin"] == "https://app.example.com"
                opened.until("synced")
            created = page.post("/api/session", json={"name": "x"})
            assert created.status_code == 201

    def test_others_get_no_permission(self, friendly: Any, open_room: Any) -> None:
        room = open_room(friendly)
        for origin in (
            "https://evil.example",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "null",
        ):
            response = room.client.get(room.poll, headers={"Origin": origin})
            assert "access-control-allow-origin" not in response.headers
            cookie = {"Cookie": f"rowcast_token={room.client.headers['authorization'].removeprefix('Bearer ')}"}
            refusal(get(friendly.url + room.poll, {"Origin": origin, **cookie}), 403, "cross_site")

    def test_are_unknown_by_default(self, room: Any) -> None:
        response = room.client.get(room.poll, headers={"Origin": "https://app.example.com"})
        assert not [name for name in response.headers if name.startswith("access-control")]


class TestConfig:
    def test_says_what_to_use(self, room: Any) -> None:
        response = room.client.get("/api/config")
        body = check("ClientConfig", response.json())
        assert response.headers["cache-control"] == "private, max-age=30"
        assert (body["protocol"], body["transport"], body["heartbeat_ms"]) == (1, "sse", 1000)
        assert [body[name] for name in ("rollout_percent", "fallback", "track_metrics")] == [None, None, None]

    def test_says_what_the_operator_has_set(self, start_server: Any, open_room: Any) -> None:
        room = open_room(start_server(
            ROWCAST_SSE_FALLBACK="false", ROWCAST_TRACK_SSE_METRICS="false", ROWCAST_SSE_ROLLOUT_PERCENT="100"
        ))  # fmt: skip
        body = check("ClientConfig", room.client.get("/api/config").json())
        assert [body[name] for name in ("rollout_percent", "fallback", "track_metrics")] == [100, False, False]
        refusal(room.client.post("/api/client-metrics", json={"metrics": [LAG]}), 404, "not_found")


LAG = {"name": "event_lag_ms", "value": 12.5, "labels": {"transport": "sse"}}


class TestClientMetrics:
    def test_are_counted(self, room: Any, shared: Any) -> None:
        told = [
            LAG,
            {"name": "reconnects", "value": 2, "labels": {"transport": "sse", "reason": "drain"}},
            {"name": "reconnects", "value": 1, "labels": {"transport": "x" * 64, "reason": "whatever a stranger says"}},
            {"name": "of_a_later_release", "value": 1},
        ]
        answer = room.client.post("/api/client-metrics", json={"metrics": told})
        assert (answer.status_code, answer.content) == (204, b"")
        assert metric(shared, 'rowcast_client_event_lag_seconds_bucket{le="0.025",transport="sse"}') == 1
        assert metric(shared, 'rowcast_client_reconnects_total{reason="drain",transport="sse"}') == 2
        assert metric(shared, 'rowcast_client_reconnects_total{reason="other",transport="other"}') == 1
        assert metric(shared, "rowcast_client_unknown_metrics_total") == 1
        assert "stranger" not in room.client.get("/metrics").text

    @pytest.mark.parametrize(
        "metrics",
        [[], [LAG] * 201, [{**LAG, "value": -1}], [{**LAG, "value": 1e9}], [{**LAG, "value": "1"}],
         [{**LAG, "name": "Lag"}], [{**LAG, "labels": {"transport": "x" * 65}}], [{**LAG, "more": 1}],
         [{**LAG, "labels": {str(number): "" for number in range(5)}}], [{**LAG, "labels": []}], {}],
    )  # fmt: skip
    def test_that_make_no_sense_are_refused(self, room: Any, metrics: Any) -> None:
        refusal(room.client.post("/api/client-metrics", json={"metrics": metrics}), 422, "invalid_body")

    def test_need_a_token_and_are_limited(self, shared: Any, open_room: Any) -> None:
        with browser(shared.url) as stranger:
            refusal(stranger.post("/api/client-metrics", json={"metrics": [LAG]}), 401, "unauthorized")
        room = open_room(shared)
        answers = [room.client.post("/api/client-metrics", json={"metrics": [LAG]}) for _ in range(61)]
        assert {answer.status_code for answer in answers[:60]} == {204}
        refusal(answers[60], 429, "rate_limited")


@contextmanager
def uvicorn(server: Any, log_file: Path, *arguments: str, port: int) -> Iterator[str]:
    """Run the application as `uvicorn rowcast.service.main:app` does, with its access log."""
    command = [sys.executable, "-m", "uvicorn", "rowcast.service.main:app", "--port", str(port), *arguments]
    environment = {**os.environ, **server.environment}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


class TestLogs:
    def test_never_hold_a_ticket_or_a_token(
        self, start_server: Any, open_room: Any, tmp_path: Path, free_port: int, wait_for_fact: Any
    ) -> None:
        server = start_server()
        room = open_room(server)
        log = tmp_path / "uvicorn.log"
        with uvicorn(server, log, "--log-level", "debug", port=free_port) as url:
            wait_for_fact(lambda: answers(url))
            token = room.client.headers["authorization"].removeprefix("Bearer ")
            with browser(url) as page:
                headers = {"Authorization": f"Bearer {token}"}
                ticket = page.post(f"{room.stream}/ticket", headers=headers).json()
                with stream(page, ticket["url"] + "&proto=1") as opened:
                    opened.until("synced")
                refusal(page.get(f"{room.stream}?ticket={ticket['ticket']}x&a=b"), 401)
            wait_for_fact(lambda: len(re.findall(r"GET \S+ticket=", log.read_text())) >= 2)
        text = log.read_text()
        assert ticket["ticket"][:40] not in text
        assert token not in text
        assert "ticket=…" in text or "ticket=%E2%80%A6" in text
        assert urlsplit(ticket["url"]).path in text


def answers(url: str) -> bool:
    try:
        return get(f"{url}/readyz").status_code == 200
    except httpx2.HTTPError:
        return False

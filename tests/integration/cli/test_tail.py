"""`rowcast tail`: a session in a terminal or a pipe."""

import os
import re
import signal
import uuid
from collections.abc import Callable

import httpx2
import pytest
from tests.conftest import Server, StartServer, wait_until
from tests.integration.cli.conftest import Begin, Rowcast, Running, Terminal

from rowcast.http import GuestTokens


def session_of(client: httpx2.Client) -> str:
    session: str = client.post("/api/session").json()["session_id"]
    return session


def ask(client: httpx2.Client, session: str) -> str:
    request: str = client.post(f"/api/request/{session}", json={"request": "x"}).json()["request_id"]
    return request


def lines_of(running: Running) -> list[list[str]]:
    """The changes that were printed, as words."""
    return [line.split() for line in running.output.splitlines() if re.match(r"\s*#\d", line)]


@pytest.mark.parametrize("transport", ["auto", "sse", "poll"])
def test_it_shows_every_change_with_status_transport_and_lag(
    server: Server, begin: Begin, run_in: Callable[[str, str], None], transport: str
) -> None:
    token = server.guest()
    with server.client(token) as client:
        session = session_of(client)
        ask(client, session)
        running = begin("tail", session, "--url", server.url, "--token", token, "--transport", transport)
        running.says("#1")
        wait_until(lambda: "live" in running.output or "polling" in running.output, what="it follows")
        second = ask(client, session)
        running.says("#2")
        for status in ("in_progress", "done"):
            run_in(server.database_url, f"UPDATE request SET status = '{status}' WHERE request_id = '{second}'")
            running.says(status)
        client.delete(f"/api/request/{second}")
        running.says("removed")
    name = "poll" if transport == "poll" else "sse"
    changes = lines_of(running)
    assert [words[:3] for words in changes] == [
        ["#1", "pending", name],
        ["#2", "pending", name],
        ["#2", "in_progress", name],
        ["#2", "done", name],
        ["#2", "removed", name],
    ]
    assert changes[0][3:] == []
    assert all(re.fullmatch(r"\d+ ms", " ".join(words[3:])) for words in changes[1:4])
    assert token not in running.output
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 130
    assert running.errors == ""


def test_it_comes_back_with_the_server(start_server: StartServer, begin: Begin) -> None:
    server = start_server()
    token = server.guest()
    with server.client(token) as client:
        session = session_of(client)
        running = begin("tail", session, "--url", server.url, "--token", token)
        running.says("live")
        server.stop()
        running.says("reconnecting")
    again = start_server(port=int(server.url.rpartition(":")[2]))
    with again.client(token) as client:
        ask(client, session)
        running.says("#1")


def test_without_a_token_the_signing_key_speaks_for_the_owner(
    server: Server, terminal: Callable[..., Terminal], key_file: object
) -> None:
    with server.client() as client:
        session = session_of(client)
        settings = {"ROWCAST_DATABASE_URL": server.database_url, "ROWCAST_SIGNING_KEY_FILE": key_file}
        screen = terminal("tail", session, "--url", server.url, **settings)
        screen.shows("live")
        ask(client, session)
        screen.shows("#1")
        assert "\x1b[" in screen.screen  # in a terminal, in colour
        os.kill(screen.process.pid, signal.SIGINT)
        assert screen.process.wait(10) == 130


def test_it_ends_with_one_line_where_no_retry_helps(server: Server, rowcast: Rowcast) -> None:
    with server.client() as client:
        session = session_of(client)
    expired = GuestTokens(server.signing_key, ttl_seconds=0.001).issue()[0]
    for token, whose, said in (
        (expired, session, "the token is not accepted"),
        (server.guest(), session, "no such session"),
        (server.guest(), str(uuid.uuid4()), "no such session"),
    ):
        result = rowcast("tail", whose, "--url", server.url, "--token", token)
        assert result.returncode == 1
        assert result.stderr.startswith("rowcast: ")
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert token not in result.stdout + result.stderr


def test_it_ends_when_the_session_is_deleted(server: Server, begin: Begin) -> None:
    token = server.guest()
    with server.client(token) as client:
        session = session_of(client)
        running = begin("tail", session, "--url", server.url, "--token", token, "--transport", "poll")
        running.says("polling")
        ask(client, session)
        running.says("#1")
        client.delete(f"/api/session/{session}")
        assert running.process.wait(40) == 1
    assert "no such session" in running.errors

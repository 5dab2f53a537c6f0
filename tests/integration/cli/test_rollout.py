"""Who is offered streams is said by operators, on the command line, and heeded by servers that run."""

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from tests.conftest import wait_until
from tests.integration.cli.conftest import Rowcast

from rowcast import bucket_of

PERCENT = 25

Say = Callable[..., str]


@pytest.fixture
def say(rowcast: Rowcast, service_database: str) -> Say:
    """Run `rowcast rollout`, and return what it says."""

    def run(*arguments: str, **settings: object) -> str:
        done = rowcast("rollout", *arguments, ROWCAST_DATABASE_URL=service_database, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def config(client: Any) -> tuple[str, float | None, str]:
    body = client.get("/api/config").json()
    return body["transport"], body["rollout_percent"], body["salt"]


def test_what_operators_set_is_shown_and_heeded(start_server: Any, say: Say) -> None:
    server = start_server(ROWCAST_SSE_SALT="first")
    with server.client() as client:
        assert config(client) == ("sse", None, "first")
        said = "Streams are on, for every user. Nothing is set in the database; the settings decide."
        assert say() == f"{said}\n"

        assert "Streams are off: every client polls. Set 20" in say("off")
        wait_until(lambda: config(client) == ("poll", 0, "first"), what="nobody is offered streams")
        answer = client.get(f"/api/sse/{client.post('/api/session', json={}).json()['session_id']}")
        assert (answer.status_code, answer.json()["code"]) == (503, "switched_off")

        assert "for 12.5 % of the users (salt second)" in say("12.5", "--salt", "second")
        wait_until(lambda: config(client)[1:] == (12.5, "second"), what="some are offered streams")
        assert "off" in say("0")
        assert "for 12.5 % of the users (salt second)" in say("on"), "what is not said stays as it was"
        assert say("reset").startswith(said)
        wait_until(lambda: config(client) == ("sse", None, "first"), what="the settings decide again")


@pytest.mark.fault(49)
def test_streams_are_offered_to_those_of_the_share_and_to_no_others(start_server: Any, say: Say) -> None:
    server = start_server()
    say(str(PERCENT), "--salt", "share")
    offered = {}
    with server.client() as first:
        wait_until(lambda: config(first)[1:] == (PERCENT, "share"), what="the share is heeded")
    for _ in range(60):
        token = server.guest()
        with server.client(token) as client:
            offered[owner_of(token)] = {config(client)[0] for _ in range(3)}
    chosen = {owner for owner in offered if bucket_of(owner, "share") < PERCENT * 100}
    assert 0 < len(chosen) < len(offered)
    assert offered == {owner: {"sse" if owner in chosen else "poll"} for owner in offered}


def owner_of(token: str) -> str:
    """The owner that a guest's token speaks for."""
    return f"guest|{jwt.decode(token, options={'verify_signature': False})['sub']}"


def test_a_server_that_is_off_by_its_settings_stays_off(start_server: Any, say: Say) -> None:
    server = start_server(ENABLE_SSE_ENDPOINT="false")
    assert "ROWCAST_SSE_ENABLED is false" in say("on", ENABLE_SSE_ENDPOINT="false")
    with server.client() as client:
        assert config(client)[0] == "poll"


def test_what_was_set_holds_from_the_first_request_of_a_server_on(start_server: Any, say: Say) -> None:
    say("off")
    with start_server().client() as client:
        assert config(client) == ("poll", 0, "sse-v1")


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (["half"], "give a percentage (0 to 100, two decimals), on, off or reset"),
        (["101"], "'101' is no share"),
        (["0.001"], "'0.001' is no share"),
        (["nan"], "'nan' is no share"),
        (["--salt", "x"], "a salt is set together with"),
        (["10", "--salt", ""], "a salt has 1 to 64 bytes"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(
    rowcast: Rowcast, say: Say, service_database: str, arguments: list[str], helps: str
) -> None:
    done = rowcast("rollout", *arguments, ROWCAST_DATABASE_URL=service_database)
    assert done.returncode == 1
    assert helps in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Nothing is set" in say()

"""Not yours looks exactly like not there: for every endpoint that takes an id, and for what the database keeps.

The table is held against the OpenAPI document, so that an endpoint without a row fails.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from database import execute, value
from rowcast.http import GuestTokens
from wire import browser, get, refusal

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
VARYING = {"date", "x-request-id", "retry-after"}


@dataclass(frozen=True)
class Call:
    """How an endpoint is called; `kind` is what its id names."""

    method: str
    path: str
    kind: str
    bodies: tuple[object, ...] = (None,)
    headers: tuple[dict[str, str], ...] = ({},)


CALLS = [
    Call("GET", "/api/session/{session_id}", "session"),
    Call("PATCH", "/api/session/{session_id}", "session", ({"name": "mine"}, {})),
    Call("DELETE", "/api/session/{session_id}", "session"),
    Call("POST", "/api/request/{id}", "session", ({"request": "x"},), ({}, {"Idempotency-Key": "k"})),
    Call("PATCH", "/api/request/{id}", "request", ({"rating": 1, "review": "mine"}, {"retry": True}, {})),
    Call("DELETE", "/api/request/{id}", "request"),
    Call("GET", "/api/request/{session_id}/{sequence_number}", "session", headers=({}, {"If-None-Match": "*"})),
    Call("GET", "/api/query/{query_id}", "query"),
    Call("GET", "/api/session/{session_id}/requests", "session", headers=({}, {"If-None-Match": "*"})),
    Call("GET", "/api/sse/{session_id}", "session", headers=({}, {"Last-Event-ID": "1.0123456789abcdef.1"})),
    Call("POST", "/api/sse/{session_id}/ticket", "session"),
]
QUERIES = ("", "wait=5", "cursor=x", "until=terminal", "proto=1&hb=1000")
CASES = [
    pytest.param(call, body, headers, query, id=f"{call.method} {call.path} {query} {number}")
    for call in CALLS
    for number, (body, headers) in enumerate((body, headers) for body in call.bodies for headers in call.headers)
    for query in (QUERIES if call.method == "GET" else ("",))
]


@pytest.fixture(scope="module")
def treasure(shared: Any) -> dict[str, str]:
    """What one owner has: a session, a request that has ended, and the query it ran."""
    with shared.client() as client:
        session = client.post("/api/session", json={"name": "treasure"}).json()["session_id"]
        request = client.post(f"/api/request/{session}", json={"request": "gold"}).json()["request_id"]
    execute(shared.database_url, "UPDATE request SET status = 'in_progress' WHERE request_id = $1", request)
    execute(shared.database_url, "UPDATE request SET status = 'done', response = '42' WHERE request_id = $1", request)
    insert = "INSERT INTO query (request_id, sql) VALUES ($1, 'SELECT gold') RETURNING query_id"
    query = value(shared.database_url, insert, request)
    return {"session": session, "request": request, "query": str(query)}


@pytest.fixture(scope="module")
def stranger(shared: Any) -> Any:
    """A guest with a session of their own."""
    with shared.client() as client:
        client.post("/api/session", json={"name": "mine"})
        yield client


def everything(dsn: str) -> list[Any]:
    """Return all that is kept, down to the row versions; counters of the queue's statistics aside."""
    statement = """SELECT 'session', t::text, xmin::text FROM session t UNION ALL
        SELECT 'request', t::text, xmin::text FROM request t UNION ALL SELECT 'query', t::text, xmin::text FROM query t
        UNION ALL SELECT 'key', t::text, xmin::text FROM idempotency t
        UNION ALL SELECT 'job', id::text, status::text FROM pgqueuer ORDER BY 1, 2"""
    return [tuple(row) for row in execute(dsn, statement)]


def answer(client: httpx2.Client, call: Call, id_: str, body: object, headers: dict[str, str], query: str) -> Any:
    path = re.sub(r"\{(\w+)\}", lambda match: "1" if match[1] == "sequence_number" else id_, call.path)
    response = client.request(call.method, f"{path}?{query}", json=body, headers=headers)
    sent = sorted((name, text) for name, text in response.headers.multi_items() if name not in VARYING)
    trace_id = response.headers["x-request-id"]
    return response, (response.status_code, sent, response.content.replace(trace_id.encode(), b"TRACE"))


def test_every_endpoint_with_an_id_has_a_row(shared: Any) -> None:
    paths = get(f"{shared.url}/api/openapi.json").json()["paths"]
    documented = {(method.upper(), path) for path, each in paths.items() for method in each if "{" in path}
    assert documented == {(call.method, call.path) for call in CALLS}


def test_the_owner_is_answered(shared: Any, treasure: dict[str, str]) -> None:
    """Else the rest would show nothing."""
    owner = value(shared.database_url, "SELECT user_owner FROM session WHERE session_id = $1", treasure["session"])
    token = token_of(shared, owner)
    with shared.client(token) as client:
        assert client.get(f"/api/session/{treasure['session']}").status_code == 200
        assert client.get(f"/api/query/{treasure['query']}").status_code == 200
        assert client.get(f"/api/request/{treasure['session']}/1").json()["response"] == "42"


@pytest.mark.fault(23)
@pytest.mark.parametrize(("call", "body", "headers", "query"), CASES)
def test_anothers_is_as_good_as_nothing(
    shared: Any,
    treasure: dict[str, str],
    stranger: httpx2.Client,
    call: Call,
    body: object,
    headers: dict[str, str],
    query: str,
) -> None:
    before = everything(shared.database_url)
    response, theirs = answer(stranger, call, treasure[call.kind], body, headers, query)
    refusal(response, 404, "not_found")
    _, nothing = answer(stranger, call, str(uuid4()), body, headers, query)
    assert theirs == nothing
    assert not UUID.search(response.text.replace(response.headers["x-request-id"], ""))
    assert everything(shared.database_url) == before


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_who_is_nobody_learns_nothing_either(shared: Any, treasure: dict[str, str], call: Call) -> None:
    before = everything(shared.database_url)
    with browser(shared.url) as nobody:
        response, theirs = answer(nobody, call, treasure[call.kind], call.bodies[0], {}, "")
        refusal(response, 401, "unauthorized")
        _, nothing = answer(nobody, call, str(uuid4()), call.bodies[0], {}, "")
    assert theirs == nothing
    assert everything(shared.database_url) == before


def test_ids_of_another_kind_open_nothing(shared: Any, treasure: dict[str, str], stranger: httpx2.Client) -> None:
    for call in CALLS:
        for id_ in treasure.values():
            response, _ = answer(stranger, call, id_, call.bodies[0], {}, "")
            refusal(response, 404, "not_found")


def test_lists_hold_the_callers_own_only(shared: Any, treasure: dict[str, str], stranger: httpx2.Client) -> None:
    (session,) = stranger.get("/api/session").json()["sessions"]
    assert session["name"] == "mine"
    assert treasure["session"] not in stranger.get("/api/session").text


def test_what_is_given_away_is_gone(shared: Any, open_room: Callable[..., Any]) -> None:
    """Whoever owned a session before is a stranger now."""
    room = open_room(shared)
    room.ask()
    execute(
        shared.database_url, "UPDATE session SET user_owner = 'guest|another' WHERE session_id = $1", room.session_id
    )
    for path in (room.stream, room.poll, f"/api/session/{room.session_id}", f"/api/request/{room.session_id}/1"):
        refusal(room.client.get(path), 404, "not_found")


def token_of(server: Any, owner: str) -> str:
    alias, _, subject = owner.partition("|")
    assert alias == "guest"
    return GuestTokens(server.signing_key).issue_for(subject)[0]

"""What a client knows of a session, from streams and polls in turn."""

import json

from rowcast import Watch
from rowcast.following.events import ServerEvent
from rowcast.following.knowledge import Knowledge

WATCH = Watch(table="report", key="id", session="account", session_type="text", status="status")


def row(key: str, version: int) -> dict[str, object]:
    return {"id": key, "account": "s", "status": "new", "version": version, "terminal": False, "updated_at": 1.0}


def answer(*rows: dict[str, object]) -> bytes:
    body = {"account": "s", "epoch": "e", "cursor": "c", "mode": "full", "reports": rows, "removed": []}
    return json.dumps({**body, "poll": {"interval_ms": 1000, "max_wait_s": 25}}).encode()


def take(knowledge: Knowledge, name: str, data: dict[str, object]) -> None:
    event = ServerEvent(name, json.dumps(data), "")
    assert knowledge.take(event, data), name


def test_what_a_poll_saw_is_past_once_a_stream_has_told_otherwise() -> None:
    """A row that came by the stream and went unseen: "unchanged since that poll" would be true, and leave it shown."""
    for name in ("report_update", "report_removed"):
        knowledge = Knowledge(WATCH)
        knowledge.begin()
        take(knowledge, "connected", {"epoch": "e"})
        knowledge.take_answer(answer(row("a", 1)), '"one"')
        assert knowledge.etag == '"one"'
        take(knowledge, "heartbeat", {"server_time": 5.0})
        assert knowledge.etag == '"one"'
        take(knowledge, name, {**row("a", 2), "cause": "live"})
        assert knowledge.etag == ""


def test_what_is_asked_beside_a_stream_is_never_taken_for_unchanged() -> None:
    """The stream may have told more between the question and its answer."""
    knowledge = Knowledge(WATCH)
    knowledge.begin()
    take(knowledge, "connected", {"epoch": "e"})
    body = answer(row("a", 1)).replace(b'"full"', b'"delta"')
    assert knowledge.take_answer(body, '"one"', beside_stream=True) == (True, 1.0)
    assert (knowledge.etag, knowledge.cursor) == ("", "c")


def test_the_answer_after_that_removes_what_is_not_there_any_more() -> None:
    knowledge = Knowledge(WATCH)
    knowledge.take_answer(answer(row("a", 1)), '"one"')
    knowledge.begin()
    take(knowledge, "connected", {"epoch": "e"})
    take(knowledge, "report_update", {**row("b", 1), "cause": "live"})
    assert set(knowledge.store.rows) == {"a", "b"}
    knowledge.take_answer(answer(row("a", 1)), '"one"')
    assert set(knowledge.store.rows) == {"a"}

"""Row states, and the events that tell about them."""

from typing import Any

import pytest

from rowcast import Cursor, RowState, Watch
from rowcast.event import degraded, dump_json, goodbye, heartbeat, resync, row_changed, snapshot, synced

WATCH = Watch(table="report", key="id", session="account", session_type="text")
CURSOR = Cursor("0" * 16, 7)


def state(key: str = "a", version: int = 3, *, removed: bool = False) -> RowState:
    return RowState.from_document(WATCH, {"id": key, "account": "s", "version": version}, removed=removed)


def test_a_state_is_built_from_its_document() -> None:
    built = RowState.from_document(WATCH, {"id": "a", "account": "s", "version": 3, "terminal": True}, xid=9)
    assert (built.session, built.key, built.version, built.terminal, built.xid) == ("s", "a", 3, True, 9)


def test_a_removal_is_terminal() -> None:
    assert state(removed=True).terminal


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"id": "a", "account": "s"},
        {"id": 1, "account": "s", "version": 1},
        {"id": "a", "account": None, "version": 1},
        {"id": "a", "account": "s", "version": 0},
        {"id": "a", "account": "s", "version": -1},
        {"id": "a", "account": "s", "version": True},
        {"id": "a", "account": "s", "version": "1"},
        {"id": "a", "account": "s", "version": 1.0},
        {"id": "a", "account": "s", "version": 2**53},
    ],
)
def test_what_is_no_state_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a row state needs"):
        RowState.from_document(WATCH, document)


def test_the_transaction_is_not_part_of_what_a_state_is() -> None:
    document = {"id": "a", "account": "s", "version": 3}
    assert RowState.from_document(WATCH, document, xid=1) == RowState.from_document(WATCH, document, xid=2)


def test_a_snapshot_of_nothing_is_one_chunk_with_an_id() -> None:
    (event,) = snapshot(WATCH, "s", [], CURSOR)
    assert event.id == CURSOR.text("s")
    assert (event.data["reports"], event.data["part"], event.data["more"]) == ([], 1, False)


@pytest.mark.parametrize(("rows", "chunks"), [(1, [1]), (200, [200]), (201, [200, 1]), (600, [200, 200, 200])])
def test_only_the_last_chunk_of_a_snapshot_has_an_id(rows: int, chunks: list[int]) -> None:
    """Before it, not everything that the cursor claims has been sent."""
    events = snapshot(WATCH, "s", [state(f"k{number}") for number in range(rows)], CURSOR)
    assert [len(event.data["reports"]) for event in events] == chunks
    assert [event.id for event in events] == [None] * (len(chunks) - 1) + [CURSOR.text("s")]
    assert [event.data["more"] for event in events] == [True] * (len(chunks) - 1) + [False]


def test_an_update_says_why_it_comes_and_a_removal_does_not() -> None:
    assert row_changed(WATCH, state(), CURSOR, "live").data["cause"] == "live"
    removal = row_changed(WATCH, state(removed=True), CURSOR, "catchup")
    assert (removal.name, removal.id) == ("report_removed", CURSOR.text("s"))
    assert "cause" not in removal.data


def test_events_about_the_stream_claim_nothing() -> None:
    silent = [
        degraded(1.0),
        resync("slow_consumer"),
        goodbye("drain", resume=True, retry_ms=5),
        heartbeat("s", None, 1.0),
    ]
    assert [event.id for event in silent] == [None] * 4


def test_synced_and_heartbeats_carry_the_cursor_in_data_too() -> None:
    for event in (synced("s", CURSOR, 1.0), heartbeat("s", CURSOR, 1.0)):
        assert event.id == event.data["cursor"] == CURSOR.text("s")


def test_json_has_no_value_that_javascript_cannot_read() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        dump_json({"x": float("nan")})

"""What a client keeps of what it is told: all of it, or, where it makes no sense, nothing."""

from typing import Any

import pytest

from rowcast import Watch
from rowcast.store import RowStore

REPORTS = Watch(table="report", key="id", session="account")


def row(key: str, version: int) -> dict[str, Any]:
    return {"id": key, "account": "s", "version": version, "updated_at": 1.0}


def part(number: int, *rows: object, more: bool = False) -> dict[str, Any]:
    return {"reports": list(rows), "part": number, "more": more}


@pytest.fixture
def store() -> RowStore:
    store = RowStore(REPORTS)
    store.enter_epoch("e")
    store.keep_snapshot(part(1, row("a", 1), row("b", 1)))
    return store


@pytest.mark.parametrize("bad", [{}, None, 7, "x", {"id": "c", "account": "s", "version": "1"}])
def test_nothing_of_what_makes_no_sense_is_kept(store: RowStore, bad: Any) -> None:
    rows = dict(store.rows)
    poll = {"mode": "full", "reports": [row("a", 2), bad], "removed": []}
    for keep in (
        lambda: store.keep_snapshot(part(1, row("a", 2), bad)),
        lambda: store.keep_poll(poll, is_first=False),
        lambda: store.keep_poll({**poll, "mode": "delta", "reports": [row("a", 2)], "removed": [bad]}, is_first=False),
        lambda: store.keep_live(bad, removed=False),
    ):
        with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
            keep()
        assert store.rows == rows
    assert [change.row["version"] for change in store.keep_live(row("a", 2), removed=False)] == [2]


def test_a_snapshot_removes_what_none_of_its_parts_names(store: RowStore) -> None:
    assert store.keep_snapshot(part(1, row("b", 2), more=True))[0].row["version"] == 2
    assert [(change.row["id"], change.removed) for change in store.keep_snapshot(part(2, row("c", 1)))] == [
        ("c", False),
        ("a", True),
    ]


def test_a_snapshot_with_a_hole_removes_nothing(store: RowStore) -> None:
    store.keep_snapshot(part(1, row("a", 1), more=True))
    with pytest.raises(ValueError, match="part 3"):
        store.keep_snapshot(part(3, row("c", 1)))
    store.begin_stream()
    with pytest.raises(ValueError, match="part 2"):
        store.keep_snapshot(part(2, row("c", 1)))
    assert set(store.rows) == {"a", "b"}


def test_a_removed_key_that_returns_is_shown_again(store: RowStore) -> None:
    assert store.keep_live(row("a", 2), removed=True)[0].removed
    assert store.keep_live(row("a", 1), removed=False) == []
    assert not store.keep_live(row("a", 3), removed=False)[0].removed
    assert store.stale == 1

"""What one reader still has to be told."""

import json
from typing import Any

import pytest

import rowcast.subscription
from rowcast import Cursor, LatestByRow, RowState, Watch
from rowcast.event import degraded, synced
from rowcast.subscription import Subscription, Update

WATCH = Watch(table="report", key="id", session="account", session_type="text")


def update(key: str, version: int, horizon: int = 1) -> Update:
    document = {"id": key, "account": "s", "version": version}
    return Update(WATCH, RowState.from_document(WATCH, document), Cursor("0" * 16, horizon))


def joined() -> Subscription:
    subscription = Subscription("s", lambda: None)
    subscription.finish_join(LatestByRow())
    return subscription


def position(horizon: int) -> str:
    return Cursor("0" * 16, horizon).text("s")


def told(subscription: Subscription) -> list[tuple[str, str | None, Any]]:
    frames = [
        dict(line.split(": ", 1) for line in frame.decode().splitlines() if line) for frame in subscription.drain()
    ]
    return [(frame["event"], frame.get("id"), json.loads(frame["data"]).get("version")) for frame in frames]


def test_a_frame_is_encoded_once_for_all_readers() -> None:
    one, other, shared = joined(), joined(), update("a", 1)
    one.offer(shared)
    other.offer(shared)
    assert one.drain()[0] is other.drain()[0]


@pytest.mark.fault(9)
def test_a_reader_that_is_slow_is_told_the_newest_state_only() -> None:
    subscription = joined()
    for version in range(1, 1001):
        subscription.offer(update("a", version))
    assert told(subscription) == [("report_update", position(1), 1000)]


def test_the_newest_change_goes_last_so_that_no_id_claims_what_waits_behind_it() -> None:
    subscription = joined()
    for waiting in (update("a", 1, 10), update("b", 1, 11), update("a", 2, 12)):
        subscription.offer(waiting)
    assert [(frame, version) for _, frame, version in told(subscription)] == [
        (position(11), 1),
        (position(12), 2),
    ]


def test_more_rows_than_fit_are_dropped_and_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", 3)
    subscription = joined()
    for number in range(4):
        assert subscription.offer(update(f"k{number}", 1))
    assert subscription.resync == "slow_consumer"
    subscription.offer(update("k9", 1))
    assert not subscription.drain()
    assert subscription.has_news
    subscription.begin_join()
    assert subscription.resync is None


def test_while_it_joins_it_gathers_and_is_not_woken() -> None:
    subscription = Subscription("s", lambda: None)
    assert not subscription.offer(update("a", 1))
    assert not subscription.announce(degraded(1))
    assert not subscription.demand_resync("truncated")


def test_what_the_read_told_is_not_told_again() -> None:
    subscription = Subscription("s", lambda: None)
    for waiting in (update("a", 2), update("b", 5), update("c", 1)):
        subscription.offer(waiting)
    subscription.finish_join(LatestByRow([update("a", 2).state, update("b", 4).state]))
    assert [version for _, _, version in told(subscription)] == [5, 1]


def test_announcements_follow_the_updates_and_only_the_newest_counts() -> None:
    """A source that flaps while a reader is stuck must not fill its memory."""
    subscription = joined()
    for number in range(100):
        subscription.announce(degraded(number))
        subscription.announce(synced("s", Cursor("0" * 16, number), 1))
    subscription.offer(update("a", 1))
    assert [(name, frame) for name, frame, _ in told(subscription)] == [
        ("report_update", position(1)),
        ("synced", position(99)),
    ]
    assert not subscription.has_news


def test_joining_again_forgets_what_was_announced() -> None:
    """It claims what the reader is about to be told anew."""
    subscription = joined()
    subscription.announce(synced("s", Cursor("0" * 16, 9), 1))
    subscription.begin_join()
    subscription.finish_join(LatestByRow())
    assert not subscription.drain()

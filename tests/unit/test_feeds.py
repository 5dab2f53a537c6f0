"""Readers by session, and how they are woken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from rowcast import Cursor, LatestByRow, RowState, Watch
from rowcast.event import degraded
from rowcast.feeds import Feeds
from rowcast.subscription import Update

pytestmark = pytest.mark.anyio

WATCH = Watch(table="report", key="id", session="account", session_type="text")


def update(key: str, version: int, session: str = "s") -> Update:
    document = {"id": key, "account": session, "version": version}
    return Update(WATCH, RowState.from_document(WATCH, document), Cursor("0" * 16, 1))


@asynccontextmanager
async def waking(feeds: Feeds) -> AsyncIterator[None]:
    task = asyncio.create_task(feeds.wake_readers())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Reader:
    def __init__(self, feeds: Feeds, session: str = "s") -> None:
        self.woken = asyncio.Event()
        self.times = 0
        self.subscription = feeds.subscribe(session, self._wake)
        self.subscription.finish_join(LatestByRow())

    def _wake(self) -> None:
        self.times += 1
        self.woken.set()


async def test_a_state_is_delivered_once() -> None:
    feeds = Feeds()
    reader = Reader(feeds)
    assert feeds.deliver(update("a", 2))
    assert not feeds.deliver(update("a", 2))
    assert not feeds.deliver(update("a", 1))
    assert len(reader.subscription.drain()) == 1


async def test_a_session_that_nobody_reads_costs_nothing() -> None:
    feeds = Feeds()
    assert not feeds.deliver(update("a", 1))
    assert len(feeds) == 0


async def test_readers_are_woken_once_for_any_number_of_updates() -> None:
    feeds = Feeds()
    async with waking(feeds):
        reader = Reader(feeds)
        for version in range(1, 100):
            feeds.deliver(update("a", version))
        await reader.woken.wait()
        assert (reader.times, feeds.wakes) == (1, 1)


async def test_only_the_readers_of_the_session_are_woken() -> None:
    feeds = Feeds()
    async with waking(feeds):
        others = [Reader(feeds, f"s{number}") for number in range(1000)]
        reader = Reader(feeds)
        feeds.deliver(update("a", 1))
        await reader.woken.wait()
        assert feeds.wakes == 1
        assert not any(other.times for other in others)


async def test_a_reader_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    feeds = Feeds()
    async with waking(feeds):
        broken = feeds.subscribe("s", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        broken.finish_join(LatestByRow())
        readers = [Reader(feeds) for _ in range(3)]
        feeds.deliver(update("a", 1))
        for reader in readers:
            await reader.woken.wait()
    assert "a reader failed when it was woken" in caplog.text


async def test_ten_thousand_readers_are_woken_in_slices() -> None:
    """Between two slices the loop gets a turn: nobody else waits for all of them."""
    feeds = Feeds()
    async with waking(feeds):
        readers = [Reader(feeds) for _ in range(1000)]
        feeds.deliver(update("a", 1))
        seen = []
        while feeds.wakes < 1000:
            await asyncio.sleep(0)
            seen.append(feeds.wakes)
        assert max(later - earlier for earlier, later in zip([0, *seen], seen, strict=False)) <= 256
        assert all(reader.times == 1 for reader in readers)


async def test_the_last_reader_takes_the_session_with_it() -> None:
    feeds = Feeds()
    one, other = Reader(feeds), Reader(feeds)
    feeds.unsubscribe(one.subscription)
    assert (list(feeds.sessions), feeds.readers) == (["s"], 1)
    feeds.unsubscribe(other.subscription)
    feeds.unsubscribe(other.subscription)
    assert (len(feeds), feeds.readers) == (0, 0)
    await feeds.until_empty()


async def test_a_reset_makes_every_version_news_again() -> None:
    feeds = Feeds()
    reader = Reader(feeds)
    feeds.deliver(update("a", 9))
    feeds.reset("epoch_changed")
    assert reader.subscription.resync == "epoch_changed"
    assert feeds.deliver(update("a", 1))


async def test_what_is_held_is_kept_by_session() -> None:
    """A row that moves is gone from one session and new in the other, at the same version."""
    feeds = Feeds()
    left, right = Reader(feeds, "left"), Reader(feeds, "right")
    for moved in (update("a", 2, "left"), update("a", 2, "right")):
        feed = feeds.get(moved.state.session)
        assert feed is not None
        feed.held.offer(moved)
    assert feeds.held == 2
    feeds.deliver_held()
    assert len(left.subscription.drain()) == len(right.subscription.drain()) == 1
    assert feeds.held == 0


async def test_announcements_reach_all_readers() -> None:
    feeds = Feeds()
    readers = [Reader(feeds, session) for session in ("a", "a", "b")]
    feeds.announce(lambda _: degraded(1))
    assert all(len(reader.subscription.drain()) == 1 for reader in readers)

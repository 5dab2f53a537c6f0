"""The readers of this process by session, and the loop that wakes them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, KeysView, Sequence
from dataclasses import dataclass, field

from rowcast.cursor import Cursor
from rowcast.door import Notice
from rowcast.event import Event, ResyncReason, RowState
from rowcast.latest import LatestByRow, Pending
from rowcast.subscription import Subscription, Update
from rowcast.watch import Watch

__all__ = ["Feed", "Feeds"]

WAKE_SLICE = 256
MOST_GONE = 10_000

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Feed:
    """The readers of one session, and the newest versions that were handed to all of them.

    `base` is what the first reader read when it joined at `base_horizon`; whoever joined later read no less.
    `limit` holds while the session is read again, as `rereads` notifications have asked so far: what ids may claim.
    `held` is what was heard while the source counts as lost. It is kept by session, since a row that moves is gone from
    one and new in the other at the same version.
    `gone` are the rows in `delivered` that are there no more: what is under way about one must not bring it back.
    """

    subscriptions: set[Subscription] = field(default_factory=set)
    delivered: LatestByRow = field(default_factory=LatestByRow)
    gone: set[str] = field(default_factory=set)
    base: LatestByRow | None = None
    base_horizon: int = 0
    held: Pending[Update] = field(default_factory=Pending)
    rereads: int = 0
    limit: Cursor | None = None

    def end_rereads(self) -> None:
        """Let ids claim what the hub claims."""
        self.limit = None
        for subscription in self.subscriptions:
            subscription.let_known_go()


class Feeds:
    """All feeds. What concerns one session touches the readers of that session only."""

    def __init__(self) -> None:
        self._by_session: dict[str, Feed] = {}
        self._woken: list[Subscription] = []
        self._something_woken = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.wakes = 0

    def __len__(self) -> int:
        return len(self._by_session)

    @property
    def readers(self) -> int:
        """How many readers there are in all."""
        return sum(len(feed.subscriptions) for feed in self._by_session.values())

    @property
    def sessions(self) -> KeysView[str]:
        """The sessions that somebody reads, as they come and go."""
        return self._by_session.keys()

    def get(self, session: str) -> Feed | None:
        """Return the feed of a session, if anybody reads it."""
        return self._by_session.get(session)

    def subscribe(
        self, session: str, wake: Callable[[], None], tell: Callable[[Notice], None] = lambda _: None
    ) -> Subscription:
        """Register a reader."""
        subscription = Subscription(session, wake, tell)
        self._by_session.setdefault(session, Feed()).subscriptions.add(subscription)
        self._empty.clear()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a reader, and its session with the last one."""
        feed = self._by_session.get(subscription.session)
        if feed is None:
            return
        feed.subscriptions.discard(subscription)
        if not feed.subscriptions:
            del self._by_session[subscription.session]
        if not self._by_session:
            self._empty.set()

    def deliver(self, update: Update) -> bool:
        """Hand an update to all readers of its session; say whether it was news to them.

        Past `MOST_GONE` rows that have gone, the readers start over and those are forgotten: here nobody knows how long
        a read that is under way could still bring one back. What is being read again ends first.
        """
        state, feed = update.state, self._by_session.get(update.state.session)
        if feed is None or not feed.delivered.apply(state):
            return False
        for subscription in feed.subscriptions:
            if subscription.offer(update):
                self._wake_later(subscription)
        if not state.removed:
            feed.gone.discard(state.key)
        else:
            feed.gone.add(state.key)
            if len(feed.gone) > MOST_GONE and feed.limit is None:
                self.reset("truncated", [feed])
        return True

    def deliver_read(self, watch: Watch, states: Iterable[RowState], since: Cursor) -> int:
        """Hand out what a read found, under the cursor that it was read from; return how many rows were news."""
        in_order = sorted(states, key=lambda state: (state.xid, state.version))
        return sum(self.deliver(Update(watch, state, since, catch_up=True)) for state in in_order)

    @property
    def held(self) -> int:
        """How many updates wait until the source is heard again."""
        return sum(len(feed.held) for feed in self._by_session.values())

    def deliver_held(self) -> None:
        """Hand out what was held back, which ends the gap.

        To be called after `deliver_read`: what an earlier attempt to close the gap held may be older than what nobody
        heard since. The read covers every feed that can hold such a thing, and makes it no news.
        """
        for feed in self._by_session.values():
            for update in feed.held.drain():
                self.deliver(update)
            for subscription in feed.subscriptions:
                subscription.let_known_go()

    def announce(self, event_for: Callable[[str], Event]) -> None:
        """Tell all readers something about their streams, which is the same for those of one session."""
        for session, feed in self._by_session.items():
            event = event_for(session)
            for subscription in feed.subscriptions:
                if subscription.announce(event):
                    self._wake_later(subscription)

    def tell(self, notice: Notice, session: str | None = None) -> None:
        """Tell the readers of a session, or all, something about themselves; they may leave over it."""
        feeds = list(self._by_session.values()) if session is None else filter(None, [self.get(session)])
        for feed in feeds:
            for subscription in tuple(feed.subscriptions):
                try:
                    subscription.tell(notice)
                except Exception:
                    logger.exception("a reader failed when it was told", extra={"notice": notice})

    def oldest_limit(self) -> Cursor | None:
        """Return the oldest of the places that sessions are being read again from."""
        limits = (feed.limit for feed in self._by_session.values() if feed.limit is not None)
        return min(limits, key=lambda limit: limit.horizon, default=None)

    def reset(self, reason: ResyncReason, feeds: Sequence[Feed] | None = None) -> None:
        """Have the readers of some feeds, or all, join again with a full snapshot."""
        for feed in self._by_session.values() if feeds is None else feeds:
            feed.delivered, feed.base = LatestByRow(), None
            feed.gone.clear()
            feed.held.clear()
            for subscription in feed.subscriptions:
                if subscription.demand_resync(reason):
                    self._wake_later(subscription)

    async def until_empty(self) -> None:
        """Wait until the last reader has left."""
        await self._empty.wait()

    def _wake_later(self, subscription: Subscription) -> None:
        if not subscription.is_woken:
            subscription.is_woken = True
            self._woken.append(subscription)
            self._something_woken.set()

    async def wake_readers(self) -> None:
        """Wake readers as long as the hub lives, in slices, so that ten thousand of them do not hold up the loop."""
        while True:
            await self._something_woken.wait()
            self._something_woken.clear()
            await self._wake_those_woken()  # on its own, so that nothing here keeps readers that have left

    async def _wake_those_woken(self) -> None:
        woken, self._woken = self._woken, []
        for start in range(0, len(woken), WAKE_SLICE):
            for subscription in woken[start : start + WAKE_SLICE]:
                subscription.is_woken = False
                self.wakes += 1
                try:
                    subscription.wake()
                except Exception:
                    logger.exception("a reader failed when it was woken")
            await asyncio.sleep(0)

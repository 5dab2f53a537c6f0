"""The readers of this process by session, and the loop that wakes them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rowcast.event import Event, ResyncReason
from rowcast.latest import LatestByRow
from rowcast.subscription import Subscription, Update

__all__ = ["Feed", "Feeds"]

WAKE_SLICE = 256

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Feed:
    """The readers of one session, and the newest versions that were handed to all of them.

    `base` is what the first reader read when it joined at `base_horizon`; whoever joined later read no less.
    """

    subscriptions: set[Subscription] = field(default_factory=set)
    delivered: LatestByRow = field(default_factory=LatestByRow)
    base: LatestByRow | None = None
    base_horizon: int = 0


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
    def sessions(self) -> list[str]:
        """The sessions that somebody reads."""
        return list(self._by_session)

    def get(self, session: str) -> Feed | None:
        """Return the feed of a session, if anybody reads it."""
        return self._by_session.get(session)

    def subscribe(self, session: str, wake: Callable[[], None]) -> Subscription:
        """Register a reader."""
        subscription = Subscription(session, wake)
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
        """Hand an update to all readers of its session; say whether it was news to them."""
        feed = self._by_session.get(update.state.session)
        if feed is None or not feed.delivered.apply(update.state):
            return False
        for subscription in feed.subscriptions:
            if subscription.offer(update):
                self._wake_later(subscription)
        return True

    def announce(self, event: Event, sessions: Sequence[str]) -> None:
        """Tell the readers of some sessions something about their streams."""
        for session in sessions:
            feed = self._by_session.get(session)
            for subscription in feed.subscriptions if feed is not None else ():
                if subscription.announce(event):
                    self._wake_later(subscription)

    def reset(self, reason: ResyncReason) -> None:
        """Have every reader join again with a full snapshot."""
        for feed in self._by_session.values():
            feed.delivered, feed.base = LatestByRow(), None
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

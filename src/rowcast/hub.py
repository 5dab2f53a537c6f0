"""From one source of changes to all readers of this process.

A source (one LISTEN connection) pushes states in; the hub finds the readers of the session, encodes the frame once,
and wakes each of them once for any number of updates. It also owns the order of joining: register, read, send, then
what arrived meanwhile. First connect, reconnect, slow reader and lost source all take that path: a gap is a gap.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, KeysView
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol, Self

from rowcast.cursor import Cursor
from rowcast.door import Door, Notice
from rowcast.drain import drain_on_signals
from rowcast.errors import DatabaseUnavailable, RowcastError
from rowcast.event import ResyncReason, RowState, degraded, synced
from rowcast.feeds import Feed, Feeds
from rowcast.latest import LatestByRow
from rowcast.metrics import Metrics, NullMetrics
from rowcast.reading import Joined, Read, Reader
from rowcast.subscription import Subscription, Update
from rowcast.sweep import Sweep
from rowcast.tasks import Tasks
from rowcast.watch import Watch

__all__ = ["Hub", "Joined", "Read", "Reader", "Source"]


class Source(Protocol):
    """Where changes come from; `name` is what operators read."""

    @property
    def name(self) -> str: ...

    async def run(self, hub: "Hub") -> None:
        """Tell the hub what is heard, reconnect when nothing can be heard, until cancelled."""

    async def flush(self) -> None:
        """Return once everything that was committed before the call has been handed over, or cannot be."""


class Hub:
    """Sessions and their readers, fed by one source.

    Used as an async context manager, or as a lifespan: `FastAPI(lifespan=hub.lifespan)`. Starting does not wait for
    the database; `is_live` says whether the source is heard.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        source: Source,
        reader: Reader,
        metrics: Metrics | None = None,
        sweep_seconds: float = 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.watch = watch
        self.reader = reader
        self.metrics = metrics or NullMetrics()
        self.clock = clock
        self.source = source
        self._sweep_seconds = sweep_seconds
        self._feeds = Feeds()
        self.door = Door(self._feeds.tell)
        self._sweep = Sweep(self._feeds, reader, source.flush)
        self._place: Cursor | None = None
        self._lost_at: float | None = clock()
        self._epoch_doubts = 0
        self._is_truncated = False
        self._exit: AsyncExitStack | None = None
        self._tasks = Tasks()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.reader)
            stack.push_async_callback(self._tasks.stop)
            for work in (self.source.run(self), self._feeds.wake_readers(), self._sweep_often()):
                self._tasks.spawn(work)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()
        if self._exit is not None:
            await self._exit.aclose()
            self._exit = None

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the hub for as long as an ASGI application runs, and drain it when the server is told to stop."""
        async with self:
            with drain_on_signals(self.door.drain):
                yield

    async def shutdown(self, timeout_seconds: float = 5) -> None:
        """Drain, and wait until the readers have left; for servers whose signals are not seen. May be called twice."""
        if not self.door.is_draining:
            self.door.drain()
        try:
            await asyncio.wait_for(self._feeds.until_empty(), timeout_seconds)
        except TimeoutError:
            self.door.drain()  # those who were to leave last leave now

    # -- what others may know -----------------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether the source is heard and nothing is known to be missing."""
        return self._lost_at is None

    @property
    def lost_at(self) -> float | None:
        """Since when (epoch seconds) the source has not been heard."""
        return self._lost_at

    @property
    def sessions(self) -> KeysView[str]:
        """The sessions that somebody reads, as they come and go."""
        return self._feeds.sessions

    def place_of(self, session: str) -> Cursor | None:
        """Return the cursor of what the readers of a session were handed so far; None while nothing can be promised.

        A reader may be told it only once it has been sent all of that (`Subscription.has_news`).
        """
        if self._place is None or not self.is_live:
            return None
        feed = self._feeds.get(session)
        return self._place if feed is None or feed.limit is None else feed.limit

    def statistics(self) -> dict[str, int]:
        """Count sessions, readers, wake-ups so far, and updates that wait for a lost source."""
        feeds = self._feeds
        return {"sessions": len(feeds), "readers": feeds.readers, "wakes": feeds.wakes, "held": feeds.held}

    # -- readers ------------------------------------------------------------------------------------------------------

    def subscribe(
        self, session: str, wake: Callable[[], None], tell: Callable[[Notice], None] = lambda _: None
    ) -> Subscription:
        """Register a reader; it gathers updates, and is woken once it has joined, but told of itself at any time."""
        return self._feeds.subscribe(session, wake, tell)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a reader."""
        self._feeds.unsubscribe(subscription)

    async def join(
        self, subscription: Subscription, since: Cursor | None, *, resync: ResyncReason | None = None
    ) -> Joined:
        """Read what the reader misses, after it was registered: nothing can fall between.

        With a cursor that leads somewhere, that is what changed since; else all rows. Raises `DatabaseUnavailable`,
        also until the source has been heard for the first time: a change before that would reach nobody.
        """
        if self._place is None:
            raise DatabaseUnavailable("the database is not listened to yet")
        subscription.begin_join()
        read = None
        if since is not None:
            read = await self.reader.changes((subscription.session,), since)
            if not read.usable:
                resync = "bad_cursor" if read.cursor.epoch == since.epoch else "epoch_changed"
                read = None
        if read is None:
            # With the rows that went: what is still under way about one of them must not bring it back.
            read = await self.reader.session(subscription.session, self._place)
        if resync is not None:
            self.metrics.resynced(resync)
        known, feed = LatestByRow(read.states), self._feeds.get(subscription.session)
        subscription.finish_join(known, keep=not self.is_live or (feed is not None and feed.limit is not None))
        if read.cursor.epoch != self._place.epoch:
            # Versions of two epochs cannot be compared, so what gathered meanwhile is of no use. If the hub has yet to
            # learn of the new epoch, all readers then join again; if it knew before the read, this one was told to.
            subscription.forget()
            self._doubt_epoch()
        elif feed is not None and feed.base is None and subscription.resync is None:
            feed.base, feed.base_horizon = known, read.cursor.horizon
        return Joined.after(read, resync)

    # -- the source ---------------------------------------------------------------------------------------------------

    def publish(self, state: RowState, horizon: int) -> None:
        """Hand a state to the readers of its session. `horizon` came with it through the source's queue.

        While the source counts as lost, the newest state of each row is held back, and no horizon is adopted: it would
        claim what is still missing.
        """
        feed, place = self._feeds.get(state.session), self._place
        if place is not None and self.is_live and horizon > place.horizon:
            self._place = place = Cursor(place.epoch, horizon)
        if place is None or feed is None:
            self.metrics.notification("unwatched")
        elif not self.is_live:
            feed.held.offer(Update(self.watch, state, place))
        else:
            news = self._feeds.deliver(Update(self.watch, state, feed.limit or place))
            self.metrics.notification("delivered" if news else "stale")

    def advance(self, horizon: int) -> None:
        """Adopt the horizon of a probe: it stood in the same queue, so everything before it has arrived."""
        if self._place is not None and self.is_live:
            self._place = Cursor(self._place.epoch, horizon)

    def reread(self, session: str) -> None:
        """Read a session again, because its change did not fit a notification."""
        feed = self._feeds.get(session)
        if feed is None or self._place is None:
            return
        feed.rereads += 1
        if feed.limit is None:
            feed.limit = self._place
            self._tasks.spawn(self._catch_up(session, feed))

    def truncated(self) -> None:
        """Ask for the epoch again, since all rows went at once, and have every reader start over."""
        self._is_truncated = True
        self._doubt_epoch()

    def lose(self) -> None:
        """Note that the source is not heard any more; streams stay open and are told."""
        if self._lost_at is None:
            self._lost_at = lost_at = self.clock()
            self.metrics.listener_up(False)
            self._feeds.announce(lambda _: degraded(lost_at))

    async def regain(self, horizon: int) -> None:
        """Close the gap that a lost source left, once it is heard again at `horizon`.

        One read brings everything since the last safe horizon, for all watched sessions; then follows what was held
        back meanwhile. A changed epoch makes every reader start over. Raises `DatabaseUnavailable`; the source then
        still counts as lost.
        """
        before = self._feeds.oldest_limit() or self._place
        read = await self.reader.changes(list(self._feeds.sessions), before or Cursor("", horizon))
        if before is not None and read.usable:
            self._feeds.deliver_read(self.watch, read.states, before)
            self._feeds.deliver_held()
        elif before is not None:
            self._feeds.reset("epoch_changed")
        self._place = place = Cursor(read.cursor.epoch, horizon)
        self._lost_at = None
        self.metrics.listener_up(True)
        # Not the read's own cursor: who joined while it was under way may have read less, and its session is not in it.
        self._feeds.announce(lambda session: synced(session, place, self.clock()))
        self._doubt_epoch()  # a TRUNCATE since the read was not heeded while the source was lost

    async def _catch_up(self, session: str, feed: Feed) -> None:
        """Read a session until no notification has asked for it meanwhile.

        The change itself has not been handed out before that, so no id of the session may claim what is heard behind
        it in the queue: `feed.limit` is what was claimed when the last read began.
        """
        done = 0
        while done != feed.rereads and feed.limit is not None and self._place is not None:
            done, limit = feed.rereads, self._place
            try:
                read = await self.reader.changes((session,), feed.limit)
            except RowcastError:
                read = None
            if self._feeds.get(session) is not feed:
                return  # those who needed it have left; who has come since has read it, and maybe what came after it
            if read is None or not read.usable or read.cursor.epoch != self._place.epoch:
                self._feeds.reset("truncated", [feed])
            else:
                self._feeds.deliver_read(self.watch, read.states, feed.limit)
            feed.limit = limit
        feed.end_rereads()

    def _doubt_epoch(self) -> None:
        self._epoch_doubts += 1
        if self._epoch_doubts == 1:
            self._tasks.spawn(self._renew_epoch())

    async def _renew_epoch(self) -> None:
        """Ask for the epoch until nobody has doubted it meanwhile: one at a time, so that no old answer comes last."""
        while doubts := self._epoch_doubts:
            with suppress(RowcastError):  # the sweep compares epochs too
                place = self._place or Cursor("", 0)
                read = await self.reader.changes((), place)
                if read.cursor.epoch != place.epoch:
                    # States of the old epoch may still be on their way; the reset has to come after them.
                    await self.source.flush()
                # While the source is lost its return decides: horizons of two epochs must not be mixed.
                if self.is_live and (self._is_truncated or read.cursor.epoch != place.epoch):
                    self._place = replace(self._place or place, epoch=read.cursor.epoch)
                    self._feeds.reset("truncated" if self._is_truncated else "epoch_changed")
                    self._is_truncated = False
            self._epoch_doubts -= doubts

    # -- the sweep ----------------------------------------------------------------------------------------------------

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            if self.is_live and len(self._feeds):
                with suppress(RowcastError):
                    self.metrics.sweep_found(await self.sweep())
            else:
                self._sweep.start_over()

    async def sweep(self) -> int:
        """Read the watched sessions by a cursor of the sweep's own, and publish what nobody was told.

        Returns how many rows that were; it should always be 0. Raises `DatabaseUnavailable`.
        """
        if (place := self._place) is None:
            return 0
        read = await self._sweep.find(place)
        if not read.usable or self._place is None or read.cursor.epoch != self._place.epoch:
            self._doubt_epoch()
            return 0
        return self._feeds.deliver_read(self.watch, read.states, place)

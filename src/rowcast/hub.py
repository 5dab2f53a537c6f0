"""From one source of changes to all readers of this process.

A source (one LISTEN connection) pushes states in; the hub finds the readers of the session, encodes the frame once,
and wakes each of them once for any number of updates. It also owns the order of joining: register, read, send, then
what arrived meanwhile. First connect, reconnect, slow reader and lost source all take that path: a gap is a gap.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from rowcast.cursor import Cursor
from rowcast.errors import DatabaseUnavailable, RowcastError
from rowcast.event import ResyncReason, RowState, degraded, synced
from rowcast.feeds import Feed, Feeds
from rowcast.latest import LatestByRow, Pending
from rowcast.metrics import Metrics, NullMetrics
from rowcast.subscription import Subscription, Update
from rowcast.watch import Watch

__all__ = ["Hub", "Joined", "Read", "Reader", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Rows of some sessions and the cursor that goes with them, from one snapshot.

    `full`: these are all rows. `usable` is False when the cursor that was asked from leads nowhere: the rows are then
    not all that was missed.
    """

    states: tuple[RowState, ...]
    cursor: Cursor
    full: bool
    usable: bool = True


class Reader(Protocol):
    """How the hub reads the truth. `rowcast.postgres.PostgresReader` is one, `rowcast.testing.MemoryTable` another.

    Every method raises `DatabaseUnavailable` when the truth cannot be had.
    """

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def session(self, session: str, since: Cursor | None = None) -> Read:
        """Return all rows of a session; with `since` also the rows that have gone since."""

    async def changes(self, sessions: Sequence[str], since: Cursor) -> Read:
        """Return what changed in some sessions since a cursor, or say that this cannot be known (`usable`)."""


class Source(Protocol):
    """Where changes come from."""

    async def run(self, hub: "Hub") -> None:
        """Tell the hub what is heard, reconnect when nothing can be heard, until cancelled."""

    async def flush(self) -> None:
        """Return once everything that was committed before the call has been handed over, or cannot be."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a reader that has joined must be sent first; `resync` says why it is everything, if it asked for less."""

    read: Read
    resync: ResyncReason | None


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
        self.is_draining = False
        self._source = source
        self._sweep_seconds = sweep_seconds
        self._sweep_from: Cursor | None = None
        self._feeds = Feeds()
        self._place: Cursor | None = None
        self._lost_at: float | None = clock()
        self._held: Pending[Update] = Pending()
        self._farewells: set[Callable[[], None]] = set()
        self._exit: AsyncExitStack | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.reader)
            stack.push_async_callback(self._stop_tasks)
            for work in (self._source.run(self), self._feeds.wake_readers(), self._sweep_often()):
                self._spawn(work)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()
        if self._exit is not None:
            await self._exit.aclose()
            self._exit = None

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Run the hub for as long as an ASGI application runs."""
        async with self:
            yield

    def drain(self) -> None:
        """Take no new readers, and have the present ones say goodbye. For a signal handler inside the loop."""
        self.is_draining = True
        for say_goodbye in tuple(self._farewells):
            say_goodbye()

    async def shutdown(self, timeout_seconds: float = 5) -> None:
        """Drain, and wait until the readers have left; for servers whose signals are not seen. May be called twice."""
        self.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._feeds.until_empty(), timeout_seconds)

    def on_drain(self, say_goodbye: Callable[[], None]) -> Callable[[], None]:
        """Have `say_goodbye` called when the hub drains; return what takes it back."""
        self._farewells.add(say_goodbye)
        return lambda: self._farewells.discard(say_goodbye)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_tasks(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
    def place(self) -> Cursor | None:
        """The cursor that goes with what has been handed out so far; None while nothing can be promised."""
        return self._place if self.is_live else None

    def feed(self, session: str) -> Feed | None:
        """Return the feed of a session, if anybody reads it."""
        return self._feeds.get(session)

    def statistics(self) -> dict[str, int]:
        """Count sessions, readers, wake-ups so far, and updates that wait for a lost source."""
        feeds = self._feeds
        return {"sessions": len(feeds), "readers": feeds.readers, "wakes": feeds.wakes, "held": len(self._held)}

    # -- readers ------------------------------------------------------------------------------------------------------

    def subscribe(self, session: str, wake: Callable[[], None]) -> Subscription:
        """Register a reader; it gathers updates, and is woken once it has joined."""
        return self._feeds.subscribe(session, wake)

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
            read = await self.reader.session(subscription.session)
        if resync is not None:
            self.metrics.resynced(resync)
        known = LatestByRow(read.states)
        subscription.finish_join(known)
        feed = self._feeds.get(subscription.session)
        if feed is not None and feed.base is None:
            feed.base, feed.base_horizon = known, read.cursor.horizon
        return Joined(read, resync)

    # -- the source ---------------------------------------------------------------------------------------------------

    def publish(self, state: RowState, horizon: int) -> None:
        """Hand a state to the readers of its session. `horizon` came with it through the source's queue.

        While the source counts as lost, the newest state of each row is held back, and no horizon is adopted: it would
        claim what is still missing.
        """
        if self._place is None or (not self.is_live and self._feeds.get(state.session) is None):
            self.metrics.notification("unwatched")
            return
        if not self.is_live:
            self._held.offer(Update(self.watch, state, self._place))
            return
        if horizon > self._place.horizon:
            self._place = Cursor(self._place.epoch, horizon)
        if self._feeds.get(state.session) is None:
            self.metrics.notification("unwatched")
        else:
            news = self._feeds.deliver(Update(self.watch, state, self._place))
            self.metrics.notification("delivered" if news else "stale")

    def advance(self, horizon: int) -> None:
        """Adopt the horizon of a probe: it stood in the same queue, so everything before it has arrived."""
        if self._place is not None and self.is_live:
            self._place = Cursor(self._place.epoch, horizon)

    def reread(self, session: str) -> None:
        """Read a session again, because its change did not fit a notification."""
        if self._feeds.get(session) is not None:
            self._spawn(self._catch_up(session))

    def truncated(self) -> None:
        """Ask for the epoch again, since all rows went at once, and have every reader start over."""
        self._spawn(self._renew_epoch())

    def lose(self) -> None:
        """Note that the source is not heard any more; streams stay open and are told."""
        if self._lost_at is None:
            self._lost_at = self.clock()
            self.metrics.listener_up(False)
            self._feeds.announce(degraded(self._lost_at), self._feeds.sessions)

    async def regain(self, horizon: int) -> None:
        """Close the gap that a lost source left, once it is heard again at `horizon`.

        One read brings everything since the last safe horizon, for all watched sessions; then follows what was held
        back meanwhile. A changed epoch makes every reader start over. Raises `DatabaseUnavailable`; the source then
        still counts as lost.
        """
        sessions = self._feeds.sessions
        before = self._place
        read = await self.reader.changes(sessions, before or Cursor("", horizon))
        held = self._held.drain()
        if before is None or not read.usable:
            if before is not None:
                self._feeds.reset("epoch_changed")
        else:
            for state in sorted(read.states, key=lambda state: (state.xid, state.version)):
                self._feeds.deliver(Update(self.watch, state, before, catch_up=True))
            for update in held:
                self._feeds.deliver(update)
        self._place = Cursor(read.cursor.epoch, horizon)
        self._lost_at = None
        self.metrics.listener_up(True)
        self._feeds.announce(synced(read.cursor, self.clock()), sessions)

    async def _catch_up(self, session: str) -> None:
        before = self._place
        if before is not None:
            with suppress(RowcastError):  # the sweep comes round again
                read = await self.reader.changes((session,), before)
                for state in read.states:
                    self._feeds.deliver(Update(self.watch, state, before, catch_up=True))

    async def _renew_epoch(self) -> None:
        with suppress(RowcastError):  # the sweep compares epochs too
            read = await self.reader.changes((), self._place or Cursor("", 0))
            if self._place is not None and read.cursor.epoch != self._place.epoch:
                self._place = Cursor(read.cursor.epoch, self._place.horizon)
                self._feeds.reset("truncated")

    # -- the sweep ----------------------------------------------------------------------------------------------------

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            if self.is_live and len(self._feeds):
                with suppress(RowcastError):
                    self.metrics.sweep_found(await self.sweep())
            else:
                self._sweep_from = None

    async def sweep(self) -> int:
        """Read the watched sessions by a cursor of the sweep's own, and publish what nobody was told.

        Returns how many rows that were; it should always be 0. Raises `DatabaseUnavailable`.
        """
        place = self._place
        if place is None:
            return 0
        read = await self.reader.changes(self._feeds.sessions, self._sweep_from or place)
        await self._source.flush()  # what was read may have been on its way
        self._sweep_from = read.cursor
        if not read.usable:
            self._place = Cursor(read.cursor.epoch, place.horizon)
            self._feeds.reset("epoch_changed")
            return 0
        return sum(self._was_missed(state) and self._deliver_late(state, place) for state in read.states)

    def _was_missed(self, state: RowState) -> bool:
        """Whether no reader can have learnt of `state` when it joined."""
        feed = self._feeds.get(state.session)
        return (
            feed is not None and feed.base is not None and state.xid >= feed.base_horizon and feed.base.is_news(state)
        )

    def _deliver_late(self, state: RowState, place: Cursor) -> bool:
        return self._feeds.deliver(Update(self.watch, state, place, catch_up=True))

"""One reader of one session: what waits for it, and when it is woken."""

from collections.abc import Callable

from rowcast.cursor import Cursor
from rowcast.door import Notice
from rowcast.event import Event, ResyncReason, RowState, row_changed
from rowcast.latest import LatestByRow, Pending
from rowcast.sse import encode
from rowcast.watch import Watch

__all__ = ["Subscription", "Update"]

PENDING_ROWS = 1000


class Update:
    """A new state of a row on its way to the readers of its session; the first of them encodes the frame for all."""

    __slots__ = ("_catch_up", "_cursor", "_frame", "_watch", "state")

    def __init__(self, watch: Watch, state: RowState, cursor: Cursor, *, catch_up: bool = False) -> None:
        self.state = state
        self._watch = watch
        self._cursor = cursor
        self._catch_up = catch_up
        self._frame: bytes | None = None

    def frame(self) -> bytes:
        """Return the bytes that go to every reader."""
        if self._frame is None:
            event = row_changed(self._watch, self.state, self._cursor, "catchup" if self._catch_up else "live")
            self._frame = encode(event)
        return self._frame


class Subscription:
    """What one reader of a session still has to be told.

    Bounded by rows, not by updates: past `PENDING_ROWS` rows everything is dropped, `resync` names the reason, and
    the reader joins again. `wake` is called by the hub, once for any number of updates; the reader then drains.
    While it joins, a reader is not woken and updates only gather; `tell` is called at any time. Of what is announced
    about the stream itself only the newest counts.
    """

    __slots__ = ("_announced", "_joining", "_known", "_pending", "is_woken", "resync", "session", "tell", "wake")

    def __init__(self, session: str, wake: Callable[[], None], tell: Callable[[Notice], None] = lambda _: None) -> None:
        self.session = session
        self.wake = wake
        self.tell = tell
        self.is_woken = False
        self.resync: ResyncReason | None = None
        self._pending: Pending[Update] = Pending()
        self._announced: bytes | None = None
        self._joining = True
        self._known: LatestByRow | None = None

    def begin_join(self) -> None:
        """Forget what waits: everything from here on is covered by the read that follows, or arrives after it."""
        self._joining = True
        self.resync = None
        self.forget()
        self._announced = self._known = None

    def forget(self) -> None:
        """Drop what waits; the reader must then join again, or be about to."""
        self._pending.clear()

    def finish_join(self, known: LatestByRow, *, keep: bool = False) -> None:
        """Drop what the read already told, and be woken from now on.

        With `keep`, go on dropping that until `let_known_go`: a read for all readers is under way, which may be older
        than this one, and would bring back a row that has gone.
        """
        self._pending.forget(known)
        self._known = known if keep else None
        self._joining = False

    def let_known_go(self) -> None:
        """Forget what the read told: what is offered from now on was changed after it."""
        self._known = None

    def offer(self, update: Update) -> bool:
        """Queue an update; say whether the reader has to be woken for it."""
        if self._known is not None and not self._known.is_news(update.state):
            return False
        if self.resync is None:
            self._pending.offer(update)
            if len(self._pending) > PENDING_ROWS:
                self.demand_resync("slow_consumer")
        return not self._joining

    def demand_resync(self, reason: ResyncReason) -> bool:
        """Drop what waits and have the reader join again; say whether it has to be woken for it."""
        self.resync = reason
        self.forget()
        return not self._joining

    def announce(self, event: Event) -> bool:
        """Queue an event about the stream itself behind the updates; say whether the reader has to be woken for it."""
        self._announced = encode(event)
        return not self._joining

    def drain(self) -> list[bytes]:
        """Take the frames of everything that waits, in the order in which it has to be sent."""
        frames = [update.frame() for update in self._pending.drain()]
        if self._announced is not None:
            frames.append(self._announced)
            self._announced = None
        return frames

    @property
    def has_news(self) -> bool:
        """Whether anything waits; until it is sent, no id may claim what the hub has handed out."""
        return bool(self._pending) or self._announced is not None or self.resync is not None

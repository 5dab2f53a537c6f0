"""One reader of one session: what waits for it, and when it is woken."""

from collections.abc import Callable

from rowcast.cursor import Cursor
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
    While it joins, a reader is not woken and updates only gather.
    """

    __slots__ = ("_announced", "_joining", "_pending", "is_woken", "resync", "session", "wake")

    def __init__(self, session: str, wake: Callable[[], None]) -> None:
        self.session = session
        self.wake = wake
        self.is_woken = False
        self.resync: ResyncReason | None = None
        self._pending: Pending[Update] = Pending()
        self._announced: list[bytes] = []
        self._joining = True

    def begin_join(self) -> None:
        """Forget what waits: everything from here on is covered by the read that follows, or arrives after it."""
        self._joining = True
        self.resync = None
        self._pending.clear()
        self._announced.clear()

    def finish_join(self, known: LatestByRow) -> None:
        """Drop what the read already told, and be woken from now on."""
        self._pending.forget(known)
        self._joining = False

    def offer(self, update: Update) -> bool:
        """Queue an update; say whether the reader has to be woken for it."""
        if self.resync is None:
            self._pending.offer(update)
            if len(self._pending) > PENDING_ROWS:
                self.demand_resync("slow_consumer")
        return not self._joining

    def demand_resync(self, reason: ResyncReason) -> bool:
        """Drop what waits and have the reader join again; say whether it has to be woken for it."""
        self.resync = reason
        self._pending.clear()
        return not self._joining

    def announce(self, event: Event) -> bool:
        """Queue an event about the stream itself behind the updates; say whether the reader has to be woken for it."""
        self._announced.append(encode(event))
        return not self._joining

    def drain(self) -> list[bytes]:
        """Take the frames of everything that waits, in the order in which it has to be sent."""
        frames = [update.frame() for update in self._pending.drain()]
        if self._announced:
            frames += self._announced
            self._announced.clear()
        return frames

    @property
    def has_news(self) -> bool:
        """Whether anything waits."""
        return bool(self._pending) or bool(self._announced) or self.resync is not None

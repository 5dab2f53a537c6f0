"""One stream of Server-Sent Events: written from the hub's wake-ups, with no task and no queue of its own."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator

from starlette.types import Receive, Send

from rowcast.backoff import Backoff
from rowcast.cursor import Cursor
from rowcast.door import Notice
from rowcast.errors import RowcastError
from rowcast.event import Event, ResyncReason, degraded, failed, goodbye, heartbeat, token_expiring
from rowcast.http.auth import Principal
from rowcast.http.lifetime import Lifetime, StreamSettings
from rowcast.http.opening import joined_frames, opening_frames, stream_headers
from rowcast.http.ownership import Ownership
from rowcast.http.parting import see_off, spread_ms
from rowcast.http.writer import Writer
from rowcast.hub import Hub, Joined
from rowcast.sse import encode

__all__ = ["Stream"]

_SESSION_HAS_ENDED = frozenset({"revoked", "session_closed"})

logger = logging.getLogger(__name__)


class Stream:
    """The life of one stream, from the first read to the goodbye.

    The request's own task waits for the client to leave; frames are written when the hub wakes the stream.
    """

    __slots__ = (
        "_drain_timer", "_events", "_hub", "_joined", "_knows_protocol", "_last", "_last_write", "_lifetime", "_owner",
        "_ownership", "_reason", "_rejoining", "_session", "_settings", "_since", "_stream_id", "_subscription",
        "_task", "_timer", "_writer",
    )  # fmt: skip

    def __init__(
        self,
        hub: Hub,
        session: str,
        principal: Principal,
        *,
        settings: StreamSettings,
        stream_id: str,
        knows_protocol: bool,
        recheck: Callable[[], Awaitable[object]],
    ) -> None:
        self._hub = hub
        self._session = session
        self._settings = settings
        self._stream_id = stream_id
        self._knows_protocol = knows_protocol
        self._last_write = asyncio.get_running_loop().time()
        self._lifetime = Lifetime(
            settings, now=self._last_write, expires_at=principal.expires_at, has_age=knows_protocol, clock=hub.clock
        )
        self._drain_timer: asyncio.TimerHandle | None = None
        self._events = 0
        self._joined: Joined | None = None
        self._last: Event | None = None
        self._owner = principal.owner
        self._ownership = Ownership(recheck, on_settled=self._settled, on_lost=self._lose)
        self._reason: str | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._since: Cursor | None = None
        self._subscription = hub.subscribe(session, self._wake, self._heed)
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writer: Writer | None = None

    async def join(self, since: Cursor | None, reason: ResyncReason | None) -> Joined:
        """Read what the client misses. Raises `DatabaseUnavailable`: the stream has not begun, so that is a 503."""
        self._since = since
        self._joined = await self._hub.join(self._subscription, since, resync=reason)
        return self._joined

    def leave(self) -> None:
        """Forget the stream; must be called exactly once, however far it came."""
        self._hub.unsubscribe(self._subscription)
        for timer in (self._timer, self._drain_timer):
            if timer is not None:
                timer.cancel()
        if self._rejoining is not None:
            self._rejoining.cancel()
        self._ownership.abandon()
        if self._writer is not None:
            self._writer.abandon()

    async def run(self, receive: Receive, send: Send) -> str:
        """Send headers and what was read at once, then stay until either side ends it; return the reason."""
        self._task = asyncio.current_task()
        self._hub.metrics.stream_opened()
        try:
            headers = [(name.encode(), value.encode()) for name, value in stream_headers(self._stream_id).items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._ownership.settle()
            # Not before: where `send` waits, as behind a middleware, a wake-up would be written before the opening.
            self._writer = Writer(
                send,
                on_free=self._freed,
                on_stalled=lambda: self._leave_task("slow_consumer"),
                timeout_seconds=self._settings.write_timeout_seconds,
            )
            if self._ownership.lost is not None:
                self._lose(self._ownership.lost)
            else:
                self._begin()
            while self._reason is None and (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # Our own `_leave_task` cancels the wait for the client; a cancellation from outside goes on.
            if self._reason is None or self._task is None or self._task.uncancel() > 0:
                raise
        except OSError:
            pass
        finally:
            reason = self._reason or "client_left"
            self._reason = reason
            seconds = asyncio.get_running_loop().time() - self._lifetime.born
            self._hub.metrics.stream_closed(reason, seconds)
            about = {
                "stream_id": self._stream_id,
                "reason": reason,
                "seconds": round(seconds, 3),
                "events": self._events,
            }
            logger.info("a stream closed", extra=about)
        self._hub.unsubscribe(self._subscription)
        if reason != "client_left" and self._writer is not None:
            await see_off(self._writer, receive, self._settings.write_timeout_seconds + 10)
        return reason

    def _begin(self) -> None:
        """Open and go live, or end, if that was told before there was a stream to end."""
        joined, self._joined = self._joined, None  # it is not kept for as long as the stream lives
        assert joined is not None
        opening = opening_frames(
            self._hub, joined, self._since, session=self._session, stream_id=self._stream_id,
            heartbeat_ms=self._settings.heartbeat_ms,
        )  # fmt: skip
        self._put(opening)
        self._tick()
        if self._last is not None:
            self._end(self._last)
        self._wake()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _put(self, frames: Iterable[bytes], *, more: bool = True) -> None:
        assert self._writer is not None
        self._last_write = asyncio.get_running_loop().time()
        try:
            self._writer.write(self._counted(frames), more=more)
        except OSError:
            self._leave_task("client_left")

    def _counted(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        for frame in frames:
            self._events += 1
            self._hub.metrics.frames_sent(1)
            yield frame

    @property
    def _is_held(self) -> bool:
        """Whether what waits may not be sent now: it is being read anew, or may not be for this reader."""
        return self._rejoining is not None or self._ownership.in_doubt

    def _wake(self) -> None:
        """Send what waits, unless an earlier write does; it then goes out when that is over, merged by row."""
        if self._writer is None or self._writer.is_busy or self._reason is not None or self._is_held:
            return
        if self._subscription.resync is not None:
            self._rejoining = asyncio.create_task(self._join_again(self._subscription.resync))
        elif frames := self._subscription.drain():
            self._put(frames)

    def _freed(self, is_sent: bool) -> None:
        self._last_write = asyncio.get_running_loop().time()
        if not is_sent:
            self._leave_task("client_left")
        elif self._reason is not None:
            pass  # it has stalled, and is over
        elif self._last is not None:
            self._end(self._last)
        else:
            self._wake()

    async def _join_again(self, reason: ResyncReason) -> None:
        assert self._writer is not None
        try:
            joined = await self._read_again(reason)
            await self._writer.until_free()  # a heartbeat may be under way
            await self._ownership.settle()
        except Exception:
            logger.exception("a stream could not join again", extra={"stream_id": self._stream_id})
            self._end(failed(self._hub.watch, self._session))
        else:
            if self._reason is None:
                self._put(joined_frames(self._hub, joined, None, session=self._session))
        finally:
            self._rejoining = None
        self._wake()

    async def _read_again(self, reason: ResyncReason) -> Joined:
        """Join again as soon as the database can be read; the client stays, and is told to poll meanwhile."""
        assert self._writer is not None
        backoff = Backoff(first_seconds=0.1, cap_seconds=2, random=random.random)
        is_told = False
        while True:
            try:
                return await self._hub.join(self._subscription, None, resync=self._subscription.resync or reason)
            except RowcastError:
                await self._writer.until_free()
                if not is_told and self._reason is None:
                    self._put([encode(degraded(self._hub.lost_at or self._hub.clock()))])
                    is_told = True
            await asyncio.sleep(backoff.next_seconds())

    # -- time ---------------------------------------------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.01), self._tick)

    def _tick(self) -> None:
        """Say goodbye when it is time to; else show life if nothing was sent for the length of a heartbeat."""
        if self._reason is not None:
            return
        assert self._writer is not None
        now, beat = asyncio.get_running_loop().time(), self._settings.heartbeat_ms / 1000
        over = self._lifetime.is_over(now)
        if over is not None:
            self._end(goodbye(over, resume=True, retry_ms=spread_ms(1)))
            return
        if self._lifetime.must_recheck(now):
            self._ownership.check()
        if not self._writer.is_busy:
            if left := self._lifetime.must_warn():
                self._put([encode(token_expiring(*left))])
            if now - self._last_write >= beat:
                self._put(self._heartbeat())
        idle = now - self._last_write
        self._arm(min(beat - idle if idle < beat else beat, self._lifetime.until_next(now)))

    def _heartbeat(self) -> list[bytes]:
        """What waits goes first: the position of the heartbeat covers it."""
        if self._subscription.resync is not None or self._is_held:
            return [encode(heartbeat(self._session, None, self._hub.clock()))]
        place = self._hub.place_of(self._session)
        return [*self._subscription.drain(), encode(heartbeat(self._session, place, self._hub.clock()))]

    # -- the end ------------------------------------------------------------------------------------------------------

    def _heed(self, notice: Notice) -> None:
        """Do as the hub says; it says so at once, which may be before there is anything to end."""
        if notice == "drain":
            self._drain()
        elif notice == "switched_off":
            if not self._hub.door.keeps(self._owner):
                retry_ms = spread_ms(self._settings.drain_seconds)
                self._end(goodbye("switched_off", resume=False, retry_ms=retry_ms, transport="poll"))
        else:
            self._wake()  # what was committed before may still be told
            self._ownership.doubt(closed=notice == "closed")

    def _settled(self) -> None:
        self._lifetime.was_checked(asyncio.get_running_loop().time())
        self._wake()

    def _lose(self, reason: str) -> None:
        self._end(goodbye(reason, resume=reason not in _SESSION_HAS_ENDED, retry_ms=spread_ms(1)))

    def _drain(self) -> None:
        """Say goodbye: at once to clients that come back by themselves, to others when the window is over.

        Who is asked a second time does it at once.
        """
        if self._knows_protocol or self._drain_timer is not None:
            self._end(goodbye("drain", resume=True, retry_ms=spread_ms(self._settings.drain_seconds)))
        else:
            self._drain_timer = asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._drain)

    def _end(self, last: Event) -> None:
        """Send what waits and a last frame, then end the body and the request; after the write that is under way."""
        if self._reason is not None:
            return
        if self._writer is None or self._writer.is_busy:
            self._last = last
            return
        frames = [] if self._subscription.resync or self._is_held else self._subscription.drain()
        self._put([*frames, encode(last)], more=False)
        self._leave_task(str(last.data.get("reason", last.name)))

    def _leave_task(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

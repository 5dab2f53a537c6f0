"""One stream of Server-Sent Events: written from the hub's wake-ups, with no task and no queue of its own."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Send

from rowcast.cursor import Cursor
from rowcast.errors import NotFound, RowcastError, Unauthorized
from rowcast.event import (
    Event,
    ResyncReason,
    connected,
    degraded,
    failed,
    goodbye,
    heartbeat,
    resync,
    row_changed,
    snapshot,
    synced,
)
from rowcast.http.auth import Principal
from rowcast.http.errors import VARY
from rowcast.http.writer import Writer
from rowcast.hub import Hub, Joined
from rowcast.sse import encode

__all__ = ["Stream", "StreamSettings", "stream_headers"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How streams behave.

    `recheck_seconds` is how often an open stream asks again whether its session is still its owner's.
    `max_age_seconds` is varied by ± 10 % for each stream, and not applied to clients that do not know the protocol:
    they would not come back. `drain_seconds` is the window over which clients are asked to return after a drain.
    """

    heartbeat_ms: int = 5000
    max_age_seconds: float = 3600
    write_timeout_seconds: float = 20
    drain_seconds: float = 5
    recheck_seconds: float = 60


def stream_headers(stream_id: str) -> dict[str, str]:
    """Return the headers of a stream; none that concern the connection, which HTTP/2 forbids."""
    return {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-store, no-transform, private",
        "x-accel-buffering": "no",
        "vary": VARY,
        "x-content-type-options": "nosniff",
        "x-request-id": stream_id,
    }


class Stream:
    """The life of one stream, from the first read to the goodbye.

    The request's own task waits for the client to leave; frames are written when the hub wakes the stream.
    """

    __slots__ = (
        "_born", "_drain_timer", "_hub", "_knows_protocol", "_last_write", "_max_age_seconds", "_principal",
        "_reason", "_recheck", "_recheck_at", "_rechecking", "_rejoining", "_session", "_settings", "_stream_id",
        "_subscription", "_task", "_timer", "_writer",
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
        self._principal = principal
        self._settings = settings
        self._stream_id = stream_id
        self._knows_protocol = knows_protocol
        self._max_age_seconds = settings.max_age_seconds * random.uniform(0.9, 1.1)  # noqa: S311
        self._born = self._last_write = asyncio.get_running_loop().time()
        self._drain_timer: asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self._recheck = recheck
        self._recheck_at = self._born + settings.recheck_seconds
        self._rechecking: asyncio.Task[None] | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._subscription = hub.subscribe(session, self._wake)
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writer: Writer | None = None

    async def join(self, since: Cursor | None, reason: ResyncReason | None) -> Joined:
        """Read what the client misses. Raises `DatabaseUnavailable`: the stream has not begun, so that is a 503."""
        return await self._hub.join(self._subscription, since, resync=reason)

    def leave(self) -> None:
        """Forget the stream; must be called exactly once, however far it came."""
        self._hub.unsubscribe(self._subscription)
        for timer in (self._timer, self._drain_timer):
            if timer is not None:
                timer.cancel()
        for task in (self._rejoining, self._rechecking):
            if task is not None:
                task.cancel()
        if self._writer is not None:
            self._writer.abandon()

    async def run(self, joined: Joined, since: Cursor | None, receive: Receive, send: Send) -> str:
        """Send headers and first frames in one write, then stay until either side ends it; return the reason."""
        self._task = asyncio.current_task()
        forget_drain = self._hub.on_drain(self._drain)
        self._hub.metrics.stream_opened()
        try:
            headers = [(name.encode(), value.encode()) for name, value in stream_headers(self._stream_id).items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # Not before: where `send` waits, as behind a middleware, a wake-up would be written before the opening.
            self._writer = Writer(send, on_free=self._freed, timeout_seconds=self._settings.write_timeout_seconds)
            self._put(self._opening(joined, since))
            self._arm(self._settings.heartbeat_ms / 1000)
            if self._hub.is_draining:
                self._drain()
            self._wake()
            while self._reason is None and (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # Our own `_end` cancels the wait for the client; a cancellation from outside goes on.
            if self._reason is None or self._task is None or self._task.uncancel() > 0:
                raise
        except OSError:
            pass
        finally:
            forget_drain()
            reason = self._reason or "client_left"
            self._reason = reason
            self._hub.metrics.stream_closed(reason, asyncio.get_running_loop().time() - self._born)
        return reason

    # -- frames -------------------------------------------------------------------------------------------------------

    def _opening(self, joined: Joined, since: Cursor | None) -> list[bytes]:
        mode = "resync" if joined.resync else "snapshot" if joined.read.full else "resume"
        hello = connected(
            self._hub.watch,
            self._session,
            stream_id=self._stream_id,
            epoch=joined.read.cursor.epoch,
            heartbeat_ms=self._settings.heartbeat_ms,
            mode=mode,  # type: ignore[arg-type]
            now=self._hub.clock(),
        )
        return [encode(hello), *self._joined(joined, since)]

    def _joined(self, joined: Joined, since: Cursor | None) -> list[bytes]:
        """Frames of a join. Until the last of them is out, no id may claim the read they came from."""
        read = joined.read
        events: list[Event] = [resync(joined.resync)] if joined.resync else []
        if read.full:
            events += snapshot(self._hub.watch, self._session, read.states, read.cursor)
        else:
            events += [row_changed(self._hub.watch, state, since, "catchup") for state in read.states]
        events.append(synced(read.cursor, self._hub.clock()))
        if self._hub.lost_at is not None:
            events.append(degraded(self._hub.lost_at))
        return [encode(event) for event in events]

    # -- writing ------------------------------------------------------------------------------------------------------

    def _put(self, frames: list[bytes], *, more: bool = True) -> None:
        assert self._writer is not None
        self._last_write = asyncio.get_running_loop().time()
        self._hub.metrics.frames_sent(len(frames))
        try:
            self._writer.write(frames[0] if len(frames) == 1 else b"".join(frames), more=more)
        except OSError:
            self._leave_task("client_left")

    def _wake(self) -> None:
        """Send what waits, unless an earlier write does; it then goes out when that is over, merged by row."""
        if self._writer is None or self._writer.is_busy or self._reason is not None or self._rejoining is not None:
            return
        if self._subscription.resync is not None:
            self._rejoining = asyncio.create_task(self._join_again(self._subscription.resync))
        elif frames := self._subscription.drain():
            self._put(frames)

    def _freed(self, is_sent: bool) -> None:
        if is_sent and self._reason is None:
            self._wake()
        else:
            self._leave_task("slow_consumer")

    async def _join_again(self, reason: ResyncReason) -> None:
        try:
            joined = await self._hub.join(self._subscription, None, resync=reason)
            assert self._writer is not None
            await self._writer.until_free()  # a heartbeat may be under way
        except RowcastError:
            self._end(goodbye("slow_consumer", resume=True, retry_ms=_spread_ms(1)))
        except Exception:
            logger.exception("a stream could not join again", extra={"stream_id": self._stream_id})
            self._end(failed(self._hub.watch, self._session))
        else:
            if self._reason is None:
                self._put(self._joined(joined, None))
        finally:
            self._rejoining = None
        self._wake()

    # -- time ---------------------------------------------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.01), self._tick)

    def _tick(self) -> None:
        """Say goodbye when it is time to; else show life if nothing was sent for the length of a heartbeat."""
        assert self._writer is not None
        now, beat = asyncio.get_running_loop().time(), self._settings.heartbeat_ms / 1000
        if self._principal.expires_at is not None and self._hub.clock() >= self._principal.expires_at:
            self._end(goodbye("token_expired", resume=True, retry_ms=_spread_ms(1)))
        elif self._knows_protocol and now - self._born >= self._max_age_seconds:
            self._end(goodbye("max_age", resume=True, retry_ms=_spread_ms(1)))
        else:
            if now >= self._recheck_at and self._rechecking is None:
                self._rechecking = asyncio.create_task(self._check_owner())
            idle = now - self._last_write
            if idle >= beat and not self._writer.is_busy:
                self._put(self._heartbeat())
                idle = 0.0
            self._arm(beat - idle if idle < beat else beat)

    async def _check_owner(self) -> None:
        """Ask again whose session this is; while that cannot be known, nothing changes."""
        try:
            await self._recheck()
        except NotFound:
            self._end(goodbye("revoked", resume=False, retry_ms=_spread_ms(1)))
        except Unauthorized:
            self._end(goodbye("token_expired", resume=True, retry_ms=_spread_ms(1)))
        except RowcastError:
            pass
        except Exception:
            logger.exception("the owner could not be checked", extra={"stream_id": self._stream_id})
        finally:
            self._rechecking = None
            self._recheck_at = asyncio.get_running_loop().time() + self._settings.recheck_seconds

    def _heartbeat(self) -> list[bytes]:
        """What waits goes first: the position of the heartbeat covers it."""
        if self._subscription.resync is not None or self._rejoining is not None:
            return [encode(heartbeat(None, self._hub.clock()))]
        return [*self._subscription.drain(), encode(heartbeat(self._hub.place_of(self._session), self._hub.clock()))]

    # -- the end ------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Say goodbye: at once to clients that come back by themselves, to others when the window is over.

        Who is asked a second time does it at once.
        """
        if self._knows_protocol or self._drain_timer is not None:
            self._end(goodbye("drain", resume=True, retry_ms=_spread_ms(self._settings.drain_seconds)))
        else:
            self._drain_timer = asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._drain)

    def _end(self, last: Event) -> None:
        """Send what waits and a last frame, then end the body and the request."""
        if self._reason is not None or self._writer is None:
            return
        if not self._writer.is_busy:
            frames = [] if self._subscription.resync or self._rejoining else self._subscription.drain()
            self._put([*frames, encode(last)], more=False)
        self._leave_task(str(last.data.get("reason", last.name)))

    def _leave_task(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()


def _spread_ms(seconds: float) -> int:
    return round(random.uniform(0.05, 1) * seconds * 1000)  # noqa: S311 - spreads the clients, protects nothing

"""Following one session, from the first connection to the last: what is open, what takes over from what, and when."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from rowcast.errors import NotFound, Unauthorized
from rowcast.following.events import ServerEvent
from rowcast.following.exchange import Connection, open_stream
from rowcast.following.knowledge import Knowledge
from rowcast.following.policy import Ended, Pace, Policy, Transport, Why
from rowcast.following.polling import Polling
from rowcast.following.standing import Standing
from rowcast.following.token import Credentials, NoToken, Token
from rowcast.tasks import ended as let_go
from rowcast.watch import Watch

__all__ = ["Follower"]

_GAP_SECONDS = 2.0
_BEAT_SECONDS = (0.1, 300.0)
_RETRY_SECONDS = (0.0, 600.0)
_WARNING_SECONDS = (1.0, 3600.0)


class Follower:
    """Keeps `knowledge` up to date until it is cancelled, or ends with `Unauthorized` or `NotFound`.

    Where a stream is to take over (from polling, or from a stream whose token runs out or that was not understood), it
    is opened beside what is there, from the same cursor, and read as far as `synced` without being applied. Only then
    it takes over, so that nobody waits meanwhile; what both have told is told apart by the versions.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        *,
        stream_url: str,
        poll_url: str,
        watch: Watch,
        token: Token,
        transport: Transport,
        on_status: Callable[[], None],
    ) -> None:
        self.reconnects = 0
        self.standing = Standing(on_status)
        self.knowledge = Knowledge(watch)
        self._http = http
        self._stream_url = stream_url
        self._policy = Policy(transport)
        self._credentials = Credentials(token, self.standing)
        self._polling = Polling(
            http,
            poll_url,
            knowledge=self.knowledge,
            policy=self._policy,
            credentials=self._credentials,
            standing=self.standing,
        )
        self._successor: asyncio.Task[Connection | Ended] | None = None
        self._is_patient = False
        self._stopgap: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Stream or poll, as the policy says, for ever."""
        while True:
            opened = await (self._open() if self._policy.streams else self._poll_until_synced())
            ended = opened if isinstance(opened, Ended) else await self._read(opened)
            wait_seconds = self._policy.note(ended)
            if ended.why is Why.UNAUTHORIZED:
                await self._credentials.recover()
                continue
            self.reconnects += 1
            self.knowledge.start_over()
            self.standing.become("reconnecting", ended.reason)
            await self._pause(wait_seconds, polls=self._policy.streams and self._policy.polls_between(ended))

    async def _pause(self, seconds: float, *, polls: bool) -> None:
        """Wait; where that is long, and polls may get through, poll meanwhile."""
        await asyncio.sleep(min(seconds, _GAP_SECONDS) if polls else seconds)
        if not polls or seconds <= _GAP_SECONDS:
            return
        polling = asyncio.create_task(self._polling.run())
        try:
            await asyncio.wait({polling}, timeout=seconds - _GAP_SECONDS)
            if polling.done():
                polling.result()
        finally:
            await let_go(polling)

    # -- a stream -----------------------------------------------------------------------------------------------------

    async def _open(self) -> Connection | Ended:
        parameters = {"proto": "1"}
        if self.knowledge.cursor:
            parameters["cursor"] = self.knowledge.cursor
        if self._policy.heartbeat_ms is not None:
            parameters["hb"] = str(self._policy.heartbeat_ms)
        opened = await open_stream(self._http, self._stream_url, parameters, await self._credentials.current())
        if isinstance(opened, Connection):
            self._credentials.accepted()
        return opened

    async def _read(self, connection: Connection) -> Ended:
        """Take in what a stream tells, until it ends; let a successor take its place as soon as one is synced."""
        self.knowledge.begin()
        reading = asyncio.create_task(connection.read())
        try:
            while True:
                waited_for = {reading, *([self._successor] if self._successor else [])}
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
                if self._successor is not None and self._successor.done():
                    successor, self._successor = self._successor.result(), None
                    if isinstance(successor, Ended):
                        return successor
                    await let_go(reading)
                    await connection.aclose()
                    connection = successor
                    self.knowledge.begin()
                else:
                    events = reading.result()
                    if isinstance(events, Ended):
                        return events
                    for event in events:
                        if ended := await self._take(connection, event):
                            return ended
                    await self.knowledge.until_told()
                reading = asyncio.create_task(connection.read())
        finally:
            await let_go(reading)
            await self._drop_successor()
            await self._drop_stopgap()
            await connection.aclose()

    async def _take(self, connection: Connection, event: ServerEvent) -> Ended | None:
        """Take in one event; return how the stream ended if that was the last one."""
        knowledge = self.knowledge
        data = knowledge.parse(event)
        if data is None or not knowledge.take(event, data):
            # Before `synced` there is nothing to keep it for; and the parts of a snapshot stand or fall together.
            if knowledge.must_start_over or not connection.is_synced or event.name == "snapshot":
                return connection.ended(Why.NOT_UNDERSTOOD, f"an event {event.name!r} was not understood")
            await self._succeed(renews=False)
            return None
        knowledge.adopt(event.id)
        if event.name == "connected":
            connection.heartbeat_seconds = _seconds(data.get("heartbeat_ms"), 5.0, _BEAT_SECONDS)
        elif event.name == "synced":
            connection.synced()
            await self._drop_stopgap()
            self.standing.become("live")
        elif event.name == "degraded":
            self.standing.become("degraded", "the server cannot hear its database")
            if self._policy.probes and self._stopgap is None:
                self._stopgap = asyncio.create_task(self._polling.run_beside_stream())
        elif event.name == "token_expiring" and self._credentials.renewable:
            # Not at once: who warns as soon as a token is young would have it renewed without a pause.
            left_seconds = _seconds(data.get("in_ms"), 0.0, _WARNING_SECONDS)
            await self._succeed(renews=True, after_seconds=left_seconds * random.uniform(0.25, 0.5))  # noqa: S311
        elif event.name == "goodbye":
            return self._part(connection, data)
        elif event.name == "error":
            why = Why.BROKEN if data.get("retryable", True) else Why.SENT_TO_POLL
            return connection.ended(why, str(data.get("error", "the server failed")))
        return None

    def _part(self, connection: Connection, data: Mapping[str, Any]) -> Ended:
        """Do as a goodbye says: come back, poll from now on, or stay away."""
        reason = str(data.get("reason", ""))
        said = f"the server ended the stream ({reason})"
        floor_seconds = _seconds(data.get("retry_ms"), 0.0, _RETRY_SECONDS)
        if data.get("transport") == "poll":
            return connection.ended(Why.SENT_TO_POLL, said, floor_seconds)
        if reason == "token_expired" and self._credentials.renewable:
            return connection.ended(Why.UNAUTHORIZED, said)  # the token is over, the session need not be
        if data.get("resume") is False:
            raise (
                Unauthorized("the token ran out")
                if reason == "token_expired"
                else NotFound(f"the session is not to be followed any more ({reason})")
            )
        return connection.ended(Why.GOODBYE, said, floor_seconds)

    # -- beside a stream ----------------------------------------------------------------------------------------------

    async def _succeed(self, *, renews: bool, after_seconds: float = 0.0) -> None:
        """Have another stream opened that takes over; what was to come later gives way to what is needed now."""
        if self._successor is not None and (after_seconds or not self._is_patient):
            return
        await self._drop_successor()
        self._is_patient = after_seconds > 0
        self._successor = asyncio.create_task(self._open_successor(renews=renews, after_seconds=after_seconds))

    async def _drop_successor(self) -> None:
        if self._successor is not None:
            successor, self._successor = self._successor, None
            await let_go(successor)
            if not successor.cancelled() and successor.exception() is None:
                await _close(successor.result())

    async def _drop_stopgap(self) -> None:
        if self._stopgap is not None:
            stopgap, self._stopgap = self._stopgap, None
            await let_go(stopgap)

    async def _open_successor(self, *, renews: bool, after_seconds: float) -> Connection | Ended:
        """Return a stream that is synced, however often it takes; or that everything must begin anew."""
        pace = Pace()
        refused = self._credentials.sent
        await asyncio.sleep(after_seconds)
        self._is_patient = False
        while True:
            try:
                if renews:
                    await self._credentials.renew(refused)
                opened = await self._open_synced()
            except NoToken as error:
                self.standing.become(self.standing.status, str(error))
            else:
                if isinstance(opened, Connection) or opened.why is Why.STARTS_OVER:
                    return opened
            await asyncio.sleep(pace.next_seconds())

    async def _open_synced(self) -> Connection | Ended:
        """Open a stream and read it as far as `synced`, without taking in anything yet."""
        opened = await self._open()
        if isinstance(opened, Ended):
            return opened
        ended: Ended | None = None
        try:
            ended = await opened.until_synced()
        except BaseException:
            await opened.aclose()
            raise
        if ended is not None:
            await opened.aclose()
        return ended or opened

    # -- instead of a stream ------------------------------------------------------------------------------------------

    async def _poll_until_synced(self) -> Connection | Ended:
        """Poll; where a stream is wanted, until one is synced beside it."""
        polling = asyncio.create_task(self._polling.run())
        probing = asyncio.create_task(self._probe()) if self._policy.probes else None
        try:
            await asyncio.wait({polling, *([probing] if probing else [])}, return_when=asyncio.FIRST_COMPLETED)
            if probing is not None and probing.done():
                return probing.result()
            polling.result()
            raise AssertionError("polling does not end by itself")
        finally:
            await let_go(polling)
            if probing is not None:
                await let_go(probing)

    async def _probe(self) -> Connection | Ended:
        """Return a stream as soon as one gets through, or that everything must begin anew."""
        while True:
            await asyncio.sleep(self._policy.seconds_to_probe())
            opened = await self._open_synced()
            if isinstance(opened, Connection) or opened.why is Why.STARTS_OVER:
                self._policy.probed(None)
                return opened
            self._policy.probed(opened)


async def _close(opened: Connection | Ended) -> None:
    if isinstance(opened, Connection):
        await opened.aclose()


def _seconds(milliseconds: object, default: float, bounds: tuple[float, float]) -> float:
    """Return a time that an event names, within bounds; `default` stands for what is no number."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return default
    return min(max(milliseconds / 1000, bounds[0]), bounds[1])

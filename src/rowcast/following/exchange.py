"""Asking the server: a stream that is read with a watchdog, and a poll. What it says comes back, it is not raised."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2

from rowcast.errors import NotFound, ProtocolError
from rowcast.following.events import EventParser, ServerEvent
from rowcast.following.policy import Ended, Why

__all__ = ["Answer", "Connection", "ask", "open_stream"]

_CONNECT_SECONDS = 5.0
_FIRST_EVENT_SECONDS = 8.0
_POLL_MARGIN_SECONDS = 16.0
_MOST_FLOOR_SECONDS = 600.0
_NEVER_STREAMS = frozenset({406, 415, 501})
_FAILURES = (httpx2.HTTPError, httpx2.StreamError, TimeoutError, ProtocolError, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a poll; no `body` means that nothing has changed.

    `date` is when the server answered by its own clock, in epoch seconds, if it said so.
    """

    body: bytes | None
    etag: str
    date: float | None = None


class Connection:
    """One open stream.

    It is dead when no byte has come for two and a half heartbeats and two seconds, and mute when there is no first
    event within eight seconds after it was asked for, whether headers came or not. Bytes count, not events: a large
    snapshot on a slow line is a sign of life.
    """

    def __init__(self, response: httpx2.Response, asked_at: float) -> None:
        self.heartbeat_seconds = 5.0
        self._response = response
        self._pieces = response.aiter_bytes()
        self._parser = EventParser()
        self._unread: list[ServerEvent] = []
        self._mute_at = asked_at + _FIRST_EVENT_SECONDS
        self._first_event_at: float | None = None
        self._synced_at: float | None = None

    async def read(self) -> list[ServerEvent] | Ended:
        """Return the next events, or how the stream ended."""
        if self._unread:
            events, self._unread = self._unread, []
            return events
        try:
            while True:
                async with asyncio.timeout(self._patience_seconds()):
                    piece = await anext(self._pieces, None)
                if piece is None:
                    return self.ended(self._why_dead(), "the stream ended")
                if events := self._parser.feed(piece):
                    if self._first_event_at is None:
                        self._first_event_at = time.monotonic()
                    return events
        except TimeoutError:
            silence = "no event came" if self._first_event_at is None else "the stream has fallen silent"
            return self.ended(self._why_dead(), silence)
        except ProtocolError as error:
            return self.ended(Why.NOT_UNDERSTOOD, str(error))
        except _FAILURES as error:
            return self.ended(self._why_dead(), f"the stream broke: {_text(error)}")

    def synced(self) -> None:
        """Note that the server has said all that was missed."""
        self._synced_at = self._synced_at or time.monotonic()

    @property
    def is_synced(self) -> bool:
        """Whether the server has said all that was missed."""
        return self._synced_at is not None

    def ended(self, why: Why, reason: str, floor_seconds: float = 0.0) -> Ended:
        """Return how this stream ended."""
        now = time.monotonic()
        return Ended(
            why=why,
            reason=reason,
            floor_seconds=min(floor_seconds, _MOST_FLOOR_SECONDS),
            lived_seconds=now - (self._first_event_at or now),
            synced_seconds=now - (self._synced_at or now),
            heartbeat_seconds=self.heartbeat_seconds,
        )

    async def until_synced(self) -> Ended | None:
        """Read as far as `synced`, and have `read` return all of it again; or say why that does not come.

        A stream that tells everything anew counts as ended, too. It may not be opened beside another transport: its
        snapshot removes what it does not name, and rows that the other has told since it was taken would go with that,
        never to be told again.
        """
        seen: list[ServerEvent] = []
        while not any(event.name == "synced" for event in seen):
            events = await self.read()
            if isinstance(events, Ended):
                return events
            seen += events
            for event in events:
                if event.name in ("snapshot", "resync"):
                    return self.ended(Why.STARTS_OVER, "everything is told anew")
                if event.name in ("goodbye", "error"):
                    return self.ended(Why.FAILED, f"the stream ended with {event.name}")
        self._unread = seen
        return None

    async def aclose(self) -> None:
        """Close the connection."""
        await self._response.aclose()

    def _patience_seconds(self) -> float:
        if self._first_event_at is None:
            return self._mute_at - time.monotonic()
        return 2.5 * self.heartbeat_seconds + 2

    def _why_dead(self) -> Why:
        return Why.MUTE if self._first_event_at is None else Why.BROKEN


async def open_stream(
    http: httpx2.AsyncClient, url: str, parameters: Mapping[str, str], token: str
) -> Connection | Ended:
    """Ask for a stream. Raises `NotFound` where asking again would not help."""
    # Not compressed: a stream is only as quick as the buffer of whoever compresses it.
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", **_credentials(token)}
    timeout = httpx2.Timeout(_CONNECT_SECONDS, read=None)
    asked_at = time.monotonic()
    try:
        request = http.build_request("GET", url, params=dict(parameters), headers=headers, timeout=timeout)
        async with asyncio.timeout(_FIRST_EVENT_SECONDS):
            response = await http.send(request, stream=True)
    except _FAILURES as error:
        return _failed(error)
    if refusal := _refusal(response):
        await response.aclose()
        return refusal
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        await response.aclose()
        kind = response.headers.get("content-type", "something without a type")
        return Ended(why=Why.NOT_A_STREAM, reason=f"the answer is not an event stream but {kind}")
    return Connection(response, asked_at)


async def ask(
    http: httpx2.AsyncClient, url: str, parameters: Mapping[str, str], token: str, etag: str, *, wait_seconds: float
) -> Answer | Ended:
    """Poll once. Raises `NotFound` where asking again would not help."""
    headers = {"Accept": "application/json", **_credentials(token), **({"If-None-Match": etag} if etag else {})}
    timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
    try:
        async with asyncio.timeout(wait_seconds + _POLL_MARGIN_SECONDS):
            request = http.build_request("GET", url, params=dict(parameters), headers=headers, timeout=timeout)
            response = await http.send(request, stream=True)
            async with aclosing(response):
                if response.status_code == 304:
                    return Answer(None, etag)
                if refusal := _refusal(response):
                    return refusal
                date = _instant(response.headers.get("date"))
                return Answer(await response.aread(), response.headers.get("etag", ""), date)
    except _FAILURES as error:
        return _failed(error)


def _credentials(token: str) -> dict[str, str]:
    # A header of the request, never of the URL; a redirect to another origin is followed without it.
    return {"Authorization": f"Bearer {token}"} if token else {}


def _refusal(response: httpx2.Response) -> Ended | None:
    status = response.status_code
    if status == 200:
        return None
    if status in (204, 403, 404):
        raise NotFound("there is no such session, or it is not yours" if status != 204 else "the session is over")
    said = f"the server answered {status}"
    floor_seconds = _seconds(response.headers.get("retry-after"))
    if status == 401:
        return Ended(why=Why.UNAUTHORIZED, reason="the token is not accepted, or not any more")
    if status in (429, 503):
        return Ended(why=Why.BUSY, reason=said, floor_seconds=floor_seconds, is_crowded=status == 429)
    why = Why.NOT_A_STREAM if status in _NEVER_STREAMS or 200 < status < 300 else Why.FAILED
    return Ended(why=why, reason=said, floor_seconds=floor_seconds)


def _failed(error: Exception) -> Ended:
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Ended(why=Why.UNREACHABLE, reason=f"the server cannot be reached: {_text(error)}")
    why = Why.MUTE if isinstance(error, TimeoutError | httpx2.TimeoutException) else Why.FAILED
    return Ended(why=why, reason="no answer came" if why is Why.MUTE else f"the exchange failed: {_text(error)}")


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _instant(date: str | None) -> float | None:
    """Read the form of a date that servers send; another one says nothing."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return None


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After in seconds, within bounds; its other form, a date, is left to the backoff."""
    is_number = retry_after is not None and retry_after.isdecimal()
    return min(float(retry_after or 0), _MOST_FLOOR_SECONDS) if is_number else 0.0

"""A client for scripts and the terminal: one store, two transports, one rule of versions.

    async with watch("http://127.0.0.1:8000", session, token=token) as live:
        async for change in live:
            print(change.row)

Needs `httpx2`, which comes with `rowcast[server]`.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import httpx2

from rowcast.backoff import Backoff
from rowcast.errors import ConfigurationError, NotFound, ProtocolError, Unauthorized
from rowcast.store import Change, RowStore
from rowcast.watch import Watch

__all__ = ["Change", "Live", "Status", "Transport", "watch"]

Status = Literal["connecting", "live", "degraded", "polling", "reconnecting"]
Transport = Literal["auto", "sse", "poll"]

_DEFAULT_WATCH = Watch(
    table="request", key="request_id", session="session_id", status="status", terminal=("done", "error")
)
_CONNECT_SECONDS = 8.0
_LONG_LIFE_SECONDS = 10.0
_FAILURES_BEFORE_POLLING = 3
_SECONDS_BEFORE_PROBE = (30.0, 60.0, 120.0, 300.0, 600.0)
_LONG_POLL_SECONDS = 20
_POLL_SECONDS = 1.0


class Live:
    """The state of one session as this client knows it; iterate it to be told of every change, for ever.

    `rows` are the rows by key, `status` is what the connection is doing, `reason` why it is not live. Iterating
    reconnects by itself, from where it stood, and polls where streams do not get through. It ends with `Unauthorized`
    or `NotFound`, which no retry cures.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        url: str,
        session: str,
        *,
        watch: Watch,
        poll_path: str,
        transport: Transport,
        on_status: Callable[["Live"], None],
    ) -> None:
        self.status: Status = "connecting"
        self.reason = ""
        self.cursor = ""
        self.reconnects = 0
        self._http = http
        self._stream_url = f"{url.rstrip('/')}/api/sse/{session}"
        self._poll_url = url.rstrip("/") + poll_path.format(session_id=session)
        self._watch = watch
        self._transport = transport
        self._on_status = on_status
        self._store = RowStore(watch)
        self._heartbeat_seconds = 5.0
        self._floor_seconds = 0.0
        self._failures = 0
        self._probes = 0
        self._live_since = math.inf
        self._is_to_blame = True
        self._etag = ""
        self._backoff = Backoff(first_seconds=0.5, cap_seconds=30, random=random.random)

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows as they are known now, by key."""
        return self._store.rows

    @property
    def epoch(self) -> str:
        """The epoch that the rows belong to."""
        return self._store.epoch

    @property
    def stale(self) -> int:
        """How many states came that were no news."""
        return self._store.stale

    async def __aiter__(self) -> AsyncIterator[Change]:
        while True:
            streams = self._transport == "sse" or (
                self._transport == "auto" and self._failures < _FAILURES_BEFORE_POLLING
            )
            self._live_since, self._is_to_blame = math.inf, True
            async with aclosing(self._stream() if streams else self._poll()) as changes:
                try:
                    async for change in changes:
                        yield change
                except (httpx2.HTTPError, TimeoutError, ProtocolError, OSError) as error:
                    # A server that is not there says nothing about whether streams would get through to it.
                    self._is_to_blame = not isinstance(error, httpx2.ConnectError)
                    self.reason = str(error) or type(error).__name__
            if streams:
                if time.monotonic() - self._live_since > _LONG_LIFE_SECONDS:
                    self._failures = self._probes = 0
                    self._backoff.reset()
                elif self._is_to_blame:
                    self._failures += 1
                self.reconnects += 1
                self._become("reconnecting", self.reason)
                await self._pause()

    def _enter_epoch(self, epoch: str) -> None:
        if self._store.enter_epoch(epoch):
            self._etag = ""

    def _become(self, status: Status, reason: str = "") -> None:
        changed = (status, reason) != (self.status, self.reason)
        self.status, self.reason = status, reason
        if changed:
            self._on_status(self)

    async def _pause(self) -> None:
        floor, self._floor_seconds = self._floor_seconds, 0.0
        await asyncio.sleep(max(floor, self._backoff.next_seconds()))

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code == 401:
            raise Unauthorized("the token is not accepted, or not any more")
        if response.status_code in (403, 404):
            raise NotFound("there is no such session, or it is not yours")
        self._floor_seconds = _seconds(response.headers.get("retry-after"))
        if response.status_code not in (200, 304):
            raise ProtocolError(f"the server answered {response.status_code}")

    def _check_stream(self, response: httpx2.Response) -> None:
        """Go on with a stream only; whatever else was answered is reason to poll."""
        failures, self._failures = self._failures, _FAILURES_BEFORE_POLLING
        self._check(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise ProtocolError("the answer is not an event stream")
        self._failures = failures

    # -- the stream ---------------------------------------------------------------------------------------------------

    async def _stream(self) -> AsyncGenerator[Change, None]:
        self._etag = ""  # what an earlier poll saw is not what the store holds once the stream has changed it
        parameters = {"proto": "1"} | ({"cursor": self.cursor} if self.cursor else {})
        request = self._http.build_request(
            "GET", self._stream_url, params=parameters, headers={"Accept": "text/event-stream"},
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=None),
        )  # fmt: skip
        async with asyncio.timeout(_CONNECT_SECONDS):
            response = await self._http.send(request, stream=True)
        async with aclosing(response):
            self._check_stream(response)
            events = aiter(httpx2.EventSource(response))
            while True:
                async with asyncio.timeout(2.5 * self._heartbeat_seconds + 2):
                    event = await anext(events, None)
                if event is None:
                    self.reason = "the stream ended"
                    return
                if event.data:
                    for change in self._applied(event.event, event.data):
                        yield change
                if event.id:
                    self.cursor = event.id
                if event.event in ("goodbye", "error"):
                    return

    def _applied(self, name: str, data: str) -> list[Change]:
        try:
            return self._apply(name, json.loads(data))
        except (ValueError, KeyError, TypeError) as error:
            # Reading on would adopt ids that claim what was not understood; the next connection starts before it.
            raise ProtocolError(f"an event {name!r} was not understood: {error}") from error

    def _apply(self, name: str, data: Mapping[str, Any]) -> list[Change]:
        watch = self._watch
        if name == "connected":
            self._heartbeat_seconds = data["heartbeat_ms"] / 1000
            self._enter_epoch(data["epoch"])
        elif name == "snapshot":
            self._enter_epoch(data["epoch"])
            return self._store.keep_snapshot(data)
        elif name == "synced":
            self._live_since = min(self._live_since, time.monotonic())
            self._become("live")
        elif name == "degraded":
            self._become("degraded", "the server cannot hear its database")
        elif name == "goodbye":
            self._part(data)
        elif name == "error":
            self.reason = str(data.get("error", name))
            if not data.get("retryable", True):
                self._failures = _FAILURES_BEFORE_POLLING
        elif name == watch.update_event:
            return self._store.keep_live(data, removed=False)
        elif name == watch.removed_event:
            return self._store.keep_live(data, removed=True)
        return []

    def _part(self, data: Mapping[str, Any]) -> None:
        """Do as a goodbye says: come back, poll from now on, or stay away."""
        reason = str(data["reason"])
        self.reason = f"the server ended the stream ({reason})"
        self._floor_seconds = data["retry_ms"] / 1000
        self._is_to_blame = False
        if data.get("transport") == "poll":
            self._failures = _FAILURES_BEFORE_POLLING
        elif data.get("resume") is False:
            raise (
                Unauthorized("the token ran out")
                if reason == "token_expired"
                else NotFound(f"the session is not to be followed any more ({reason})")
            )

    # -- polling ------------------------------------------------------------------------------------------------------

    async def _poll(self) -> AsyncGenerator[Change, None]:
        """Poll; where streams are wanted, until it is time to look whether they get through by now."""
        wait_seconds = _SECONDS_BEFORE_PROBE[min(self._probes, len(_SECONDS_BEFORE_PROBE) - 1)]
        probe_at = time.monotonic() + wait_seconds * random.uniform(0.8, 1.2)  # noqa: S311
        while self._transport == "poll" or time.monotonic() < probe_at:
            started = time.monotonic()
            try:
                changes, interval_seconds = await self._poll_once()
            except (httpx2.HTTPError, ProtocolError, TimeoutError, OSError) as error:
                self._become("reconnecting", str(error) or type(error).__name__)
                await self._pause()
                continue
            self._backoff.reset()
            self._become("polling", self.reason if self.status == "polling" else "")
            for change in changes:
                yield change
            if not changes:
                # Held by the server as a rule; where something between answers at once, do not spin.
                await asyncio.sleep(max(0.0, interval_seconds - (time.monotonic() - started)))
        self._probes += 1
        self._failures = _FAILURES_BEFORE_POLLING - 1

    async def _poll_once(self) -> tuple[list[Change], float]:
        """Ask once; return what is news, and how long to wait at least before asking again without any."""
        parameters = {"wait": str(_LONG_POLL_SECONDS)} | ({"cursor": self.cursor} if self.cursor else {})
        response = await self._http.get(
            self._poll_url,
            params=parameters,
            headers={"If-None-Match": self._etag} if self._etag else {},
            timeout=_LONG_POLL_SECONDS + 2 * _CONNECT_SECONDS,
        )
        self._check(response)
        if response.status_code == 304:
            return [], _POLL_SECONDS
        try:
            body = response.json()
            self._enter_epoch(body["epoch"])
            changes = self._store.keep_poll(body, is_first=not self._etag)
            cursor, interval_seconds = str(body["cursor"]), float(body["poll"]["interval_ms"]) / 1000
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"the answer was not understood: {error}") from error
        self._etag, self.cursor = response.headers.get("etag", ""), cursor
        return changes, min(interval_seconds, _POLL_SECONDS)


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After in seconds; its other form, a date, is left to the backoff."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0


@asynccontextmanager
async def watch(
    url: str,
    session: str,
    *,
    token: str | None = None,
    transport: Transport = "auto",
    table: Watch = _DEFAULT_WATCH,
    poll_path: str = "/api/session/{session_id}/requests",
    on_status: Callable[[Live], None] = lambda _: None,
) -> AsyncIterator[Live]:
    """Follow a session of the service at `url`; nothing is sent before the result is iterated.

    `token` goes into the Authorization header, never into the URL. `on_status` is called when `status` or `reason`
    changes. Raises `ConfigurationError` if `url` is no address of a web server.
    """
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"the address cannot be read: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError(f"{url} is no address of a service; it begins with http:// or https://")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # A redirect is followed; its target gets the token only where it is the same origin.
    async with httpx2.AsyncClient(headers=headers, follow_redirects=True) as http:
        yield Live(
            http, url, session, watch=table, poll_path=poll_path, transport=transport, on_status=on_status
        )  # fmt: skip

"""A client for scripts and the terminal: one store, two transports, one rule of versions.

    async with watch("http://127.0.0.1:8000", session, token=token) as live:
        async for change in live:
            print(change.row)

Needs `httpx2`, which comes with `rowcast[server]`.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from rowcast.backoff import Backoff
from rowcast.errors import NotFound, ProtocolError, RowcastError, Unauthorized
from rowcast.event import RowState
from rowcast.latest import LatestByRow
from rowcast.watch import Watch

__all__ = ["Change", "Live", "Transport", "watch"]

Transport = Literal["auto", "sse", "poll"]

_DEFAULT_WATCH = Watch(
    table="request", key="request_id", session="session_id", status="status", terminal=("done", "error")
)
_FAILURES_BEFORE_POLLING = 2
_POLLS_BEFORE_PROBE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row became what it is now, or went (`removed`).

    `lag_seconds` is the time from the row's `updated_at` until it was received, which is right as far as the clocks
    agree; None for rows that were told as part of a snapshot.
    """

    row: Mapping[str, Any]
    removed: bool
    transport: Literal["sse", "poll"]
    lag_seconds: float | None


class Live:
    """The state of one session as this client knows it; iterate it to be told of every change, for ever.

    `rows` are the rows by key, `status` is what the connection is doing. Iterating reconnects by itself, from where it
    stood, and polls where streams do not get through. It ends with `Unauthorized` or `NotFound`, which no retry cures.
    """

    def __init__(
        self, http: httpx2.AsyncClient, url: str, session: str, *, watch: Watch, poll_path: str, transport: Transport
    ) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.status: Literal["connecting", "live", "degraded", "polling", "reconnecting"] = "connecting"
        self.cursor = ""
        self.epoch = ""
        self.reconnects = 0
        self.stale = 0
        self._http = http
        self._stream_url = f"{url.rstrip('/')}/api/sse/{session}"
        self._poll_url = url.rstrip("/") + poll_path.format(session_id=session)
        self._watch = watch
        self._transport = transport
        self._latest = LatestByRow()
        self._snapshot: dict[str, Mapping[str, Any]] | None = None
        self._heartbeat_seconds = 5.0
        self._floor_seconds = 0.0
        self._etag = ""

    async def __aiter__(self) -> AsyncIterator[Change]:
        backoff = Backoff(first_seconds=0.5, cap_seconds=30, random=random.random)
        failures = 0
        while True:
            if self._transport == "poll" or (self._transport == "auto" and failures >= _FAILURES_BEFORE_POLLING):
                self.status = "polling"
                async for change in self._poll(backoff):
                    yield change
                failures = 0  # look whether streams get through by now
                continue
            try:
                async for change in self._stream():
                    failures = 0
                    backoff.reset()
                    yield change
            except (httpx2.HTTPError, TimeoutError, ProtocolError, OSError):
                failures += 1
            self.status = "reconnecting"
            self.reconnects += 1
            floor, self._floor_seconds = self._floor_seconds, 0.0
            await asyncio.sleep(max(floor, backoff.next_seconds()))

    # -- the stream ---------------------------------------------------------------------------------------------------

    async def _stream(self) -> AsyncIterator[Change]:
        parameters = {"proto": "1"} | ({"cursor": self.cursor} if self.cursor else {})
        async with self._http.stream(
            "GET", self._stream_url, params=parameters, headers={"Accept": "text/event-stream"},
            timeout=httpx2.Timeout(10, read=None),
        ) as response:  # fmt: skip
            self._check(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise ProtocolError("the answer is not an event stream")
            events = aiter(httpx2.EventSource(response))
            while True:
                async with asyncio.timeout(2.5 * self._heartbeat_seconds + 2):
                    event = await anext(events, None)
                if event is None:
                    return
                for change in self._apply(event.event, json.loads(event.data)):
                    yield change
                if event.id:
                    self.cursor = event.id
                if event.event in ("goodbye", "error"):
                    return

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code == 401:
            raise Unauthorized
        if response.status_code in (403, 404):
            raise NotFound
        self._floor_seconds = float(response.headers.get("retry-after", "0"))
        response.raise_for_status()

    def _apply(self, name: str, data: Mapping[str, Any]) -> list[Change]:
        watch = self._watch
        if name == "connected":
            self._heartbeat_seconds = data["heartbeat_ms"] / 1000
            self._enter_epoch(data["epoch"])
        elif name == "snapshot":
            return self._apply_snapshot(data)
        elif name == "synced":
            self.status = "live"
        elif name == "degraded":
            self.status = "degraded"
        elif name == "goodbye":
            self._floor_seconds = data["retry_ms"] / 1000
        elif name == watch.update_event:
            lag = time.time() - data["updated_at"] if data.get("cause") == "live" and "updated_at" in data else None
            return self._keep(data, removed=False, transport="sse", lag_seconds=lag)
        elif name == watch.removed_event:
            return self._keep(data, removed=True, transport="sse", lag_seconds=None)
        return []

    def _apply_snapshot(self, data: Mapping[str, Any]) -> list[Change]:
        self._enter_epoch(data["epoch"])
        if data["part"] == 1 or self._snapshot is None:
            self._snapshot = {}
        rows = {row[self._watch.key]: row for row in data[self._watch.collection]}
        self._snapshot |= rows
        changes = [
            change
            for row in rows.values()
            for change in self._keep(row, removed=False, transport="sse", lag_seconds=None)
        ]
        if not data["more"]:
            changes += self._remove_others(self._snapshot, "sse")
            self._snapshot = None
        return changes

    # -- polling ------------------------------------------------------------------------------------------------------

    async def _poll(self, backoff: Backoff) -> AsyncIterator[Change]:
        for _ in range(_POLLS_BEFORE_PROBE):
            try:
                parameters = {"wait": "20"} | ({"cursor": self.cursor} if self.cursor else {})
                headers = {"If-None-Match": self._etag} if self._etag else {}
                response = await self._http.get(self._poll_url, params=parameters, headers=headers, timeout=40)
                if response.status_code == 304:
                    continue
                self._check(response)
                body = response.json()
            except (httpx2.HTTPError, OSError, ValueError):
                await asyncio.sleep(max(self._floor_seconds, backoff.next_seconds()))
                continue
            backoff.reset()
            for change in self._apply_poll(body):
                yield change
            self._etag, self.cursor = response.headers.get("etag", ""), body["cursor"]

    def _apply_poll(self, body: Mapping[str, Any]) -> list[Change]:
        self._enter_epoch(body["epoch"])
        rows = body[self._watch.collection]
        now = time.time()
        changes = [
            change
            for row in rows
            for change in self._keep(
                row, removed=False, transport="poll", lag_seconds=now - row["updated_at"] if self._etag else None
            )
        ]
        if body["mode"] == "full":
            return changes + self._remove_others({row[self._watch.key]: row for row in rows}, "poll")
        for gone in body["removed"]:
            document = {self._watch.session: "", **gone}
            changes += self._keep(document, removed=True, transport="poll", lag_seconds=None)
        return changes

    # -- the store ----------------------------------------------------------------------------------------------------

    def _enter_epoch(self, epoch: str) -> None:
        """Versions are compared within an epoch only; another epoch comes with all rows."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._latest = LatestByRow()
            self._etag = ""

    def _keep(
        self,
        document: Mapping[str, Any],
        *,
        removed: bool,
        transport: Literal["sse", "poll"],
        lag_seconds: float | None,
    ) -> list[Change]:
        try:
            state = RowState.from_document(self._watch, document, removed=removed)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if not self._latest.apply(state):
            self.stale += 1
            return []
        if removed:
            if self.rows.pop(state.key, None) is None:
                return []
        else:
            self.rows[state.key] = document
        return [Change(row=document, removed=removed, transport=transport, lag_seconds=lag_seconds)]

    def _remove_others(self, named: Mapping[str, object], transport: Literal["sse", "poll"]) -> list[Change]:
        gone = [self.rows.pop(key) for key in list(self.rows) if key not in named]
        return [Change(row=row, removed=True, transport=transport, lag_seconds=None) for row in gone]


@asynccontextmanager
async def watch(
    url: str,
    session: str,
    *,
    token: str | None = None,
    transport: Transport = "auto",
    table: Watch = _DEFAULT_WATCH,
    poll_path: str = "/api/session/{session_id}/requests",
) -> AsyncIterator[Live]:
    """Follow a session of the service at `url`; nothing is sent before the result is iterated.

    `token` goes into the Authorization header, never into the URL.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(headers=headers, follow_redirects=False) as http:
        try:
            yield Live(http, url, session, watch=table, poll_path=poll_path, transport=transport)
        except httpx2.InvalidURL as error:
            raise RowcastError(f"the address cannot be read: {error}") from error

"""What a client knows, up to where, and what of it has not been told yet."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rowcast.errors import ProtocolError
from rowcast.following.clock import ServerClock
from rowcast.following.events import ServerEvent
from rowcast.store import Change, RowStore
from rowcast.watch import Watch

__all__ = ["Knowledge"]

_NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


class Knowledge:
    """The rows, the cursor that they reach, and the changes that wait for whoever iterates.

    **Nothing that is not understood is lost.** An event that makes no sense is skipped and counted, and its stream goes
    on being read. But every later id claims the skipped event, too: adopted, it would never be told again. So from then
    on no id is adopted (`is_sound` is False) until another stream has begun from the cursor before it, which brings it
    once more. If that is not understood either, `must_start_over` has the client forget its cursor: the next stream
    begins with everything.
    """

    def __init__(self, watch: Watch) -> None:
        self.store = RowStore(watch)
        self.clock = ServerClock()
        self.cursor = ""
        self.etag = ""
        self.skipped = 0
        self.is_sound = True
        self._watch = watch
        self._in_a_row = 0
        self._news: deque[Change] = deque()
        self._stirred = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()

    # -- what is heard ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A stream begins from the cursor: its ids are good again, and what an earlier poll saw is past."""
        self.is_sound = True
        self.etag = ""
        self.store.begin_stream()

    def parse(self, event: ServerEvent) -> Mapping[str, Any] | None:
        """Return the data of an event; None, and it is counted, if it is not an object."""
        try:
            data = json.loads(event.data, parse_constant=_refuse)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict):
            return data
        self.skip()
        return None

    def take(self, event: ServerEvent, data: Mapping[str, Any]) -> bool:
        """Keep what an event says about rows; say whether it was understood."""
        watch, store = self._watch, self.store
        try:
            if event.name == "connected":
                store.enter_epoch(_text(data["epoch"]))
            elif event.name == "snapshot":
                store.enter_epoch(_text(data["epoch"]))
                self._tell_anew(store.keep_snapshot(data))
            elif event.name in (watch.update_event, watch.removed_event):
                self._tell_anew(store.keep_live(data, removed=event.name == watch.removed_event))
        except _NOT_UNDERSTOOD:
            self.skip()
            return False
        if "server_time" in data:
            self.clock.heard(data["server_time"])
        if event.name == "synced":
            self._in_a_row = 0
        return True

    def adopt(self, cursor: str) -> None:
        """Everything up to `cursor` has been taken in, unless something was skipped."""
        if cursor and self.is_sound:
            self.cursor = cursor

    def take_answer(self, body: bytes, etag: str, *, beside_stream: bool = False) -> tuple[bool, float]:
        """Keep the answer to a poll; return whether it was news, and the interval in seconds that it asks for.

        Beside a stream only what has changed is kept: a full answer removes what it does not name, and a row that the
        stream has told meanwhile would go with that. Raises `ProtocolError` for one that is not understood.
        """
        try:
            data = json.loads(body, parse_constant=_refuse)
            epoch, cursor = _text(data["epoch"]), _text(data["cursor"])
            interval_seconds = float(data["poll"]["interval_ms"]) / 1000
            if beside_stream and data["mode"] != "delta":
                return False, interval_seconds
            is_first = not self.etag
            if self.store.enter_epoch(epoch):
                self.etag = ""
            changes = self.store.keep_poll(data, is_first=is_first)
        except (*_NOT_UNDERSTOOD, RecursionError) as error:
            self.skip()
            self.start_over()
            raise ProtocolError(f"the answer was not understood: {error}") from error
        # The stream beside it may have told more since this was asked for.
        self.etag, self.cursor = "" if beside_stream else etag, cursor
        self.is_sound, self._in_a_row = True, 0
        self._tell(changes)
        return bool(changes), interval_seconds

    # -- what is not understood ---------------------------------------------------------------------------------------

    def skip(self) -> None:
        """Count what was not understood, and adopt no id from now on."""
        self.skipped += 1
        self._in_a_row += 1
        self.is_sound = False

    @property
    def must_start_over(self) -> bool:
        """Whether to hear the same again has not helped."""
        return self._in_a_row > 1

    def start_over(self) -> None:
        """Forget the cursor if hearing the same again has not helped: the next answer is everything."""
        if self.must_start_over:
            self.cursor = self.etag = ""

    # -- what is told -------------------------------------------------------------------------------------------------

    def _tell(self, changes: list[Change]) -> None:
        if changes:
            self._news += map(self._by_server_clock, changes)
            self._stirred.set()
            self._told.clear()

    def _tell_anew(self, changes: list[Change]) -> None:
        # What a poll saw before could come again, as when a row came and went; then "unchanged" would not be true.
        self.etag = ""
        self._tell(changes)

    def _by_server_clock(self, change: Change) -> Change:
        if change.lag_seconds is None:
            return change
        return replace(change, lag_seconds=self.clock.corrected(change.lag_seconds))

    async def until_told(self) -> None:
        """Wait until whoever iterates has taken everything; what is not read yet stays with the server till then."""
        await self._told.wait()

    async def until_stirred(self) -> None:
        """Wait for news."""
        await self._stirred.wait()

    def next(self) -> Change | None:
        """Return the oldest change that has not been told."""
        if self._news:
            return self._news.popleft()
        self._stirred.clear()
        self._told.set()
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string was expected")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")

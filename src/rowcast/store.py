"""What a client knows of a session: its rows, kept by the rule of versions, whoever told them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rowcast.event import RowState
from rowcast.latest import LatestByRow
from rowcast.watch import Watch

__all__ = ["Change", "RowStore"]

Told = Literal["sse", "poll"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row became what it is now, or went (`removed`).

    `lag_seconds` is the time from the row's `updated_at` until it was received, by the server's clock as far as that is
    known; None for rows that were told as part of a snapshot.
    """

    row: Mapping[str, Any]
    removed: bool
    transport: Told
    lag_seconds: float | None


class RowStore:
    """The rows of one session by key. A state is kept if its version is newer, by stream and by poll alike.

    What it is given must have the shape that the protocol says; it raises ValueError, KeyError or TypeError otherwise,
    before anything of it is kept.
    """

    def __init__(self, watch: Watch) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.epoch = ""
        self.stale = 0
        self._watch = watch
        self._latest = LatestByRow()
        self._named: dict[str, None] = {}
        self._parts = 0

    def enter_epoch(self, epoch: str) -> bool:
        """Versions are compared within an epoch only; another epoch comes with all rows. Say whether it is another."""
        is_other = epoch != self.epoch
        if is_other:
            self.epoch = epoch
            self._latest = LatestByRow()
        return is_other

    def begin_stream(self) -> None:
        """Another stream begins, and no part of a snapshot that its forerunner left unfinished counts any more."""
        self._parts = 0

    def keep_live(self, document: Mapping[str, Any], *, removed: bool) -> list[Change]:
        """Take in one row of a stream."""
        is_live = document.get("cause") == "live" and "updated_at" in document
        lag_seconds = time.time() - document["updated_at"] if is_live else None
        state = self._state(document, removed=removed)
        return self._keep(state, transport="sse", lag_seconds=lag_seconds)

    def keep_snapshot(self, data: Mapping[str, Any]) -> list[Change]:
        """Take in one part of a snapshot; with the last one, rows that none of them named are gone."""
        states = [self._state(row, removed=False) for row in data[self._watch.collection]]
        part, is_last = data["part"], not data["more"]
        if part != 1 and part != self._parts + 1:
            # Without the rows of the missing part, the last one would have them removed.
            raise ValueError(f"part {part} of a snapshot follows part {self._parts}")
        self._named = ({} if part == 1 else self._named) | {state.key: None for state in states}
        self._parts = 0 if is_last else part
        changes = [change for state in states for change in self._keep(state, transport="sse", lag_seconds=None)]
        return changes + (self._remove_others(self._named, "sse") if is_last else [])

    def keep_poll(self, body: Mapping[str, Any], *, is_first: bool) -> list[Change]:
        """Take in the answer to a poll; the first one tells of the past, so it has no lag."""
        now = time.time()
        states = [self._state(row, removed=False) for row in body[self._watch.collection]]
        lags = [
            None if is_first or "updated_at" not in state.document else now - state.document["updated_at"]
            for state in states
        ]
        is_full = body["mode"] == "full"
        gone = (
            [] if is_full else [self._state({self._watch.session: "", **row}, removed=True) for row in body["removed"]]
        )
        changes = []
        for state, lag_seconds in zip(states, lags, strict=True):
            changes += self._keep(state, transport="poll", lag_seconds=lag_seconds)
        for state in gone:
            changes += self._keep(state, transport="poll", lag_seconds=None)
        return changes + (self._remove_others({state.key: None for state in states}, "poll") if is_full else [])

    def _state(self, document: Mapping[str, Any], *, removed: bool) -> RowState:
        if not isinstance(document, Mapping):
            raise TypeError("a row state is an object")
        return RowState.from_document(self._watch, document, removed=removed)

    def _keep(self, state: RowState, *, transport: Told, lag_seconds: float | None) -> list[Change]:
        if not self._latest.apply(state):
            self.stale += 1
            return []
        document = state.document
        if state.removed:
            known = self.rows.pop(state.key, None)
            if known is None:
                return []
            document = {**known, **document}
        else:
            self.rows[state.key] = document
        return [Change(row=document, removed=state.removed, transport=transport, lag_seconds=lag_seconds)]

    def _remove_others(self, named: Mapping[str, object], transport: Told) -> list[Change]:
        gone = [self.rows.pop(key) for key in list(self.rows) if key not in named]
        return [Change(row=row, removed=True, transport=transport, lag_seconds=None) for row in gone]

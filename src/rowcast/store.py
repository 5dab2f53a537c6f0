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

    `lag_seconds` is the time from the row's `updated_at` until it was received, which is right as far as the clocks
    agree; None for rows that were told as part of a snapshot.
    """

    row: Mapping[str, Any]
    removed: bool
    transport: Told
    lag_seconds: float | None


class RowStore:
    """The rows of one session by key. A state is kept if its version is newer, by stream and by poll alike.

    What it is given must have the shape that the protocol says; it raises ValueError, KeyError or TypeError otherwise.
    """

    def __init__(self, watch: Watch) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.epoch = ""
        self.stale = 0
        self._watch = watch
        self._latest = LatestByRow()
        self._snapshot: dict[str, Mapping[str, Any]] | None = None

    def enter_epoch(self, epoch: str) -> bool:
        """Versions are compared within an epoch only; another epoch comes with all rows. Say whether it is another."""
        is_other = epoch != self.epoch
        if is_other:
            self.epoch = epoch
            self._latest = LatestByRow()
        return is_other

    def keep_live(self, document: Mapping[str, Any], *, removed: bool) -> list[Change]:
        """Take in one row of a stream."""
        is_live = document.get("cause") == "live" and "updated_at" in document
        lag_seconds = time.time() - document["updated_at"] if is_live else None
        return self._keep(document, removed=removed, transport="sse", lag_seconds=lag_seconds)

    def keep_snapshot(self, data: Mapping[str, Any]) -> list[Change]:
        """Take in one part of a snapshot; with the last one, rows that none of them named are gone."""
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

    def keep_poll(self, body: Mapping[str, Any], *, is_first: bool) -> list[Change]:
        """Take in the answer to a poll; the first one tells of the past, so it has no lag."""
        rows = body[self._watch.collection]
        now = time.time()
        changes = []
        for row in rows:
            lag_seconds = now - row["updated_at"] if not is_first and "updated_at" in row else None
            changes += self._keep(row, removed=False, transport="poll", lag_seconds=lag_seconds)
        if body["mode"] == "full":
            return changes + self._remove_others({row[self._watch.key]: row for row in rows}, "poll")
        for gone in body["removed"]:
            document = {self._watch.session: "", **gone}
            changes += self._keep(document, removed=True, transport="poll", lag_seconds=None)
        return changes

    def _keep(
        self,
        document: Mapping[str, Any],
        *,
        removed: bool,
        transport: Told,
        lag_seconds: float | None,
    ) -> list[Change]:
        state = RowState.from_document(self._watch, document, removed=removed)
        if not self._latest.apply(state):
            self.stale += 1
            return []
        known = self.rows.get(state.key)
        if removed:
            if self.rows.pop(state.key, None) is None:
                return []
            document = {**(known or {}), **document}
        else:
            self.rows[state.key] = document
        return [Change(row=document, removed=removed, transport=transport, lag_seconds=lag_seconds)]

    def _remove_others(self, named: Mapping[str, object], transport: Told) -> list[Change]:
        gone = [self.rows.pop(key) for key in list(self.rows) if key not in named]
        return [Change(row=row, removed=True, transport=transport, lag_seconds=None) for row in gone]

"""What one client applied, seen from outside: versions only grow within an epoch, and nothing is applied twice."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rowcast.event import RowState
from rowcast.store import Change, RowStore, Told
from rowcast.watch import Watch

_EVENTS = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not happen: to which client, to which row, and what is known of it."""

    kind: Literal["lost", "stale", "duplicate", "ended", "late"]
    client: str
    row: str
    shown: object
    stored: object
    events: tuple[str, ...] = ()


class Audit:
    """The versions that one client has applied, by a memory of its own, and the last events of its life."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.epoch = ""
        self._versions: dict[str, int] = {}
        self._ever: dict[str, int] = {}
        self._events: deque[tuple[float, str]] = deque(maxlen=_EVENTS)
        self._is_resumed = False

    def note(self, event: str) -> None:
        """Remember an event for whoever has to find the cause of something."""
        self._events.append((time.time(), event))

    def events(self) -> tuple[str, ...]:
        """The last events, oldest first."""
        return tuple(
            f"{time.strftime('%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d} {event}"
            for at, event in self._events
        )

    def connected(self, epoch: str) -> None:
        """A stream has begun; unless a snapshot follows at once, it goes on where the client stood."""
        self.counts["connects"] += 1
        self._is_resumed = epoch == self.epoch
        self.counts["resumes"] += self._is_resumed
        self.note(f"connected, epoch {epoch}")

    def snapshot(self) -> None:
        """A snapshot begins; it is a resync if the client knew something already."""
        if self._is_resumed:
            self.counts["resumes"] -= 1
            self._is_resumed = False
        if self.counts["snapshots"] or self.counts["polls"]:
            self.counts["resyncs"] += 1
        self.counts["snapshots"] += 1
        self.note("snapshot")

    def polled(self, mode: str) -> None:
        """A poll was answered with something."""
        self.counts["polls"] += 1
        self.note(f"poll, {mode}")

    def enter_epoch(self, epoch: str) -> None:
        """Versions are compared within an epoch only."""
        if epoch != self.epoch:
            self.note(f"epoch {epoch}")
            self.epoch = epoch
            self._versions = {}

    def applied(self, key: str, version: int, *, removed: bool) -> None:
        """The client took a state of a row for news and shows it."""
        known = self._versions.get(key, 0)
        self.counts["applied"] += 1
        self._is_resumed = False
        self.note(f"{'removed' if removed else 'applied'} {key} {version}")
        if version <= known:
            kind: Literal["stale", "duplicate"] = "stale" if version < known else "duplicate"
            self.findings.append(Finding(kind, self.client, key, version, known, self.events()))
        if version < self._ever.get(key, 0):
            self.counts["back across an epoch"] += 1
        self._versions[key] = version
        self._ever[key] = max(version, self._ever.get(key, 0))

    def omitted(self, key: str) -> None:
        """The client removed a row since a full answer did not name it."""
        self.note(f"omitted {key}")

    def recognised(self, key: str, version: int) -> None:
        """The client was told a state that was no news to it, and left it."""
        self.counts["recognised"] += 1
        self._is_resumed = False
        self.note(f"left {key} {version}")


class AuditedStore(RowStore):
    """The store of a client of `rowcast.client`, which tells an audit what it does."""

    def __init__(self, watch: Watch, audit: Audit) -> None:
        super().__init__(watch)
        self._audit = audit
        self._is_opening = False

    def begin_stream(self) -> None:
        """Another stream is about to begin."""
        self._is_opening = True
        super().begin_stream()

    def enter_epoch(self, epoch: str) -> bool:
        """The first thing that a stream or an answer says."""
        if self._is_opening:
            self._is_opening = False
            self._audit.connected(epoch)
        self._audit.enter_epoch(epoch)
        return super().enter_epoch(epoch)

    def keep_snapshot(self, data: Mapping[str, Any]) -> list[Change]:
        """Take in one part of a snapshot."""
        if data["part"] == 1:
            self._audit.snapshot()
        return super().keep_snapshot(data)

    def keep_poll(self, body: Mapping[str, Any], *, is_first: bool) -> list[Change]:
        """Take in the answer to a poll."""
        self._audit.polled(body["mode"])
        return super().keep_poll(body, is_first=is_first)

    def _keep(self, state: RowState, *, transport: Told, lag_seconds: float | None) -> list[Change]:
        known, stale = self.rows.get(state.key), self.stale
        changes = super()._keep(state, transport=transport, lag_seconds=lag_seconds)
        if self.stale != stale:
            self._audit.recognised(state.key, state.version)
        elif self.rows.get(state.key) is not known:
            self._audit.applied(state.key, state.version, removed=state.removed)
        return changes

    def _remove_others(self, named: Mapping[str, object], transport: Told) -> list[Change]:
        changes = super()._remove_others(named, transport)
        for change in changes:
            self._audit.omitted(change.row[self._watch.key])
        return changes

"""The state of a row, and the events that tell a reader about it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rowcast.cursor import Cursor
from rowcast.watch import Watch

__all__ = ["Event", "ResyncReason", "RowState", "dump_json"]

PROTOCOL = 1
SNAPSHOT_ROWS = 200
LARGEST_VERSION = 2**53 - 1

Mode = Literal["snapshot", "resume", "resync"]
ResyncReason = Literal["bad_cursor", "epoch_changed", "slow_consumer", "truncated"]


def dump_json(value: object) -> str:
    """Serialise on one line, as short as it goes, with non-ASCII text kept readable."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class RowState:
    """What a row is at one version, or that it is gone.

    `document` holds the fields as they go on the wire, `version` and `terminal` among them. Within one epoch the
    larger `version` is the newer state. `xid` is the transaction of the last change, 0 where it is not known.
    """

    session: str
    key: str
    version: int
    terminal: bool
    document: Mapping[str, Any]
    removed: bool = False
    xid: int = field(default=0, compare=False)

    @classmethod
    def from_document(
        cls, watch: Watch, document: Mapping[str, Any], *, removed: bool = False, xid: int = 0
    ) -> "RowState":
        """Build the state from its JSON object; raise ValueError if the object is not one of `watch`."""
        session, key, version = document.get(watch.session), document.get(watch.key), document.get("version")
        if not isinstance(session, str) or not isinstance(key, str):
            raise ValueError("a row state needs its key and session as strings")
        if type(version) is not int or not 0 < version <= LARGEST_VERSION:
            raise ValueError("a row state needs a version between 1 and 2^53 - 1")
        return cls(session, key, version, bool(document.get("terminal", removed)), document, removed, xid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as it goes on the wire; `retry_ms` and `comment` are fields of Server-Sent Events."""

    name: str
    data: Mapping[str, Any]
    id: str | None = None
    retry_ms: int | None = None
    comment: str | None = None


def connected(
    watch: Watch, session: str, *, stream_id: str, epoch: str, heartbeat_ms: int, mode: Mode, now: float
) -> Event:
    """The stream is open: who it is for, how often it shows life, and what follows."""
    data: dict[str, Any] = {
        watch.session: session,
        "timestamp": round(now, 3),
        "protocol": PROTOCOL,
        "stream_id": stream_id,
    }
    data |= {"epoch": epoch, "heartbeat_ms": heartbeat_ms, "mode": mode, "server_time": round(now, 3)}
    return Event(name="connected", data=data, retry_ms=1000)


def row_changed(watch: Watch, state: RowState, cursor: Cursor | None, cause: Literal["live", "catchup"]) -> Event:
    """The event for a new state of a row: an update, or its removal."""
    position = None if cursor is None else cursor.text(state.session)
    if state.removed:
        return Event(name=watch.removed_event, id=position, data=state.document)
    return Event(name=watch.update_event, id=position, data={**state.document, "cause": cause})


def snapshot(watch: Watch, session: str, states: Sequence[RowState], cursor: Cursor) -> list[Event]:
    """All rows of a session, in chunks; only the last one has an id, since only then everything was sent."""
    chunks = [states[start : start + SNAPSHOT_ROWS] for start in range(0, len(states), SNAPSHOT_ROWS)] or [[]]
    events = []
    for part, chunk in enumerate(chunks, start=1):
        more = part < len(chunks)
        data: dict[str, Any] = {watch.session: session, "epoch": cursor.epoch, "mode": "full"}
        data |= {watch.collection: [state.document for state in chunk], "part": part, "more": more}
        events.append(Event(name="snapshot", id=None if more else cursor.text(session), data=data))
    return events


def synced(session: str, cursor: Cursor, now: float) -> Event:
    """Everything up to `cursor` has been sent."""
    position = cursor.text(session)
    return Event(name="synced", id=position, data={"cursor": position, "server_time": round(now, 3)})


def heartbeat(session: str, cursor: Cursor | None, now: float) -> Event:
    """A sign of life that scripts can see, with a comment that proxies and old clients know."""
    position = None if cursor is None else cursor.text(session)
    data = {"server_time": round(now, 3), "cursor": position}
    return Event(name="heartbeat", id=position, data=data, comment="keep-alive")


def resync(reason: ResyncReason) -> Event:
    """The reader's position is of no use; a full snapshot follows."""
    return Event(name="resync", data={"reason": reason})


def degraded(since: float) -> Event:
    """The stream stays open, but the database cannot be heard since `since` (epoch seconds)."""
    return Event(name="degraded", data={"reason": "database", "since": round(since, 3)})


def token_expiring(expires_at: float, seconds: float) -> Event:
    """The token runs out at `expires_at` (epoch seconds), in `seconds`: the stream then ends."""
    return Event(
        name="token_expiring", data={"expires_at": round(expires_at, 3), "in_ms": max(0, round(seconds * 1000))}
    )


def goodbye(reason: str, *, resume: bool, retry_ms: int, transport: str | None = None) -> Event:
    """The server ends the stream on purpose."""
    data: dict[str, Any] = {"reason": reason, "resume": resume, "retry_ms": retry_ms}
    if transport is not None:
        data["transport"] = transport
    return Event(name="goodbye", data=data, retry_ms=retry_ms)


def failed(watch: Watch, session: str) -> Event:
    """Something broke; only ever the last frame, since its name is also `EventSource`'s own."""
    data = {"error": "Internal server error", watch.session: session, "code": "internal", "retryable": True}
    return Event(name="error", data=data)

"""What a stream begins with: its headers, and the frames of a join."""

from collections.abc import Iterator

from rowcast.cursor import Cursor
from rowcast.event import connected, degraded, resync, row_changed, snapshot, synced
from rowcast.http.errors import VARY
from rowcast.hub import Hub, Joined
from rowcast.sse import encode

__all__ = ["joined_frames", "opening_frames", "stream_headers"]


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


def opening_frames(
    hub: Hub, joined: Joined, since: Cursor | None, *, session: str, stream_id: str, heartbeat_ms: int
) -> Iterator[bytes]:
    """Yield the frames of a new stream, up to where it goes live."""
    hello = connected(
        hub.watch,
        session,
        stream_id=stream_id,
        epoch=joined.read.cursor.epoch,
        heartbeat_ms=heartbeat_ms,
        mode="resync" if joined.resync else "snapshot" if joined.read.full else "resume",
        now=hub.clock(),
    )
    yield encode(hello)
    yield from joined_frames(hub, joined, since, session=session)


def joined_frames(hub: Hub, joined: Joined, since: Cursor | None, *, session: str) -> Iterator[bytes]:
    """Yield the frames of a join. Until the last of them is out, no id may claim the read they came from."""
    read = joined.read
    if joined.resync:
        yield encode(resync(joined.resync))
    if read.full:
        for event in snapshot(hub.watch, session, read.states, read.cursor):
            yield encode(event)
    else:
        for state in read.states:
            yield encode(row_changed(hub.watch, state, since, "catchup"))
    yield encode(synced(session, read.cursor, hub.clock()))
    if hub.lost_at is not None:
        yield encode(degraded(hub.lost_at))

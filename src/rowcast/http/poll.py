"""Polling as a first-class way to follow a session: the same states and the same cursor as the stream."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rowcast.cursor import Cursor
from rowcast.errors import InvalidRequest
from rowcast.event import RowState, dump_json
from rowcast.http.admission import Admission
from rowcast.http.errors import VARY, trace_id_of
from rowcast.hub import Hub, Read
from rowcast.latest import LatestByRow

__all__ = ["PollSettings", "answer", "etag_of", "hold", "is_unchanged", "poll_session", "wait_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """What clients are told about polling: how often while something is open, and when all is terminal."""

    open_interval_ms: int = 1000
    terminal_interval_ms: int = 15000
    max_wait_seconds: int = 25


def wait_of(request: Request, settings: PollSettings) -> int:
    """Return the `wait` that the caller asks for, in whole seconds. Raises `InvalidRequest`."""
    text = request.query_params.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= settings.max_wait_seconds):
        raise InvalidRequest(f"wait must be a whole number of seconds from 0 to {settings.max_wait_seconds}")
    return int(text)


def etag_of(*parts: object) -> str:
    """Return the entity tag of a state that `parts` tell apart."""
    return '"' + hashlib.sha256(repr(parts).encode()).hexdigest()[:32] + '"'


def is_unchanged(request: Request, etag: str) -> bool:
    """Whether the caller already has what `etag` names (weak comparison, RFC 9110 section 13.1.2)."""
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return etag in known or "*" in known


async def hold(
    hub: Hub,
    session: str,
    request: Request,
    *,
    seconds: float,
    admission: Admission,
    owner: str,
    load: Callable[[], Awaitable[T]],
    is_news: Callable[[T], bool],
    recheck: Callable[[], Awaitable[object]] | None = None,
) -> T:
    """Return what `load` gives as soon as it is news, or after `seconds` whatever it is.

    The hub wakes the caller when the session changes; the database is asked once at first and once for each wake-up,
    never in between. `recheck` raises when the caller may not be answered any more; where `load` does not find that out
    itself, it is asked after each read that was waited for: the session may be somebody else's by then. Ends early when
    the caller leaves or the server drains.
    """
    loaded: T
    async with AsyncExitStack() as stack:
        changed = asyncio.Event()
        if seconds > 0:
            stack.enter_context(admission.admit(owner))
            subscription = hub.subscribe(session, changed.set, lambda _: changed.set())
            stack.callback(hub.unsubscribe, subscription)
            subscription.finish_join(LatestByRow())
        loaded = await load()
        deadline = time.monotonic() + seconds
        if seconds <= 0 or is_news(loaded):
            return loaded
        leaving = asyncio.create_task(_until_left(request, changed))
        stack.callback(leaving.cancel)
        while not is_news(loaded) and not leaving.done() and not hub.door.is_draining:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)
                changed.clear()
                subscription.begin_join()
                subscription.finish_join(LatestByRow())
                loaded = await load()
                if recheck is not None:
                    await recheck()
    return loaded


async def _until_left(request: Request, changed: asyncio.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    changed.set()


async def poll_session(
    hub: Hub,
    session: str,
    owner: str,
    request: Request,
    *,
    settings: PollSettings,
    admission: Admission,
    recheck: Callable[[], Awaitable[object]],
) -> Response:
    """Answer a poll for a whole session. Raises `InvalidRequest` and `DatabaseUnavailable`."""
    started = time.monotonic()
    since = Cursor.parse(request.query_params.get("cursor", ""), session)
    wait = wait_of(request, settings)
    if "if-none-match" not in request.headers:
        wait = 0  # whoever knows nothing yet has nothing to wait for

    async def load() -> Read:
        return await hub.reader.session(session, since)

    def is_news(read: Read) -> bool:
        return not is_unchanged(request, _etag(read))

    read = await hold(
        hub, session, request, seconds=wait, admission=admission, owner=owner, load=load, is_news=is_news,
        recheck=recheck,
    )  # fmt: skip
    if not is_news(read):
        hub.metrics.polled("unchanged", time.monotonic() - started)
        return answer(request, None, _etag(read))
    delta = since is not None and read.usable
    hub.metrics.polled("delta" if delta else "full", time.monotonic() - started)
    return answer(request, _body(hub, session, read, since if delta else None, settings), _etag(read))


def answer(request: Request, body: object, etag: str, status: int = 200) -> Response:
    """Return `body` as JSON under its entity tag, or 304 without one."""
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": VARY, "X-Content-Type-Options": "nosniff"}
    headers["X-Request-Id"] = trace_id_of(request)
    if body is None:
        return Response(None, 304, headers)
    return Response(dump_json(body), status, headers, media_type="application/json")


def _etag(read: Read) -> str:
    present = (state for state in read.states if not state.removed)
    return etag_of(read.cursor.epoch, sorted((state.key, state.version) for state in present))


def _body(hub: Hub, session: str, read: Read, since: Cursor | None, settings: PollSettings) -> dict[str, object]:
    watch = hub.watch
    rows = [state for state in read.states if not state.removed]
    is_open = not all(state.terminal for state in rows)
    known = LatestByRow(rows)
    removed = [state for state in read.states if state.removed and since is not None and known.is_news(state)]
    return {
        watch.session: session,
        "epoch": read.cursor.epoch,
        "cursor": read.cursor.text(session),
        "mode": "full" if since is None else "delta",
        watch.collection: [state.document for state in _since(rows, since)],
        "removed": [{watch.key: state.key, "version": state.version} for state in removed],
        "poll": {
            "interval_ms": settings.open_interval_ms if is_open else settings.terminal_interval_ms,
            "max_wait_s": settings.max_wait_seconds,
        },
    }


def _since(rows: list[RowState], since: Cursor | None) -> list[RowState]:
    return rows if since is None else [state for state in rows if state.xid >= since.horizon]

"""The routes of the library: mount them in any Starlette or FastAPI application.

They cannot be built without `authorize`: knowing *who* asks is not knowing *whose* session it is.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rowcast.cursor import Cursor
from rowcast.errors import ConfigurationError, InvalidRequest, NotAcceptable, RowcastError, Unavailable
from rowcast.event import ResyncReason
from rowcast.http.admission import Admission
from rowcast.http.auth import Principal
from rowcast.http.errors import VARY, refusal, trace_id_of
from rowcast.http.lifetime import StreamSettings
from rowcast.http.opening import stream_headers
from rowcast.http.poll import PollSettings, poll_session
from rowcast.http.stream import Stream
from rowcast.http.tickets import Tickets
from rowcast.hub import Hub, Joined

__all__ = ["Authorize", "Live", "live_routes"]

Authorize = Callable[[HTTPConnection, str], Awaitable[Principal]]
"""Says who asks for a session, given as its id in PostgreSQL's spelling.

Raises `Unauthorized`, or `NotFound` when the session is not the caller's. It is asked again every minute for as long as
a stream is open, and when the database says that the session changed hands, so that nobody goes on watching what was
taken from them.
"""

_HEARTBEAT_MS = (1000, 60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the routes stand on: the hub, who may see what, and how much of it."""

    hub: Hub
    authorize: Authorize
    admission: Admission = field(default_factory=Admission)
    stream: StreamSettings = field(default_factory=StreamSettings)
    poll: PollSettings = field(default_factory=PollSettings)
    tickets: Tickets | None = None


def live_routes(
    hub: Hub,
    authorize: Authorize,
    *,
    stream_path: str | None = None,
    poll_path: str | None = None,
    admission: Admission | None = None,
    stream: StreamSettings | None = None,
    poll: PollSettings | None = None,
    tickets: Tickets | None = None,
) -> list[Route]:
    """Return the routes for the stream, its tickets (if `tickets` are given) and the poll.

    `app.routes.extend(...)` adds them to an application. The paths have one parameter, named after the session column
    of the watch. For the session `account` and the table `report` they are `/sse/{account}` and
    `/account/{account}/reports`, unless others are given. Raises `ConfigurationError` for a path without it.
    """
    session, collection = hub.watch.session, hub.watch.collection
    stream_path = stream_path or f"/sse/{{{session}}}"
    poll_path = poll_path or f"/{session}/{{{session}}}/{collection}"
    for path in (stream_path, poll_path):
        if f"{{{session}}}" not in path:
            raise ConfigurationError(f"the path {path!r} needs the parameter {{{session}}}: whose rows are asked for")
    live = Live(
        hub=hub,
        authorize=authorize,
        admission=admission or Admission(),
        stream=stream or StreamSettings(),
        poll=poll or PollSettings(),
        tickets=tickets,
    )
    routes = [
        Route(stream_path, _Endpoint(live, _stream), methods=["GET"], name="rowcast-stream"),
        Route(poll_path, _Endpoint(live, _poll), methods=["GET"], name="rowcast-poll"),
    ]
    if tickets is not None:
        routes.append(Route(f"{stream_path}/ticket", _Endpoint(live, _ticket), methods=["POST"], name="rowcast-ticket"))
    return routes


Answer = Callable[[Live, Request, str, Principal, Receive, Send], Awaitable[Response | None]]


class _Endpoint:
    """An ASGI application for one route: who, whose, then the answer; whatever is refused gets the one error body."""

    def __init__(self, live: Live, answer: Answer) -> None:
        self._live = live
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            watch = self._live.hub.watch
            session = watch.parse_session(request.path_params[watch.session])
            principal = await self._authorize(request, session)
            response = await self._answer(self._live, request, session, principal, receive, send)
        except RowcastError as error:
            response = refusal(request, error)
            self._live.hub.metrics.refused(getattr(error, "reason", "unavailable"))
        if response is not None:
            await response(scope, receive, send)

    async def _authorize(self, request: Request, session: str) -> Principal:
        """Return who asks. What changed hands meanwhile is asked for again: the answer may be older than the change."""
        door = self._live.hub.door
        while True:
            changes = door.owner_changes
            principal = await self._live.authorize(request, session)
            if changes == door.owner_changes:
                return principal


async def _poll(
    live: Live, request: Request, session: str, principal: Principal, receive: Receive, send: Send
) -> Response:
    return await poll_session(
        live.hub, session, principal.owner, request, settings=live.poll, admission=live.admission,
        recheck=lambda: live.authorize(request, session),
    )  # fmt: skip


async def _ticket(
    live: Live, request: Request, session: str, principal: Principal, receive: Receive, send: Send
) -> Response:
    assert live.tickets is not None
    ticket = live.tickets.issue(principal, session)
    url = request.url.path.removesuffix("/ticket") + f"?ticket={ticket.token}"
    body = {"ticket": ticket.token, "url": url, "expires_at": round(ticket.expires_at, 3)}
    body["expires_in_ms"] = max(0, round((ticket.expires_at - live.hub.clock()) * 1000))
    headers = {"Cache-Control": "no-store", "Vary": VARY, "X-Request-Id": trace_id_of(request)}
    return JSONResponse(body, 201, headers)


async def _stream(
    live: Live, request: Request, session: str, principal: Principal, receive: Receive, send: Send
) -> Response | None:
    _check_accept(request)
    heartbeat_ms = _heartbeat_ms(request)
    if live.hub.door.is_draining:
        raise Unavailable("The server is shutting down; connect again.", code="draining")
    if not live.hub.door.serves_streams:
        raise Unavailable("Streams are switched off; poll instead.", code="switched_off")
    since, reason = _position(request, session)
    if request.method == "HEAD":
        return Response(None, 200, stream_headers(trace_id_of(request)))
    with live.admission.admit(principal.owner):
        stream = Stream(
            live.hub,
            session,
            principal,
            settings=replace(live.stream, heartbeat_ms=heartbeat_ms or live.stream.heartbeat_ms),
            stream_id=trace_id_of(request),
            knows_protocol="proto" in request.query_params,
            recheck=lambda: live.authorize(request, session),
        )
        try:
            if await _has_ended(live, request, session, await stream.join(since, reason)):
                return Response(None, 204, {"X-Request-Id": trace_id_of(request), "Vary": VARY})
            await stream.run(receive, send)
        finally:
            stream.leave()
    return None


async def _has_ended(live: Live, request: Request, session: str, joined: Joined) -> bool:
    """Whether the client wants no more than what has ended, and all has."""
    if request.query_params.get("until") != "terminal":
        return False
    read = joined.read if joined.read.full else await live.hub.reader.session(session)
    return bool(read.states) and all(state.terminal for state in read.states)


def _position(request: Request, session: str) -> tuple[Cursor | None, ResyncReason | None]:
    text = request.headers.get("last-event-id") or request.query_params.get("cursor") or ""
    if not text:
        return None, None
    since = Cursor.parse(text, session)
    return since, None if since is not None else "bad_cursor"


def _heartbeat_ms(request: Request) -> int | None:
    text = request.query_params.get("hb")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest("hb must be a whole number of milliseconds")
    return min(max(int(text), _HEARTBEAT_MS[0]), _HEARTBEAT_MS[1])


def _check_accept(request: Request) -> None:
    """Raise `NotAcceptable` if the most specific range that covers our type is absent, or has weight 0 (RFC 9110)."""
    text = ",".join(request.headers.getlist("accept"))
    if not text.strip():
        return
    ranges = {}
    for part in text.lower().split(","):
        kind, *parameters = [piece.strip() for piece in part.split(";")]
        weights = [piece.partition("=")[2].strip() for piece in parameters if piece.startswith("q=")]
        ranges[kind] = not weights or weights[0].strip("0.") != ""
    for kind in ("text/event-stream", "text/*", "*/*"):
        if kind in ranges:
            if ranges[kind]:
                return
            break
    raise NotAcceptable

"""A bound on what a stranger can send, and headers that every answer carries."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rowcast.errors import BodyTooLarge
from rowcast.http.errors import refusal, trace_id_of

__all__ = ["BodyLimit", "SafeHeaders"]

MOST_BYTES = 65_536


class BodyLimit:
    """Refuses bodies over a size, whether they announce it or not."""

    def __init__(self, app: ASGIApp, most_bytes: int = MOST_BYTES) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self._most_bytes:
            await refusal(request, BodyTooLarge())(scope, receive, send)
            return
        # Without either header HTTP/1.1 has no body; HTTP/2 and later announce none of it.
        announced = "content-length" in request.headers or scope.get("http_version", "1.1").startswith("1")
        if announced and "transfer-encoding" not in request.headers:
            await self._app(scope, receive, send)
            return
        await self._bounded(request, receive, send)

    async def _bounded(self, request: Request, receive: Receive, send: Send) -> None:
        """Read a body of unknown length first: an answer may not begin before it is known to fit."""
        parts: list[Message] = []
        seen = 0
        while True:
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                await refusal(request, BodyTooLarge())(request.scope, receive, send)
                return
            parts.append(message)
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        parts.reverse()

        async def replay() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(request.scope, replay, send)


class SafeHeaders:
    """Adds headers to every answer that does not set them itself, and `X-Request-Id`."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        defaults = {**self._headers, "X-Request-Id": trace_id_of(Request(scope))}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)

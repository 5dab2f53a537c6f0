"""uvicorn's HTTP protocol, but the head of a stream leaves in one write with its first frames.

uvicorn writes the head of an answer as soon as it is begun. What reads a stream in between, a proxy or a client, would
then be woken twice for its opening, and the second packet could wait for the acknowledgement of the first.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["StreamProtocol"]

_STREAM = b"\r\ncontent-type: text/event-stream"
_BODY = b"\r\ntransfer-encoding: chunked"  # not in the answer to HEAD, which nothing follows
_BEFORE_GRACE_ENDS_SECONDS = 0.5


class _HeadWithBody:
    """A transport that keeps the head of a stream back until something follows it."""

    __slots__ = ("_head", "_transport", "has_streamed", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.has_streamed = False
        self._head = b""
        self._transport = transport
        self.write = self._write_head

    def _write_head(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self.write = self._transport.write
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 200") and _STREAM in data and _BODY in data:
            self._head = data
            self.has_streamed = True
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self._write_head(b"")
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class StreamProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """One connection of the server."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to serve a connection."""
        super().connection_made(_HeadWithBody(transport))

    def shutdown(self) -> None:
        """Let what is under way come to its end; a stream, not for as long as its peer takes nothing of it.

        It cannot even be told goodbye. It is cut shortly before uvicorn would cancel its task, as an error in the log.
        """
        super().shutdown()
        grace_seconds = self.config.timeout_graceful_shutdown
        if grace_seconds is not None and self.transport.has_streamed:
            self.loop.call_later(grace_seconds - _BEFORE_GRACE_ENDS_SECONDS, self.transport.abort)

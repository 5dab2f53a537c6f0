"""Server-Sent Events from bytes, however they are cut.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
from dataclasses import dataclass

from rowcast.errors import ProtocolError

__all__ = ["EventParser", "ServerEvent"]

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream; `id` is the last one that was sent, with this event or before it."""

    name: str
    data: str
    id: str


class EventParser:
    """Takes pieces of any size and returns the events that they complete.

    What a stream ends in the middle of is never returned, nor is its id. An event of more than `most_bytes` raises
    `ProtocolError`: nobody sends such a thing on purpose, and memory has an end.
    """

    __slots__ = (
        "_after_return", "_data", "_is_first_line", "_last_id", "_line", "_most_bytes", "_name", "_size",
    )  # fmt: skip

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._line = bytearray()
        self._size = 0
        self._data: list[str] = []
        self._name = ""
        self._last_id = ""
        self._after_return = False
        self._is_first_line = True

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Take the next bytes. Raises `ProtocolError` for an event that does not end."""
        if self._after_return and piece:
            # The line ended with the CR, and was taken then; its LF may come a piece later.
            piece = piece.removeprefix(b"\n")
            self._after_return = False
        if not piece:
            return []
        self._after_return = piece.endswith(b"\r")
        *ended, rest = _LINE_END.split(piece)
        events = []
        for end in ended:
            self._line += end
            line, self._line = bytes(self._line), bytearray()
            if event := self._take(line):
                events.append(event)
        self._line += rest
        if self._size + len(self._line) > self._most_bytes:
            raise ProtocolError(f"an event is larger than {self._most_bytes} bytes")
        return events

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        self._size += len(line)
        if self._size > self._most_bytes:
            raise ProtocolError(f"an event is larger than {self._most_bytes} bytes")
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._last_id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._size = "", [], 0
        return ServerEvent(name, "\n".join(data), self._last_id) if data else None

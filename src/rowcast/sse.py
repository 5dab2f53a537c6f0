"""Events to bytes, by the rules of https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import re

from rowcast.errors import ProtocolError
from rowcast.event import Event, dump_json

__all__ = ["encode"]

# A line end or NUL in an id or a name would start a field of its own, or make a browser drop the id.
_UNSAFE = re.compile(r"[\r\n\0]")


def encode(event: Event) -> bytes:
    """Return the frame of `event`: comment, retry, event, id and one line of data, then the blank line.

    Raises `ProtocolError` if the name, the id or the comment holds CR, LF or NUL. The data cannot: JSON escapes them.
    """
    lines = []
    if event.comment is not None:
        lines.append(f": {_checked(event.comment)}")
    if event.retry_ms is not None:
        lines.append(f"retry: {event.retry_ms}")
    lines.append(f"event: {_checked(event.name)}")
    if event.id is not None:
        lines.append(f"id: {_checked(event.id)}")
    lines.append(f"data: {dump_json(event.data)}\n\n")
    # Half of a surrogate pair cannot be encoded; escaped by JSON's own rule, it is what it was.
    return "\n".join(lines).encode(errors="backslashreplace")


def _checked(text: str) -> str:
    if _UNSAFE.search(text):
        raise ProtocolError("ids, names and comments must not contain CR, LF or NUL")
    return text

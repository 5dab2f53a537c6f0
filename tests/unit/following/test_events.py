"""Bytes to events: one row of the standard each, and the same whatever pieces they come in."""

import pytest

from rowcast import ProtocolError
from rowcast.following.events import EventParser, ServerEvent

M = "message"
VECTORS: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "one event": (b"event: a\nid: 1\ndata: x\n\n", [("a", "x", "1")]),
    "one space after the colon goes": (b"data:  x\n\ndata:y\n\n", [(M, " x", ""), (M, "y", "")]),
    "lines of data are joined": (b"data: a\ndata:\ndata: b\n\n", [(M, "a\n\nb", "")]),
    "a field without a colon is empty": (b"data\n\n", [(M, "", "")]),
    "line ends": (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [(M, "a", ""), (M, "b", ""), (M, "c", "")]),
    "comments": (b": x\ndata: a\n:\n\n", [(M, "a", "")]),
    "unknown fields, and names in capitals": (b"Data: x\nfoo: y\ndata: a\n\n", [(M, "a", "")]),
    "no data, no event": (b"event: a\n\ndata: x\n\n", [(M, "x", "")]),
    "the type is forgotten, the id is not": (b"event: a\nid: 1\ndata\n\ndata\n\n", [("a", "", "1"), (M, "", "1")]),
    "an id sticks without data": (b"id: 7\n\ndata: x\n\n", [(M, "x", "7")]),
    "an empty id resets": (b"id: 1\ndata\n\nid\ndata\n\n", [(M, "", "1"), (M, "", "")]),
    "an id with NUL is ignored": (b"id: 1\nid: a\0b\ndata\n\n", [(M, "", "1")]),
    "what does not end is not told": (b"data: a\n\nid: 9\ndata: b\n", [(M, "a", "")]),
    "a mark of the byte order": (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [(M, "a", "")]),
    "text of all kinds": ("data: 🙂 ß \u2028 \x85\n\n".encode(), [(M, "🙂 ß \u2028 \x85", "")]),
    "bytes that are no text": (b"data: a\xff\n\n", [(M, "a�", "")]),
}


def parsed(data: bytes, size: int) -> list[ServerEvent]:
    parser = EventParser()
    return [event for at in range(0, len(data), size) for event in parser.feed(data[at : at + size])]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(("data", "events"), VECTORS.values(), ids=VECTORS)
def test_vectors(data: bytes, events: list[tuple[str, str, str]], size: int) -> None:
    assert parsed(data, size) == [ServerEvent(*event) for event in events]


def test_a_lone_carriage_return_is_not_waited_on() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r\r") == [ServerEvent(M, "a", "")]
    assert parser.feed(b"\ndata: b\n\n") == [ServerEvent(M, "b", "")]


@pytest.mark.parametrize("data", [b"data: " + bytes(200), b"data: aaaa\n" * 20])
def test_what_does_not_end_is_refused(data: bytes) -> None:
    parser = EventParser(most_bytes=100)
    with pytest.raises(ProtocolError):
        parser.feed(data)


def test_many_large_events_are_fine() -> None:
    parser = EventParser(most_bytes=100)
    assert len(parser.feed((b"data: " + b"x" * 80 + b"\n\n") * 50)) == 50

"""Frames by the rules of the WHATWG, read back by a parser that follows its algorithm to the letter."""

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast import ProtocolError
from rowcast.event import Event
from rowcast.sse import encode


@dataclass
class Dispatched:
    type: str
    data: str
    last_event_id: str


def interpret(stream: bytes) -> tuple[list[Dispatched], int | None]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    events, data, kind, last_id, retry = [], "", "", "", None
    for line in re.split(r"\r\n|\n|\r", text)[:-1]:
        if line == "":
            if data:
                events.append(Dispatched(kind or "message", data.removesuffix("\n"), last_id))
            data, kind = "", ""
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = int(value)
    return events, retry


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LINES = st.text().filter(lambda text: not re.search(r"[\r\n\0]", text))


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_data_arrives_as_one_event(data: dict[str, Any]) -> None:
    events, _ = interpret(encode(Event(name="update", data=data)))
    assert [event.type for event in events] == ["update"]
    assert json.loads(events[0].data) == data


@given(st.lists(st.builds(Event, name=st.sampled_from(["a", "b"]), data=st.just({}), id=st.none() | LINES), max_size=5))
def test_frames_follow_each_other_without_mixing(events: list[Event]) -> None:
    dispatched, _ = interpret(b"".join(encode(event) for event in events))
    assert [event.type for event in dispatched] == [event.name for event in events]
    last_id = ""
    for event, seen in zip(events, dispatched, strict=True):
        last_id = event.id if event.id is not None else last_id
        assert seen.last_event_id == last_id


def test_data_is_one_line_even_if_a_value_has_line_ends() -> None:
    frame = encode(Event(name="update", data={"text": "a\r\nb\nc\u2028"}))
    assert frame.count(b"data:") == 1
    assert json.loads(interpret(frame)[0][0].data) == {"text": "a\r\nb\nc\u2028"}


def test_a_frame_ends_with_a_blank_line() -> None:
    """An event is dispatched at the blank line; without it, it would wait for the next frame."""
    assert encode(Event(name="update", data={})) == b"event: update\ndata: {}\n\n"


def test_a_frame_without_id_leaves_the_last_id_alone() -> None:
    frames = encode(Event(name="a", data={}, id="1")) + encode(Event(name="b", data={}))
    assert [event.last_event_id for event in interpret(frames)[0]] == ["1", "1"]


def test_a_heartbeat_is_a_comment_and_an_event_at_once() -> None:
    frame = encode(Event(name="heartbeat", data={}, id="7", comment="keep-alive"))
    assert frame == b": keep-alive\nevent: heartbeat\nid: 7\ndata: {}\n\n"
    assert len(interpret(frame)[0]) == 1


def test_retry_is_digits_only() -> None:
    assert interpret(encode(Event(name="goodbye", data={}, retry_ms=1500)))[1] == 1500


def test_text_stays_readable() -> None:
    assert "Zoë 😀 用户".encode() in encode(Event(name="update", data={"name": "Zoë 😀 用户"}))


def test_half_a_surrogate_pair_does_not_break_the_frame() -> None:
    """Such text cannot be stored, but a forged notification can hold it."""
    frame = encode(Event(name="update", data={"name": "\ud800"}))
    assert json.loads(interpret(frame)[0][0].data) == {"name": "\ud800"}


@pytest.mark.parametrize("unsafe", ["a\nb", "a\rb", "a\0b", "\n", "data: {}\n\nevent: forged"])
@pytest.mark.parametrize("field", ["name", "id", "comment"])
def test_what_would_begin_another_field_is_refused(field: str, unsafe: str) -> None:
    fields: dict[str, Any] = {"name": "update", "data": {}} | {field: unsafe}
    with pytest.raises(ProtocolError):
        encode(Event(**fields))

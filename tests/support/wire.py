"""What a stream sends, read strictly: raw bytes to frames, each checked against its published schema."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from jsonschema import Draft202012Validator, FormatChecker

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
CURSOR = re.compile(r"1\.[0-9a-f]{16}\.(0|[1-9][0-9]*)\.[0-9a-f]{8}")
FIELDS = re.compile(
    rb"(?:: (?P<comment>[^\r\n\0]*)\n)?"
    rb"(?:retry: (?P<retry>[1-9][0-9]*)\n)?"
    rb"event: (?P<event>[a-z][a-z0-9_]*)\n"
    rb"(?:id: (?P<id>[^\r\n\0]+)\n)?"
    rb"data: (?P<data>[^\r\n\0]+)"
)
WITHOUT_ID = {"connected", "resync", "degraded", "token_expiring", "goodbye", "error"}


@dataclass(frozen=True, slots=True)
class Frame:
    event: str
    data: Any
    id: str | None = None
    retry: int | None = None
    comment: str | None = None


def parse_frame(raw: bytes) -> Frame:
    """Parse one frame, without its blank line; exactly the fields that the contract allows, in one order."""
    match = FIELDS.fullmatch(raw)
    assert match is not None, raw
    text = {name: None if value is None else value.decode() for name, value in match.groupdict().items()}
    assert text["event"] is not None
    assert text["data"] is not None
    retry = None if text["retry"] is None else int(text["retry"])
    return Frame(text["event"], json.loads(text["data"], object_pairs_hook=unique), text["id"], retry, text["comment"])


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a field twice."""
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


@cache
def validator(name: str) -> Draft202012Validator:
    """Return a published schema, closed: what it does not name may not be sent."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    return Draft202012Validator(closed(schema), format_checker=FormatChecker())


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    return (
        {"additionalProperties": False, **inner} if "properties" in inner and inner.get("type") == "object" else inner
    )


def check(name: str, body: Any) -> Any:
    """Check a body against the schema `name` and return it."""
    validator(name).validate(body)
    return body


def check_frame(frame: Frame) -> Frame:
    """Check what holds for a frame by itself."""
    check(frame.event, frame.data)
    if frame.event in WITHOUT_ID or (frame.event == "snapshot" and frame.data["more"]):
        assert frame.id is None, frame
    elif not (frame.event == "heartbeat" and frame.data["cursor"] is None):
        assert frame.id is not None, frame
        assert CURSOR.fullmatch(frame.id), frame
    expected = {"connected": 1000, "goodbye": frame.data.get("retry_ms")}.get(frame.event)
    assert frame.retry == expected, frame
    assert frame.comment == ("keep-alive" if frame.event == "heartbeat" else None), frame
    return frame


class Stream:
    """An open stream. Every frame is checked as it is read; waiting for one ends with the client's read timeout."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.seen: list[Frame] = []
        self._chunks = response.iter_raw()
        self._buffer = b""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next_or_end()) is not None:
            yield frame

    def next_or_end(self) -> Frame | None:
        """Return the next frame; None when the body has ended, which it may do between frames only."""
        while b"\n\n" not in self._buffer:
            chunk = next(self._chunks, None)
            if chunk is None:
                assert self._buffer == b"", self._buffer
                return None
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\n\n")
        frame = check_frame(parse_frame(raw))
        if self.seen:
            assert self.seen[-1].event not in ("goodbye", "error"), "something follows the last frame"
            assert frame.event != "connected", "connected comes once"
        else:
            assert frame.event == "connected"
        self.seen.append(frame)
        return frame

    def next(self) -> Frame:
        frame = self.next_or_end()
        assert frame is not None, "the stream ended"
        return frame

    def until(self, event: str, **fields: object) -> Frame:
        """Read up to a frame of this event with these fields, and return it."""
        while True:
            frame = self.next()
            if frame.event == event and fields.items() <= frame.data.items():
                return frame

    def news(self) -> Frame:
        """Return the next frame that is not a heartbeat."""
        while (frame := self.next()).event == "heartbeat":
            pass
        return frame

    def opening(self) -> list[Frame]:
        """Read everything up to and including `synced`."""
        self.until("synced")
        return list(self.seen)

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """What a client that applied everything would hold."""
        rows: dict[str, Mapping[str, Any]] = {}
        for frame in self.seen:
            if frame.event == "snapshot":
                rows |= {row["request_id"]: row for row in frame.data["requests"]}
            elif frame.event == "request_update":
                rows[frame.data["request_id"]] = {k: v for k, v in frame.data.items() if k != "cause"}
            elif frame.event == "request_removed":
                rows.pop(frame.data["request_id"], None)
        return rows


def browser(url: str, headers: Mapping[str, str] | None = None) -> httpx2.Client:
    """Return a client without credentials. It reads no certificates, which takes 90 ms."""
    return httpx2.Client(base_url=url, headers=dict(headers or {}), timeout=20, verify=False)


def get(url: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    """Ask for a page, once."""
    return httpx2.get(url, headers=headers, timeout=20, verify=False)


def metric(server: Any, name: str) -> float:
    """Return the sum of a metric over all its labels, or the value of the one whose labels are given."""
    lines = get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@contextmanager
def stream(client: httpx2.Client, path: str, **headers: str) -> Iterator[Stream]:
    """Open a stream. `last_event_id="…"` becomes the header `Last-Event-ID`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream("GET", path, headers=sent, timeout=20) as response:
        assert response.status_code == 200, (response.status_code, response.read())
        yield Stream(response)


def refusal(response: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Check that a request was refused in the one form that refusals have; return the body."""
    assert response.status_code == status, (response.status_code, response.text)
    body: dict[str, Any] = check("Problem", response.json())
    assert code is None or body["code"] == code, body
    headers = response.headers
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == body["trace_id"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert {"authorization", "cookie", "origin"} <= {part.strip().lower() for part in headers["vary"].split(",")}
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    if status in (429, 503):
        assert 1 <= int(headers["retry-after"]) <= 10
    else:
        assert "retry-after" not in headers
    assert not re.search(r"Traceback|asyncpg|rowcast\.|SELECT ", body["error"])
    return body

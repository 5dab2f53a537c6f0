"""A client of one session that does what every client must, over raw sockets that can be cut at any byte."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


class Chunks:
    """The chunked transfer coding (RFC 9112 section 7.1), from any pieces."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        body = b""
        while self._buffer and not self.is_over:
            if self._left:
                piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(piece)
                body += piece
                continue
            line, end, rest = self._buffer.removeprefix(b"\r\n").partition(b"\r\n")
            if not end:
                break
            self._left, self._buffer = int(line.split(b";")[0], 16), rest
            self.is_over = self._left == 0
        return body


class Follower:
    """Rows, cursor and counts of one client.

    A row is replaced by a newer version only. What came again is counted as `duplicate`, what is older than what was
    applied before, even to a row that has gone since, as `stale`.
    """

    def __init__(self, url: str, token: str, session: str) -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), address.port
        self.token = token
        self.session = session
        self.counts: Counter[str] = Counter()
        self.seen: list[tuple[str, Any]] = []
        self.is_noting = False
        self.status = 0
        self.cursor: str | None = None
        self.epoch: str | None = None
        self._begin_store()

    def _begin_store(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.newest: dict[str, int] = {}
        self.etag: str | None = None
        self._named: set[str] = set()

    @property
    def versions(self) -> dict[str, int]:
        return {key: row["version"] for key, row in self.rows.items()}

    # -- streams --

    async def follow(
        self,
        *,
        cut_after: int | None = None,
        until: Callable[[], bool] = lambda: False,
        by_header: bool = True,
        query: str = "proto=1",
    ) -> None:
        """Follow the stream until some bytes were read, or `until`, or the server ends it."""
        headers = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor and by_header else ""
        if self.cursor and not by_header:
            query += f"&cursor={self.cursor}"
        reader, writer = await self._request(f"/api/sse/{self.session}?{query}", headers)
        try:
            left = 1 << 60 if cut_after is None else cut_after
            head = b""
            while b"\r\n\r\n" not in head and left > 0:
                data = await reader.read(min(left, 4096))
                if not data:
                    return
                left -= len(data)
                head += data
            if b"\r\n\r\n" not in head:
                return
            head, _, data = head.partition(b"\r\n\r\n")
            self.status = int(head.split(b" ", 2)[1])
            if self.status != 200:
                return
            chunks, unparsed = Chunks(), b""
            while True:
                *frames, unparsed = (unparsed + chunks.feed(data)).split(b"\n\n")
                for frame in frames:
                    self._take(frame.decode())
                if until() or chunks.is_over or left <= 0:
                    return
                data = await reader.read(min(left, 65536))
                if not data:
                    return
                left -= len(data)
        finally:
            writer.transport.abort()

    def _take(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
        data, name = json.loads(fields["data"]), fields["event"]
        if self.is_noting:
            self.seen.append((name, data))
        self.counts[name] += 1
        assert data.get("session_id", self.session) == self.session, "a frame of another session"
        if name == "snapshot":
            self._choose_epoch(data["epoch"])
            if data["part"] == 1:
                self._named.clear()
            for row in data["requests"]:
                self._named.add(row["request_id"])
                self._apply(row)
            if not data["more"]:
                self.rows = {key: row for key, row in self.rows.items() if key in self._named}
        elif name == "request_update":
            self._apply(data)
        elif name == "request_removed":
            self._remove(data)
        elif name == "error":
            raise AssertionError(data)
        if "id" in fields:
            self.cursor = fields["id"]

    def _choose_epoch(self, epoch: str) -> None:
        if epoch != self.epoch:
            self._begin_store()
            self.epoch = epoch

    def _is_news(self, row: dict[str, Any]) -> bool:
        known = self.newest.get(row["request_id"], 0)
        if row["version"] > known:
            self.newest[row["request_id"]] = row["version"]
            self.etag = None  # the store is no longer what the last poll said
            self.counts["applied"] += 1
            return True
        self.counts["duplicate" if row["version"] == known else "stale"] += 1
        return False

    def _apply(self, row: dict[str, Any]) -> None:
        assert row["session_id"] == self.session, "a row of another session"
        if self._is_news(row):
            self.rows[row["request_id"]] = row

    def _remove(self, gone: dict[str, Any]) -> None:
        if self._is_news(gone):
            self.rows.pop(gone["request_id"], None)

    # -- polls --

    async def poll(self, *, delta: bool = False, wait: int = 0) -> int:
        """Poll once and return the status."""
        query = f"wait={wait}" + (f"&cursor={self.cursor}" if delta and self.cursor else "")
        headers = f"If-None-Match: {self.etag}\r\n" if self.etag else ""
        reader, writer = await self._request(f"/api/session/{self.session}/requests?{query}", headers)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if line)
            if status == 200:
                self._take_answer(json.loads(await reader.readexactly(int(fields["content-length"]))))
                self.etag = fields["etag"]
            self.counts[f"poll {status}"] += 1
            return status
        finally:
            writer.transport.abort()

    def _take_answer(self, body: dict[str, Any]) -> None:
        assert body["session_id"] == self.session
        self._choose_epoch(body["epoch"])
        for row in body["requests"]:
            self._apply(row)
        for gone in body["removed"]:
            self._remove(gone)
        if body["mode"] == "full":
            named = {row["request_id"] for row in body["requests"]}
            self.rows = {key: row for key, row in self.rows.items() if key in named}
        self.cursor = body["cursor"]

    async def _request(self, target: str, headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"GET {target} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.token}\r\n{headers}\r\n"
        writer.write(head.encode())
        return reader, writer

"""A server under load: clients that follow it through everything, writers that never rest, and the truth at the end."""

import asyncio
import json
import random
import resource
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg

from follower import Chunks, Follower

TRUTH = """
SELECT session_id::text, request_id::text, status::text, sequence_number, rowcast_version AS version,
    round(extract(epoch FROM updated_at), 3)::float8 AS updated_at,
    response IS NOT NULL AS has_response, error IS NOT NULL AS has_error
FROM request WHERE session_id = ANY ($1::text[]::uuid[])
"""
CHANGES = (
    "UPDATE request SET response = $2 WHERE request_id = $1::text::uuid",
    "UPDATE request SET error = nullif($2, '') WHERE request_id = $1::text::uuid",
    """UPDATE request SET response = $2, status = CASE status WHEN 'pending' THEN 'in_progress'
        WHEN 'in_progress' THEN 'done' ELSE 'pending' END::request_status WHERE request_id = $1::text::uuid""",
)
AWAY = (
    OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.IncompleteReadError,
)  # fmt: skip


class Crowd:
    """Clients of one guest, each with a store of its own; those that stream come back at once, others poll."""

    def __init__(self, server: Any, dsn: str, token: str, owner: str) -> None:
        self.server = server
        self.dsn = dsn
        self.token = token
        self.owner = owner
        self.sessions: list[str] = []
        self.streams: list[Follower] = []
        self.polls: list[Follower] = []
        self.counts: Counter[str] = Counter()
        self.is_writing = True
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def of(cls, server: Any, *, sessions: int = 2, requests: int = 5) -> Self:
        """Sign a guest in and give it sessions with requests."""
        token = server.guest()
        with server.client(token) as client:
            first = client.post("/api/session", json={}).json()["session_id"]
        crowd = cls(server, server.database_url, token, "")
        crowd.owner = await crowd.value("SELECT user_owner FROM session WHERE session_id = $1::text::uuid", first)
        for _ in range(sessions):
            await crowd.session(requests=requests)
        return crowd

    # -- the database, by a connection of its own each time --

    async def execute(self, statement: str, *arguments: Any) -> str:
        connection = await asyncpg.connect(self.dsn)
        try:
            return str(await connection.execute(statement, *arguments))
        finally:
            connection.terminate()

    async def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            connection.terminate()

    async def value(self, statement: str, *arguments: Any) -> Any:
        return next(iter((await self.rows(statement, *arguments))[0].values()))

    async def session(self, *, requests: int = 0) -> str:
        session = str(uuid.uuid4())
        await self.execute(
            "INSERT INTO session (session_id, user_owner) VALUES ($1::text::uuid, $2)", session, self.owner
        )
        self.sessions.append(session)
        for _ in range(requests):
            await self.request(session)
        return session

    async def request(self, session: str) -> str:
        statement = (
            "INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x') RETURNING request_id::text AS id"
        )
        return str(await self.value(statement, session))

    async def update(self, request: str, text: str) -> None:
        await self.execute("UPDATE request SET response = $2 WHERE request_id = $1::text::uuid", request, text)

    # -- clients --

    async def join(self, *, streams: int = 2, polls: int = 1) -> None:
        """Have some clients follow each session; return when every stream is live and every poll was answered."""
        for session in self.sessions:
            for _ in range(streams):
                await self.follow(session)
            for _ in range(polls):
                client = Follower(self.server.url, self.token, session)
                self.polls.append(client)
                self._tasks.append(asyncio.create_task(self._poll(client)))
        await self.until(lambda: all(client.counts["poll 200"] for client in self.polls), "every poll is answered")

    async def follow(self, session: str) -> Follower:
        """Have one more client follow a session; return when its stream is live."""
        client = Follower(self.server.url, self.token, session)
        self.streams.append(client)
        self._tasks.append(asyncio.create_task(self._stream(client)))
        await self.until(lambda: client.counts["synced"], "the stream is live")
        return client

    async def visitor(self, session: str) -> Follower:
        """A client that has seen everything, and then went away."""
        client = Follower(self.server.url, self.token, session)
        client.is_noting = True
        async with asyncio.timeout(20):
            await client.follow(until=lambda: client.counts["synced"] > 0)
        return client

    async def _stream(self, client: Follower) -> None:
        while True:
            with suppress(*AWAY):
                client.status = 0
                await client.follow()
            client.counts[f"life ended with {client.status}"] += 1
            await asyncio.sleep(random.uniform(0.02, 0.1))  # what a client in a hurry does

    async def _poll(self, client: Follower) -> None:
        while True:
            with suppress(*AWAY):
                await client.poll(delta=random.random() < 0.5)
            await asyncio.sleep(random.uniform(0.05, 0.15))

    # -- writers --

    @asynccontextmanager
    async def written(self, writers: int = 2) -> AsyncIterator[None]:
        """Change, add and delete requests for the length of the block, whenever the database lets us."""
        self.is_writing = True
        writing = [asyncio.create_task(self._write()) for _ in range(writers)]
        try:
            yield
        finally:
            self.is_writing = False
            await asyncio.gather(*writing)

    async def _write(self) -> None:
        connection: Any = None
        try:
            while self.is_writing:
                try:
                    connection = connection or await asyncpg.connect(self.dsn, timeout=2)
                    await self._change(connection)
                    self.counts["committed"] += 1
                except (*AWAY, TimeoutError):
                    self.counts["refused"] += 1
                    if connection is not None:
                        connection.terminate()
                        connection = None
                await asyncio.sleep(random.uniform(0, 0.02))
        finally:
            if connection is not None:
                connection.terminate()

    async def _change(self, connection: Any) -> None:
        session, dice = random.choice(self.sessions), random.random()
        async with asyncio.timeout(2), connection.transaction():
            await connection.execute("SET LOCAL rowcast.retry = 'on'")
            request = await connection.fetchval(
                "SELECT request_id::text FROM request WHERE session_id = $1::text::uuid ORDER BY random() LIMIT 1",
                session,
            )
            if request is None or dice < 0.05:
                await connection.execute(
                    "INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session
                )
            elif dice < 0.08:
                await connection.execute("DELETE FROM request WHERE request_id = $1::text::uuid", request)
            else:
                await connection.execute(random.choice(CHANGES), request, random.choice(["", str(dice)]))

    # -- the truth --

    async def truth(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What SELECT shows: session, request, and of it what a client may know."""
        stored: dict[str, dict[str, dict[str, Any]]] = {session: {} for session in self.sessions}
        for row in await self.rows(TRUTH, self.sessions):
            stored[row["session_id"]][row["request_id"]] = row
        return stored

    async def returns(self, client: Follower) -> None:
        """Have a visitor come back with its cursor, and see that it shows what is stored."""
        stored = (await self.truth())[client.session]
        async with asyncio.timeout(20):
            while stripped(client.rows) != stored:
                await client.follow(until=lambda: stripped(client.rows) == stored)

    def differences(self, truth: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
        """Where a client shows something else."""
        return [
            f"{kind} {number}: {key} is {shown.get(key)}, stored is {stored.get(key)} {client.counts}"
            for kind, clients in (("stream", self.streams), ("poll", self.polls))
            for number, client in enumerate(clients)
            for stored, shown in [(truth[client.session], stripped(client.rows))]
            for key in sorted(stored.keys() | shown.keys())
            if stored.get(key) != shown.get(key)
        ]

    async def converged(self, *, within: float, since: float | None = None) -> float:
        """Wait until every store equals what SELECT shows; return after how many seconds (since `since`) that was.

        `since` is an instant of `time.monotonic()`. Nothing that is older than what was shown before may have come.
        """
        began = time.monotonic() if since is None else since
        truth, different = None, ["no database"]
        while True:
            with suppress(*AWAY):
                truth = await self.truth()
            if truth is not None and not (different := self.differences(truth)):
                with suppress(*AWAY):
                    if not (different := await self._outdated()):
                        break
            self._check_tasks()
            if time.monotonic() - began > within + 20:
                raise AssertionError("never converged:\n" + "\n".join(different))
            await asyncio.sleep(0.01)
        took = time.monotonic() - began
        assert took <= within, f"it took {took:.2f} s"
        assert sum(client.counts["stale"] for client in self.streams) == 0
        return took

    async def _outdated(self) -> list[str]:
        """Which clients have yet to learn that there is another epoch, though they may show the right rows."""
        newcomer = Follower(self.server.url, self.token, self.sessions[0])
        status = await newcomer.poll()
        return [
            f"epoch {client.epoch}, not {newcomer.epoch} ({status})"
            for client in (*self.streams, *self.polls)
            if client.epoch != newcomer.epoch
        ]

    async def until(self, is_true: Callable[[], object], what: str, *, seconds: float = 20) -> None:
        """Wait for a fact."""
        deadline = time.monotonic() + seconds
        while not is_true():
            self._check_tasks()
            assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}\n{self.server.log[-3000:]}"
            await asyncio.sleep(0.005)

    async def until_seen(self, event: str, *, more_than: int = 0, seconds: float = 20) -> None:
        """Wait until every stream has had more than so many of an event."""
        await self.until(
            lambda: all(client.counts[event] > more_than for client in self.streams),
            f"every stream has more than {more_than} of {event}: {[client.counts for client in self.streams]}",
            seconds=seconds,
        )

    @property
    def is_unbroken(self) -> bool:
        """Whether every stream is still the connection that it was at first."""
        return all(
            client.counts["connected"] == 1 and not any(name.startswith("life") for name in client.counts)
            for client in self.streams
        )

    def _check_tasks(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def stripped(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of what a client holds, what the table holds as well."""
    return {
        key: {name: value for name, value in row.items() if name not in ("cause", "terminal")}
        for key, row in rows.items()
    }


def readiness(server: Any) -> tuple[int, str]:
    """The status of `/readyz`, and what it says when it is not 200."""
    try:
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=10) as answer:
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def until_ready(server: Any, *, seconds: float = 20) -> float:
    """Wait until the server says that it is ready; return how long that took."""
    began = time.monotonic()
    while (answer := await asyncio.to_thread(readiness, server))[0] != 200:
        assert time.monotonic() - began < seconds, answer
        await asyncio.sleep(0.01)
    return time.monotonic() - began


class RawStream:
    """One stream of any application over a raw socket, light enough for thousands: what it was told, and how it ended.

    `ended` is `refused` (no connection), `cut` (without the end of the body), `whole`, or empty while it is open.
    `behind` is what came after the body, as the answer to another request that was sent in the same breath.
    `asked_at` and `live_at` are instants of `time.monotonic()`; 0 is never.
    """

    def __init__(self, url: str, path: str, headers: dict[str, str], *, behind: str = "") -> None:
        self.path = path
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.status = 0
        self.retry_after = 0
        self.ended = ""
        self.behind = b""
        self.cursor = ""
        self.asked_at = self.live_at = 0.0
        self._address = urlsplit(url)
        self._headers = headers
        self._next_path = behind

    async def follow(self) -> str:
        """Ask for the stream once and follow it to its end; return how it ended."""
        self.events, self.behind, self.status, self.retry_after, self.ended = [], b"", 0, 0, ""
        self.asked_at, self.live_at = time.monotonic(), 0.0
        try:
            reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        except OSError:
            self.ended = "refused"
            return self.ended
        try:
            known = {"Last-Event-ID": self.cursor} if self.cursor else {}
            writer.write(self._request(self.path, known) + (self._request(self._next_path) if self._next_path else b""))
            self.ended = "whole" if await self._read(reader) else "cut"
        except OSError:
            self.ended = "cut"
        finally:
            writer.transport.abort()
        return self.ended

    def _request(self, path: str, more: dict[str, str] | None = None) -> bytes:
        headers = {"Host": self._address.netloc, **self._headers, **(more or {})}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except asyncio.IncompleteReadError:
            return False
        self.status = int(head.split(" ", 2)[1])
        if self.status != 200:
            _, found, rest = head.partition("\r\nretry-after: ")
            self.retry_after = int(rest.split("\r\n")[0]) if found else 0
            return True
        chunks, unparsed, tail = Chunks(), b"", b""
        while data := await reader.read(65536):
            tail = (tail + data)[-65536 - 7 :]
            *frames, unparsed = (unparsed + chunks.feed(data)).split(b"\n\n")
            for frame in frames:
                self._take(frame.decode())
            if chunks.is_over:
                self.behind = tail.partition(b"\r\n0\r\n\r\n")[2] + (await reader.read() if self._next_path else b"")
                return True
        return False

    def _take(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
        self.events.append((fields["event"], json.loads(fields["data"])))
        if fields["event"] == "synced":
            self.live_at = self.live_at or time.monotonic()
        self.cursor = fields.get("id", self.cursor)

    def told(self, event: str) -> list[dict[str, Any]]:
        """The data of all events of a name, in order."""
        return [data for name, data in self.events if name == event]

    @property
    def is_live(self) -> bool:
        """Whether all that was missed has been told, and the stream is still open."""
        return not self.ended and self.live_at > 0


def raise_descriptor_limit() -> int:
    """Let this process, and what it starts, have as many descriptors as it may; return how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


Gather = Callable[..., Awaitable[Crowd]]

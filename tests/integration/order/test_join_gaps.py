"""Joining leaves no gap: at every await of a join something happens, and nothing of it is missed.

A stream is opened on real parts (PostgreSQL, the source, the reader, the hub, the routes), and the coroutine that opens
it is driven step by step, and so are the tasks that it starts. At its first suspension something is committed, or the
source is lost; then the same from the beginning at its second one, and so on, until there are no more. So an await that
is added to the join some day is tried as well.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from starlette.requests import HTTPConnection
from starlette.routing import Router

import rowcast
import rowcast.subscription
from follower import Follower
from rowcast import Cursor, Hub, NullMetrics
from rowcast.http import Principal, StreamSettings, live_routes
from rowcast.postgres import postgres_hub
from rowcast.service.store import REQUESTS

pytestmark = [pytest.mark.anyio, pytest.mark.fault(31), pytest.mark.timeout(300)]

PACKAGE = str(Path(rowcast.__file__).parent)
ROWS = 260  # a snapshot of them is two messages
PENDING_ROWS = 1
APPLICATIONS = {"notify": "rowcast-listener", "poll": "rowcast-poller"}
TRUTH = "SELECT request_id::text, rowcast_version FROM request WHERE session_id = $1::text::uuid"
END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = $1"
)


class Hook:
    """Counts the suspensions of what it drives. At one of them `act` runs to its end before anything goes on."""

    def __init__(self, at: int, act: Callable[[], Awaitable[None]]) -> None:
        self._act = act
        self.begin(at)

    def begin(self, at: int) -> None:
        """Count from here, and act at suspension number `at`, or at none (0)."""
        self._at = at
        self._suspensions = 0
        self._acting: asyncio.Future[None] | None = None

    async def drive(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await Steps(work, self)

    async def end(self) -> bool:
        """Let nothing happen any more; return, when what has begun to is over, whether anything has."""
        self._at = 0
        if self._acting is None:
            return False
        await self._acting
        return True

    async def passed(self) -> None:
        self._suspensions += 1
        if self._suspensions == self._at:
            self._acting = asyncio.ensure_future(self._act())
            await asyncio.wait([self._acting])

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Drive every task that the package starts meanwhile."""
        loop = asyncio.get_running_loop()

        def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
            code = getattr(work, "cr_code", None)
            is_ours = code is not None and code.co_filename.startswith(PACKAGE)
            task = asyncio.Task(self.drive(work) if is_ours else work, loop=loop, **options)
            if is_ours:
                task.add_done_callback(lambda _: work.close())  # in case it was cancelled before its first step
            return task

        loop.set_task_factory(start)
        try:
            yield
        finally:
            loop.set_task_factory(None)


class Steps:
    """Awaits a coroutine as usual, but for what the hook does at each suspension, before what it waits for is asked."""

    def __init__(self, work: Coroutine[Any, Any, Any], hook: Hook) -> None:
        self._steps = work.__await__()
        self._hook = hook

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on: Callable[[], Any] = partial(next, self._steps)
        while True:
            try:
                waits_for = go_on()
            except StopIteration as end:
                return end.value
            try:
                yield from self._hook.passed().__await__()
                yield waits_for
                go_on = partial(next, self._steps)
            except BaseException as error:
                go_on = partial(self._steps.throw, error)


class Client(Follower):
    """A client of the application itself, with no server in between; notes what each id that it was sent claims."""

    def __init__(self, app: Router, session: str) -> None:
        super().__init__("", "", session)
        self.claims: list[tuple[str, dict[str, int], dict[str, int]]] = []
        self._app = app
        self._text = b""
        self._is_cut = asyncio.Event()
        self._hook: Hook | None = None
        self._task: asyncio.Task[Any] | None = None

    def open(self, hook: Hook | None = None) -> None:
        headers = [(b"last-event-id", self.cursor.encode())] if self.cursor else []
        scope = {
            "type": "http", "method": "GET", "path": f"/sse/{self.session}", "root_path": "",
            "query_string": b"proto=1&hb=60000", "headers": headers,
        }  # fmt: skip
        self._text, self._is_cut, self._hook = b"", asyncio.Event(), hook
        work = self._app(scope, self._receive, self._send)
        self._task = asyncio.create_task(hook.drive(work) if hook else work)

    async def cut(self) -> None:
        self._is_cut.set()
        if self._task is not None:
            await self._task

    def check(self) -> None:
        """Raise what ended the stream, if anything did."""
        if self._task is not None and self._task.done():
            self._task.result()
            raise AssertionError(f"the stream ended with {self.status}: {self.counts}")

    async def _receive(self) -> dict[str, Any]:
        await self._is_cut.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._hook is not None:
            await self._hook.passed()  # as behind a middleware, where `send` waits
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        *frames, self._text = (self._text + message["body"]).split(b"\n\n")
        for frame in frames:
            before = self.cursor
            self._take(frame.decode())
            if self.cursor is not None and self.cursor != before:
                self.claims.append((self.cursor, self.versions, dict(self.newest)))


class Counting(NullMetrics):
    def __init__(self) -> None:
        self.losses = 0

    def listener_up(self, up: bool) -> None:
        self.losses += not up


@dataclass
class Scene:
    """A hub with its routes, a session, and somebody who writes to it."""

    dsn: str
    hub: Hub
    metrics: Counting
    app: Router
    writer: Any
    observer: Any
    source: str
    session: str
    added: list[str] = field(default_factory=list)

    # -- what happens at an await --

    async def commit(self) -> None:
        """Have one row change, one come and one go."""
        await self.writer.execute(
            "UPDATE request SET response = md5(random()::text) WHERE request_id ="
            " (SELECT request_id FROM request WHERE session_id = $1::text::uuid ORDER BY random() LIMIT 1)",
            self.session,
        )
        added = await self.writer.fetchval(
            "INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x') RETURNING request_id::text",
            self.session,
        )
        self.added.append(added)
        await self.writer.execute("DELETE FROM request WHERE request_id = $1::text::uuid", self.added.pop(0))

    async def commit_and_hear(self) -> None:
        await self.commit()
        await self.hub.source.flush()

    async def lose(self) -> None:
        await self.commit()
        await self.cut_off()
        await self.commit()

    async def cut_off(self) -> None:
        losses = self.metrics.losses
        connection = await asyncpg.connect(self.dsn)  # the others may be in use
        await connection.execute(END, APPLICATIONS[self.source])
        await connection.close()
        await until(lambda: self.metrics.losses > losses, "the source is lost")

    async def lose_and_regain(self) -> None:
        await self.lose()
        await until(lambda: self.hub.is_live, "the source is heard again")
        await self.commit()

    # -- what is looked at --

    async def truth(self) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.observer.fetch(TRUTH, self.session)}

    async def follow(self) -> Client:
        """Return a client whose stream is live."""
        client = Client(self.app, self.session)
        client.open()
        await until(lambda: client.counts["synced"], "the stream is live", client)
        return client

    async def shown(self, *clients: Client) -> dict[str, int]:
        """Wait until every client shows what is stored, and return it."""
        deadline = asyncio.get_running_loop().time() + 30
        while True:
            stored = await self.truth()
            wrong = [dict(client.versions.items() ^ stored.items()) for client in clients if client.versions != stored]
            if not wrong:
                return stored
            for client in clients:
                client.check()
            assert asyncio.get_running_loop().time() < deadline, f"never shown: {wrong}"
            await asyncio.sleep(0.001)

    async def converged(self, *clients: Client) -> None:
        """Every client shows what is stored, and would do so after a cut behind any id that it was ever sent."""
        await until(lambda: self.hub.is_live, "the source is heard", *clients)
        stored = await self.shown(*clients)
        for client in clients:
            for text, versions, newest in client.claims:
                cursor = Cursor.parse(text, self.session)
                assert cursor is not None
                read = await self.hub.reader.changes((self.session,), cursor)
                assert read.usable
                for state in sorted(read.states, key=lambda state: state.version):
                    if state.version > newest.get(state.key, 0):
                        newest[state.key] = state.version
                        versions.pop(state.key, None)
                        if not state.removed:
                            versions[state.key] = state.version
                assert versions == stored, f"whoever resumed at {text} would have missed something"
            client.claims.clear()


@asynccontextmanager
async def scene(dsn: str, source: Any, hook: Hook | None = None) -> AsyncIterator[Scene]:
    """Run a hub that nothing but its source can tell anything: no sweep comes to its help."""
    metrics, writer, observer = Counting(), await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    session = await writer.fetchval("INSERT INTO session (user_owner) VALUES ('a') RETURNING session_id::text")
    await writer.execute(
        "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, $2)",
        session,
        ROWS,
    )

    async def authorize(connection: HTTPConnection, session: str) -> Principal:
        return Principal(owner="a")

    hub = postgres_hub(
        dsn, REQUESTS, source=source, metrics=metrics, probe_seconds=60, sweep_seconds=3600, slowest_tick_seconds=0.2
    )
    app = Router(live_routes(hub, authorize, stream_path="/sse/{session_id}", stream=StreamSettings()))
    try:
        async with hub:
            await until(lambda: hub.is_live, "the source is heard")
            opened = Scene(dsn, hub, metrics, app, writer, observer, source, session)
            opened.added += (await opened.truth()).keys()
            yield opened
            assert await hub.sweep() == 0
    finally:
        writer.terminate()
        observer.terminate()


async def until(is_true: Callable[[], object], what: str, *clients: Client) -> None:
    """Wait for a fact that streams which live on bring about."""
    deadline = asyncio.get_running_loop().time() + 30
    while not is_true():
        for client in clients:
            client.check()
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited in vain until {what}: {[client.counts for client in clients]}")
        await asyncio.sleep(0.001)


# -- joins --


async def first(place: Scene) -> Client:
    """Connect for the first time."""
    return Client(place.app, place.session)


async def resume(place: Scene) -> Client:
    """Come back with a cursor, having missed something."""
    client = await place.follow()
    await client.cut()
    await place.commit()
    return client


async def bad_cursor(place: Scene) -> Client:
    """Come back with a cursor that leads nowhere."""
    client = await place.follow()
    await client.cut()
    client.cursor = Cursor("0123456789abcdef", 1).text(place.session)
    return client


async def too_slow(place: Scene) -> Client:
    """Stay, and start over because more waits than may: `EVERY` changes every row."""
    return await place.follow()


JOINS = {"first": first, "resume": resume, "bad cursor": bad_cursor, "too slow": too_slow}
EVERY = "UPDATE request SET error = md5(random()::text) WHERE session_id = $1::text::uuid"
ACTS = {
    "commit": Scene.commit,
    "commit and hear": Scene.commit_and_hear,
    "lose": Scene.lose,
    "lose and regain": Scene.lose_and_regain,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("source", APPLICATIONS)
async def test_what_happens_at_an_await_of_a_join_is_told(
    service_database: str, monkeypatch: pytest.MonkeyPatch, source: str, join: str, act: str
) -> None:
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", PENDING_ROWS)
    async with scene(service_database, source) as place:
        witness = await place.follow()
        for at in itertools.count(1):
            client, hook = await JOINS[join](place), Hook(at, partial(ACTS[act], place))
            synced = client.counts["synced"]
            with hook.driving():
                if join == "too slow":
                    await place.observer.execute(EVERY, place.session)
                else:
                    client.open(hook)
                await until(lambda: client.counts["synced"] > synced, "the stream is live", client, witness)  # noqa: B023
                await place.shown(client, witness)
                has_acted = await hook.end()
                await place.converged(client, witness)
                await client.cut()
            if not has_acted:
                break
        await witness.cut()
    print(f"\n{at - 1} awaits")
    assert at > 4


@pytest.mark.fault(28)
@pytest.mark.parametrize("source", APPLICATIONS)
async def test_what_is_committed_at_an_await_of_the_source_that_comes_back_is_told(
    service_database: str, source: str
) -> None:
    """The source itself is driven, from its loss until it is heard, and so is a client that comes meanwhile."""
    place: Scene | None = None

    async def commit() -> None:
        assert place is not None
        await place.commit()

    hook = Hook(0, commit)
    with hook.driving():
        async with scene(service_database, source) as place:
            stayer = await place.follow()
            for at in itertools.count(1):
                comer, seen = Client(place.app, place.session), stayer.counts["synced"]
                hook.begin(at)
                await place.cut_off()
                comer.open(hook)
                await until(
                    lambda: stayer.counts["synced"] > seen and comer.counts["synced"],  # noqa: B023
                    "both streams are live",
                    stayer,
                    comer,
                )
                has_acted = await hook.end()
                await place.converged(stayer, comer)
                await comer.cut()
                if not has_acted:
                    break
            await stayer.cut()
    print(f"\n{at - 1} awaits")
    assert at > 10

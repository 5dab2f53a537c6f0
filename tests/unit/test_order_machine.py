"""The law of order under every interleaving that can be thought of.

One hub with real streams and polls stands on a table and a source in memory, under a clock that moves by hand. A
schedule says who does the next thing: writers begin, write, commit, roll back; the queue delivers a few notifications;
the loop makes one turn; a read goes on; a client reads a few bytes, is cut, comes back, polls; the source is lost and
heard again; the database restarts from a backup. After every frame that a client takes, what its cursor claims is
checked against the table (`Client.check_claim`), and at the end every client must have converged.

Hypothesis looks for schedules and shrinks what fails; `test_random_schedules` runs many more at random.
ORDER_EXAMPLES raises the number of both.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from starlette.requests import HTTPConnection
from starlette.routing import Router

import rowcast.event
import rowcast.feeds
import rowcast.subscription
from rowcast import Cursor, DatabaseUnavailable, Hub, NullMetrics, Watch
from rowcast.http import Principal, StreamSettings, live_routes
from rowcast.testing import MemorySource, MemoryTable

pytestmark = pytest.mark.timeout(900)

EXAMPLES = int(os.environ.get("ORDER_EXAMPLES", "0"))
WATCH = Watch(
    table="request", key="request_id", session="session_id", session_type="text", status="status", terminal=("done",)
)
SESSIONS = ("a", "b")
KEYS = ("k0", "k1", "k2", "k3", "k4")
PENDING_ROWS = 3


@pytest.fixture(autouse=True, scope="module")
def _small_bounds() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        make_bounds_small(patch.setattr)
        yield


def make_bounds_small(set_attribute: Callable[..., None]) -> None:
    set_attribute(rowcast.subscription, "PENDING_ROWS", PENDING_ROWS)
    set_attribute(rowcast.event, "SNAPSHOT_ROWS", 2)
    set_attribute(rowcast.feeds, "WAKE_SLICE", 1)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that makes one turn when told to, under a clock that moves when told to."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.call_soon(self.stop)
            self.run_forever()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.turn()

    def settle(self) -> None:
        """Make turns until nobody wants another one."""
        while self._ready:  # type: ignore[attr-defined]
            self.turn()


class Counting(NullMetrics):
    found = 0

    def sweep_found(self, rows: int) -> None:
        self.found += rows


class Connection:
    """One HTTP exchange. What the server has written and the client has not yet taken is in `wire`."""

    def __init__(self, world: "World", path: str, query: str = "", headers: dict[str, str] | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.wire = bytearray()
        self.is_over = False
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.is_cut = asyncio.Event()
        scope = {
            "type": "http", "method": "GET", "path": path, "root_path": "", "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }  # fmt: skip
        self.task = world.spawn(self._run(world.app, scope))

    async def _run(self, app: Router, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)
        self.is_over = True  # a server closes the connection when the application has returned

    async def _receive(self) -> dict[str, Any]:
        await self.is_cut.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        # Like uvicorn: it waits for room before it writes, and swallows what is written to a peer that has left.
        await self.may_write.wait()
        if self.is_cut.is_set():
            return
        assert not self.is_over, "something was sent after the end of the body"
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status
            self.wire += message["body"]
            self.is_over = not message.get("more_body", False)

    def cut(self) -> None:
        self.wire.clear()
        self.is_cut.set()
        self.may_write.set()


class Client:
    """What every client must do: apply what is newer, keep the last id, replace the store when the epoch changes."""

    def __init__(self, world: "World", session: str) -> None:
        self.world = world
        self.session = session
        self.stream: Connection | None = None
        self.poll: Connection | None = None
        self.applied: dict[tuple[str, str], int] = {}
        self.mode = ""
        self.is_degraded = False
        self.unparsed = b""
        self.forget()

    def forget(self) -> None:
        """Be a page that was just opened."""
        self.rows: dict[str, dict[str, Any]] = {}
        self.cursor: str | None = None
        self.epoch: str | None = None
        self.etag: str | None = None
        self.named: set[str] = set()
        self.applied.clear()

    # -- streams --

    def connect(self, cursor: str | None) -> None:
        self.cut()
        self.unparsed = b""
        self.is_degraded = False
        headers = {"last-event-id": cursor} if cursor else {}
        self.stream = Connection(self.world, f"/sse/{self.session}", "proto=1", headers)

    def cut(self) -> None:
        if self.stream is not None:
            self.stream.cut()
            self.stream = None

    def take(self, count: int) -> None:
        """Take some bytes off the wire, and apply the frames that are complete."""
        if self.stream is None:
            return
        taken = bytes(self.stream.wire[:count])
        del self.stream.wire[:count]
        if self.stream.status == 200:
            self.unparsed += taken
            *frames, self.unparsed = self.unparsed.split(b"\n\n")
            for frame in frames:
                self.apply_frame(frame.decode())
        if self.stream.is_over and not self.stream.wire:
            self.cut()

    def apply_frame(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
        data = json.loads(fields["data"])
        assert data.get("session_id", self.session) == self.session, "a frame of another session"
        self.apply_event(fields["event"], data)
        if "id" in fields:
            self.cursor = fields["id"]
        self.check_claim()

    def apply_event(self, name: str, data: dict[str, Any]) -> None:
        match name:
            case "connected":
                self.mode = data["mode"]
                assert self.mode != "resume" or data["epoch"] == self.epoch
            case "snapshot":
                self.take_epoch(data["epoch"])
                if data["part"] == 1:
                    self.named = set()
                for row in data["requests"]:
                    self.named.add(row["request_id"])
                    self.apply_row(row)
                if not data["more"]:
                    self.rows = {key: row for key, row in self.rows.items() if key in self.named}
            case "request_update":
                self.apply_row(data)
            case "request_removed":
                self.remove(data)
            case "synced":
                self.is_degraded = False
                assert data["cursor"]
            case "degraded":
                self.is_degraded = True
            case "goodbye":
                assert data["resume"]
            case "resync" | "heartbeat":
                pass
            case _:
                pytest.fail(f"unexpected event {name}: {data}")

    def take_epoch(self, epoch: str) -> None:
        if epoch != self.epoch:
            self.forget()
            self.epoch = epoch

    def apply_row(self, row: dict[str, Any]) -> None:
        known = self.rows.get(row["request_id"], {"version": 0})
        if row["version"] > known["version"]:
            self.etag = None
            self.rows[row["request_id"]] = row
            self.note_version(row)

    def remove(self, data: dict[str, Any]) -> None:
        known = self.rows.get(data["request_id"])
        if known is not None and data["version"] > known["version"]:
            self.etag = None
            del self.rows[data["request_id"]]
            self.note_version(data)

    def note_version(self, row: dict[str, Any]) -> None:
        """Versions that are applied only grow, even of rows that went and came back."""
        before = self.applied.get((self.epoch or "", row["request_id"]), 0)
        assert row["version"] > before, f"{row['request_id']} went back from {before} to {row['version']}"
        self.applied[self.epoch or "", row["request_id"]] = row["version"]

    def check_claim(self) -> None:
        """Whoever resumes from here must miss nothing: everything below the cursor's horizon is in the store."""
        cursor = Cursor.parse(self.cursor or "", self.session)
        table = self.world.table
        if cursor is None or cursor.epoch != table.epoch or self.epoch != table.epoch:
            return
        memory = table._memory
        for key, row in memory.rows.items():
            if row.session == self.session and row.xid < cursor.horizon:
                held = self.rows.get(key, {"version": 0})["version"]
                assert held >= row.version, f"{self.cursor} claims {key} at {row.version}, but it is at {held}"
        for (session, key), gone in memory.gone.items():
            stored = memory.rows.get(key)
            came_back = stored is not None and stored.session == session
            if session == self.session and gone.xid < cursor.horizon and key in self.rows and not came_back:
                assert self.rows[key]["version"] > gone.version, f"{self.cursor} claims that {key} has gone"

    # -- polls --

    def start_poll(self, *, delta: bool, wait: int) -> None:
        self.cut()
        query = f"cursor={self.cursor}&" if delta and self.cursor else ""
        headers = {"if-none-match": self.etag} if self.etag else {}
        self.poll = Connection(self.world, f"/poll/{self.session}", f"{query}wait={wait}", headers)

    def take_poll(self) -> None:
        poll = self.poll
        if poll is None or not poll.is_over:
            return
        self.poll = None
        if poll.status != 200:
            assert poll.status in (304, 503)
            return
        body = json.loads(bytes(poll.wire))
        self.take_epoch(body["epoch"])
        for row in body["requests"]:
            self.apply_row(row)
        for gone in body["removed"]:
            self.remove(gone)
        if body["mode"] == "full":
            named = {row["request_id"] for row in body["requests"]}
            self.rows = {key: row for key, row in self.rows.items() if key in named}
        self.cursor, self.etag = body["cursor"], poll.headers["etag"]
        self.check_claim()

    def drop_poll(self) -> None:
        if self.poll is not None:
            self.poll.cut()
            self.poll = None


class World:
    """Everything that acts, and every act that a schedule is made of. Arguments are small numbers."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._failed)
        asyncio.set_event_loop(self.loop)
        self.errors: list[str] = []
        self.is_gated = False
        self.gate: list[asyncio.Future[None]] = []
        self.table = MemoryTable(WATCH, gate=self._gate)
        self.source = MemorySource(self.table)
        self.metrics = Counting()
        self.hub = Hub(
            WATCH, source=self.source, reader=self.table, metrics=self.metrics, clock=lambda: self.loop.now,
            sweep_seconds=1e9,
        )  # fmt: skip
        self.app = Router(
            live_routes(
                self.hub, self._authorize, stream_path="/sse/{session_id}", poll_path="/poll/{session_id}",
                stream=StreamSettings(heartbeat_ms=2000, max_age_seconds=1e9, write_timeout_seconds=20),
            )
        )  # fmt: skip
        self.tasks: set[asyncio.Task[Any]] = set()
        self.running: list[Any] = []
        self.backup = self.table.backup()
        self.clients = [Client(self, session) for session in ("a", "a", "b")]
        self.spawn(self.hub.__aenter__())
        self.loop.turn(3)
        self.source.listen()
        self.spawn(self._regain())
        self.loop.turn(5)
        assert self.hub.is_live

    # -- scaffolding --

    async def _gate(self) -> None:
        if self.is_gated:
            waits = self.loop.create_future()
            self.gate.append(waits)
            await waits

    async def _authorize(self, connection: HTTPConnection, session: str) -> Principal:
        return Principal(owner="somebody")

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.errors.append(repr(task.exception()))

    async def _regain(self) -> None:
        try:
            await self.source.regain()
        except DatabaseUnavailable:
            self.source.lose()

    async def _sweep(self) -> None:
        with suppress(DatabaseUnavailable):
            self.metrics.sweep_found(await self.hub.sweep())

    # -- writers --

    def begin(self, repeatable: int = 0) -> None:
        if len(self.running) < 4:
            self.running.append(self.table.begin(repeatable_read=repeatable % 3 == 0))

    def write(self, which: int = 0, key: int = 0, kind: int = 0) -> None:
        if not self.running:
            self.begin(1)
        transaction, name = self.running[which % len(self.running)], KEYS[key % len(KEYS)]
        if self.table._locks.get(name, transaction) is not transaction:
            return
        row = transaction._row(name)
        if row is None:
            transaction.insert(name, SESSIONS[kind % 2], status="pending")
        elif kind % 8 == 0:
            transaction.delete(name)
        elif kind % 8 == 1:
            transaction.update(name, session=SESSIONS[row.session == "a"], status=f"s{kind}")
        else:
            transaction.update(name, status="done" if row.values["status"] != "done" else "pending")
        if kind % 16 == 15:
            transaction.reread(transaction._row(name).session)

    def commit(self, which: int = 0) -> None:
        if self.running:
            self.running.pop(which % len(self.running)).commit()

    def rollback(self, which: int = 0) -> None:
        if self.running:
            self.running.pop(which % len(self.running)).rollback()

    def change(self, key: int = 0, kind: int = 0) -> None:
        """Write and commit at once."""
        self.running.append(self.table.begin())
        self.write(len(self.running) - 1, key, kind)
        self.commit(len(self.running) - 1)

    def burst(self, session: int = 0) -> None:
        """Change every row, which is more than may be pending."""
        for key in range(len(KEYS)):
            self.change(key, 2 + session % 2)

    # -- the queue, the loop and the clock --

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Act as a callback of the loop, which does not get a turn."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def deliver(self, count: int | None = 1) -> None:
        with self.inside():
            self.source.deliver(count)

    def probe(self) -> None:
        self.source.probe()

    def turn(self, turns: int = 1) -> None:
        self.loop.turn(turns)

    def hold_reads(self, hold: int = 1) -> None:
        self.is_gated = bool(hold % 2)
        if not self.is_gated:
            self.release(-1)

    def release(self, which: int = 0) -> None:
        waiting = self.gate if which < 0 else [self.gate[which % len(self.gate)]] if self.gate else []
        for waits in list(waiting):
            self.gate.remove(waits)
            if not waits.done():
                waits.set_result(None)

    def pass_time(self, seconds: int = 2) -> None:
        self.loop.pass_time(seconds)

    def sweep(self) -> None:
        self.spawn(self._sweep())

    # -- faults of the database --

    def lose(self) -> None:
        if self.source.is_listening or self.hub.is_live:
            self.stop_regaining()
            with self.inside():
                self.source.lose()

    def stop_regaining(self) -> None:
        """A source does one thing at a time: it does not lose what it is about to regain."""
        for task in list(self.tasks):
            if task.get_coro().__name__ == "_regain":
                task.cancel()

    def listen(self) -> None:
        self.source.listen()

    def regain(self) -> None:
        if not self.hub.is_live and not any(task.get_coro().__name__ == "_regain" for task in self.tasks):
            self.source.listen()
            self.spawn(self._regain())

    def half_regain(self) -> None:
        """Be just behind the snapshot of the read that closes the gap."""
        self.lose()
        self.hold_reads(1)
        self.regain()
        self.turn(2)
        self.release(len(self.gate) - 1)
        self.turn(2)

    def fail_reads(self, fail: int = 1) -> None:
        self.table.is_available = not fail % 2

    def truncate(self) -> None:
        if not self.table._locks:
            self.table.truncate()

    def rotate(self) -> None:
        self.table.rotate_epoch()

    def purge(self) -> None:
        """Forget rows that went long ago: nothing that is under way can be older."""
        if self.hub.is_live and not self.gate:
            self.idle()
            self.table.purge()

    def back_up(self) -> None:
        self.backup = self.table.backup()

    def restore(self) -> None:
        """Crash, and come back with an older state: reads under way fail, as their connections do."""
        self.running.clear()
        self.stop_regaining()
        self.table.restore(self.backup)
        with self.inside():
            self.source.lose()
        was_available, self.table.is_available = self.table.is_available, False
        self.release(-1)
        self.loop.turn(3)
        self.table.is_available = was_available

    # -- clients --

    def connect(self, client: int = 0, mode: int = 0) -> None:
        reader = self.clients[client % len(self.clients)]
        reader.drop_poll()
        if mode % 8 == 7:
            reader.forget()
        cursor = reader.cursor
        if mode % 16 == 5:
            cursor = Cursor(self.table.epoch, 10**9).text(reader.session)
        if mode % 16 == 6:
            cursor = "rubbish"
        reader.connect(cursor)

    def take(self, client: int = 0, count: int = 0) -> None:
        self.clients[client % len(self.clients)].take([10_000, 1, 40, 150, 400][count % 5])

    def cut(self, client: int = 0) -> None:
        self.clients[client % len(self.clients)].cut()

    def pause(self, client: int = 0) -> None:
        """The client's window is full: the server's writes wait."""
        if (stream := self.clients[client % len(self.clients)].stream) is not None:
            stream.may_write.clear()

    def unpause(self, client: int = 0) -> None:
        if (stream := self.clients[client % len(self.clients)].stream) is not None:
            stream.may_write.set()

    def poll(self, client: int = 0, kind: int = 0) -> None:
        reader = self.clients[client % len(self.clients)]
        reader.drop_poll()
        reader.start_poll(delta=kind % 3 != 0, wait=kind % 2)

    def take_poll(self, client: int = 0) -> None:
        self.clients[client % len(self.clients)].take_poll()

    # -- the oracle --

    def check(self) -> None:
        assert not self.errors, self.errors
        assert self.metrics.found == 0, "the sweep found what had not been delivered"
        statistics = self.hub.statistics()
        assert statistics["held"] <= len(KEYS) * len(SESSIONS)
        for session in SESSIONS:
            for subscription in feed.subscriptions if (feed := self.hub._feeds.get(session)) else ():
                assert len(subscription._pending) <= PENDING_ROWS

    def settle(self, *, reconnect: bool = False) -> None:
        """End all faults, deliver everything, and compare."""
        self.hold_reads(0)
        self.fail_reads(0)
        while self.running:
            self.commit()
        self.idle()
        self.regain()
        for _ in range(3):
            self.idle()
            self.sweep()
            self.idle()
            self.probe()
            for reader in self.clients:
                reader.drop_poll()
                if reader.stream is not None:
                    reader.stream.may_write.set()
                self.idle()
                while reader.stream is not None and reader.stream.wire:
                    reader.take(10_000)
                    self.idle()
                if reader.stream is None or reconnect:
                    reader.connect(reader.cursor)
                self.idle()
                reader.take(10_000_000)
            reconnect = False
            self.pass_time(3)
        for reader in self.clients:
            reader.take(10_000_000)
        self.check()
        assert self.hub.is_live
        for reader in self.clients:
            stored = self.table.rows(reader.session)
            shown = {key: row["version"] for key, row in reader.rows.items()}
            assert shown == stored, f"{reader.session}: shown {shown}, stored {stored}"
            for key, row in reader.rows.items():
                assert row["status"] == self.table._memory.rows[key].values["status"]
            assert not reader.is_degraded, "nobody said that the database is back"
            assert reader.cursor == Cursor(self.table.epoch, self.table.horizon).text(reader.session)
            assert reader.rows == {} or reader.stream is not None
        assert self.table.horizon == self.table._memory.next_xid

    def idle(self) -> None:
        """Let the loop run until nothing moves, everything that waits being delivered."""
        self.loop.settle()
        while self.source.waiting:
            self.deliver(None)
            self.loop.settle()

    def close(self) -> None:
        for reader in self.clients:
            reader.cut()
            reader.drop_poll()
        self.hold_reads(0)
        self.loop.turn(5)
        self.loop.run_until_complete(self.hub.__aexit__())
        for task in tuple(self.tasks):
            task.cancel()
        self.loop.turn(3)
        self.loop.close()
        asyncio.set_event_loop(None)


ACTS: dict[str, float] = {
    # name: how often in a random schedule
    "begin": 3, "write": 8, "commit": 8, "rollback": 1, "change": 6, "burst": 1, "deliver": 10, "probe": 2,
    "turn": 12, "hold_reads": 3, "release": 6, "pass_time": 3, "sweep": 1, "lose": 1, "listen": 1, "regain": 2,
    "half_regain": 1,
    "fail_reads": 1, "truncate": 0.2, "rotate": 0.1, "purge": 0.2, "back_up": 0.3, "restore": 0.2, "connect": 5,
    "take": 8, "cut": 2, "pause": 1, "unpause": 2, "poll": 2, "take_poll": 3,
}  # fmt: skip


def arguments_of(name: str) -> int:
    return int(getattr(World, name).__code__.co_argcount) - 1


def run_schedule(seed: int, steps: int = 120) -> None:
    dice = random.Random(seed)
    world = World()
    try:
        for name in dice.choices(list(ACTS), list(ACTS.values()), k=steps):
            getattr(world, name)(*(dice.randrange(16) for _ in range(arguments_of(name))))
            world.check()
        world.settle(reconnect=dice.random() < 0.5)
    finally:
        world.close()


def test_random_schedules() -> None:
    for seed in range(EXAMPLES or 3000):
        try:
            run_schedule(seed)
        except BaseException as error:
            error.add_note(f"run_schedule({seed})")
            raise


class OrderMachine(RuleBasedStateMachine):
    """The acts of the world as rules."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.world.check()

    @rule(reconnect=st.booleans())
    def settle(self, reconnect: bool) -> None:
        self.world.settle(reconnect=reconnect)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.world.settle()
        finally:
            self.world.close()


def _rule_of(name: str) -> Any:
    small = st.integers(0, 15)
    names = World.__dict__[name].__code__.co_varnames[1 : 1 + arguments_of(name)]

    def act(self: OrderMachine, **arguments: int) -> None:
        getattr(self.world, name)(**arguments)

    act.__name__ = name
    return rule(**dict.fromkeys(names, small))(act)


for _name in ACTS:
    setattr(OrderMachine, _name, _rule_of(_name))

OrderMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 600, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOrder = OrderMachine.TestCase

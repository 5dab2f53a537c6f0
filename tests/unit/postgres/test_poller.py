"""Ticks and joins in every order, on a table in memory that is looked at as PostgreSQL is."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

import rowcast.postgres.poller
from rowcast import Cursor, DatabaseUnavailable, Hub, Watch
from rowcast.backoff import Backoff
from rowcast.postgres.pace import Pause
from rowcast.postgres.poller import Poller
from rowcast.subscription import Subscription
from rowcast.testing import MemoryTable

pytestmark = pytest.mark.anyio

WATCH = Watch(table="report", key="id", session="account", session_type="text", status="status", terminal=("done",))


class Gate:
    """Holds whoever comes, when it is closed, until it is let through."""

    def __init__(self) -> None:
        self.is_closed = False
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self) -> None:
        if self.is_closed:
            waits = asyncio.get_running_loop().create_future()
            self.waiting.append(waits)
            await waits

    def let_through(self, number: int = 0) -> None:
        waits = self.waiting.pop(number)
        if not waits.done():
            waits.set_result(None)

    def open(self) -> None:
        self.is_closed = False
        while self.waiting:
            self.let_through()


class Connection:
    """Answers looks from a table in memory; `gate` is awaited before and after the snapshot is taken."""

    def __init__(self, table: MemoryTable, gate: Gate) -> None:
        self.table = table
        self.gate = gate
        self.looks = 0
        self.is_gone = False

    def add_termination_listener(self, _: object) -> None:
        pass

    def terminate(self) -> None:
        pass

    def is_closed(self) -> bool:
        return self.is_gone

    async def fetch(
        self, _sql: str, sessions: Sequence[str], since: str | None, *, timeout: float
    ) -> list[dict[str, Any]]:
        self.looks += 1
        await self.gate()
        if self.is_gone:
            raise OSError("gone")
        table, memory = self.table, self.table._memory
        running = [transaction.xid for transaction in table._running if transaction.xid is not None]
        snapshot = f"{table.horizon}:{memory.next_xid}:{','.join(map(str, sorted(running)))}"
        place = {
            "snapshot": snapshot, "horizon": str(table.horizon), "epoch": table.epoch,
            "standby": False, "stamped": True, "floor": str(memory.floor),
        }  # fmt: skip
        records = [{"kind": "place", "document": json.dumps(place), "xid": None}]
        if since is not None:
            states = [table._state(key, row) for key, row in memory.rows.items() if row.session in sessions]
            states += [table._removal(*key[::-1], gone) for key, gone in memory.gone.items() if key[0] in sessions]
            records += [
                {"kind": "gone" if state.removed else "row", "document": json.dumps(state.document), "xid": state.xid}
                for state in states
                if not was_visible(state.xid, since)
            ]
        await self.gate()
        return records


def was_visible(xid: int, snapshot: str) -> bool:
    oldest, next_xid, running = snapshot.split(":")
    return xid < int(oldest) or (xid < int(next_xid) and str(xid) not in running.split(","))


class NoTriggers:
    """A table in memory needs none, so none is missing."""

    async def check(self, connection: Connection) -> None:
        pass


class NoPause:
    """A pace that never waits for the clock."""

    asked: list[bool]

    def __init__(self) -> None:
        self.asked = []

    def next_pause(self, *, found: bool, took_seconds: float) -> Pause:
        self.asked.append(found)
        return Pause(0, 0)

    def hurry(self) -> None:
        pass


@dataclass
class Setup:
    table: MemoryTable
    hub: Hub
    poller: Poller
    connection: Connection
    reads: Gate
    looks: Gate
    screens: "list[Screen]" = field(default_factory=list)

    def change(self, key: str, session: str = "s", **values: object) -> None:
        with self.table.begin() as transaction:
            if transaction._row(key) is None:
                transaction.insert(key, session, **({"status": "pending"} | values))
            else:
                transaction.update(key, session=session, **values)

    def screen(self, session: str = "s") -> "Screen":
        self.screens.append(Screen(self, session))
        return self.screens[-1]

    async def converged(self) -> None:
        async with asyncio.timeout(5):
            while any(screen.rows != self.table.rows(screen.session) for screen in self.screens):
                await asyncio.sleep(0)


class Screen:
    """A reader: it joins, shows what it is told, and joins again when it has to."""

    def __init__(self, setup: Setup, session: str) -> None:
        self.setup = setup
        self.session = session
        self.rows: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.ids: list[tuple[str, int]] = []
        self.events: list[str] = []
        self.is_joining = True
        self.subscription: Subscription = setup.hub.subscribe(session, self.look)
        self.joining = asyncio.create_task(self.join())

    async def join(self) -> None:
        self.is_joining = True
        while self.is_joining:
            joined = await self.setup.hub.join(self.subscription, None)
            self.rows = {state.key: state.version for state in joined.read.states}
            self.known = dict(self.rows)
            self.is_joining = self.subscription.resync is not None
        self.look()

    def look(self) -> None:
        if self.subscription.resync is not None:
            if not self.is_joining:
                self.joining = asyncio.create_task(self.join())
            return
        for frame in self.subscription.drain():
            fields = dict(line.split(b": ", 1) for line in frame.strip().split(b"\n"))
            name, data = fields[b"event"].decode(), json.loads(fields[b"data"])
            self.events.append(name)
            if name in ("report_update", "report_removed") and data["version"] > self.known.get(data["id"], 0):
                self.known[data["id"]] = data["version"]
                self.ids.append((fields[b"id"].decode(), data["version"]))
                if name == "report_update":
                    self.rows[data["id"]] = data["version"]
                else:
                    self.rows.pop(data["id"], None)

    async def leave(self) -> None:
        self.setup.hub.unsubscribe(self.subscription)
        self.joining.cancel()
        await asyncio.wait([self.joining])
        self.setup.screens.remove(self)


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    reads, looks = Gate(), Gate()
    table = MemoryTable(WATCH, gate=reads)
    connection = Connection(table, looks)

    async def connect(*_: object, **__: object) -> Connection:
        connection.is_gone = False
        return connection

    monkeypatch.setattr(rowcast.postgres.poller, "connect", connect)
    poller = Poller("postgresql:///nowhere", WATCH)
    monkeypatch.setattr(poller, "_health", NoTriggers())
    monkeypatch.setattr(poller, "_pace", NoPause())
    monkeypatch.setattr(poller, "_backoff", Backoff(first_seconds=0, cap_seconds=0, random=random.random))
    async with Hub(WATCH, source=poller, reader=table, sweep_seconds=3600) as hub:
        await until(lambda: hub.is_live)
        setup = Setup(table, hub, poller, connection, reads, looks)
        yield setup
        reads.open()
        looks.open()
        for screen in tuple(setup.screens):
            await screen.leave()


async def sweep(setup: Setup) -> int:
    """Sweep once nothing is lost, which the last steps may have brought about."""
    async with asyncio.timeout(5):
        while True:
            await until(lambda: setup.hub.is_live)
            with suppress(DatabaseUnavailable):
                return await setup.hub.sweep()


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_asked_until_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        await until(lambda: setup.poller._is_asleep)
        before = setup.connection.looks
        await setup.hub.reader.session("s")  # a plain poll: nobody is registered
        await setup.poller.flush()
        await turns(200)
        assert setup.connection.looks == before
        await setup.screen().joining
        assert setup.connection.looks > before
        await setup.screens[0].leave()
        await until(lambda: setup.poller._is_asleep)


async def test_the_first_reader_waits_for_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows read first and the snapshot taken afterwards, what is committed between would never be found."""
    async with running(monkeypatch) as setup:
        await until(lambda: setup.poller._is_asleep)
        setup.looks.is_closed = True
        screen = setup.screen()
        await until(lambda: setup.looks.waiting)
        await turns()
        assert not screen.joining.done()
        setup.change("a")
        setup.looks.open()
        await screen.joining
        setup.change("b")
        await setup.converged()
        assert screen.rows.keys() == {"a", "b"}


async def test_a_reader_that_comes_during_a_tick_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        await setup.screen("s").joining
        setup.looks.is_closed = True
        await until(lambda: setup.looks.waiting)  # a tick that knows of "s" alone
        late = setup.screen("t")
        await turns()
        assert not late.joining.done()
        setup.change("a", "t")  # visible to that tick's snapshot, and not asked for
        setup.looks.open()
        await late.joining
        await setup.converged()


async def test_a_reader_that_left_and_comes_back_during_a_tick_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        await setup.screen("s").joining
        leaver = setup.screen("t")
        await leaver.joining
        setup.looks.is_closed = True
        await until(lambda: setup.looks.waiting)  # a tick that asks for both
        await leaver.leave()
        for _ in range(2):
            setup.looks.let_through()
            await until(lambda: setup.looks.waiting)
        late = setup.screen("t")  # the tick that is under way by now asks for "s" alone
        await turns()
        assert not late.joining.done()
        setup.change("a", "t")
        setup.looks.open()
        await late.joining
        await setup.converged()


async def test_a_reader_of_a_session_that_is_asked_for_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        await setup.screen().joining
        setup.looks.is_closed = True
        await until(lambda: setup.looks.waiting)
        await setup.screen().joining
        await setup.hub.reader.session("somebody else's")


async def test_frames_carry_the_look_before_and_the_place_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        screen = setup.screen()
        await screen.joining
        await setup.poller.flush()
        before = setup.hub.place_of("s")
        setup.change("a")
        setup.change("b")
        await setup.converged()
        assert before is not None
        assert [Cursor.parse(text, "s") for text, _ in screen.ids] == [before, before]
        await setup.poller.flush()
        assert setup.hub.place_of("s") == Cursor(before.epoch, setup.table.horizon)


async def test_a_transaction_that_was_running_is_found_when_it_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        setup.change("a")
        screen = setup.screen()
        await screen.joining
        slow = setup.table.begin()
        slow.update("a", status="done")
        for _ in range(3):
            setup.change("b", status=str(random.random()))
            await setup.converged()
            await setup.poller.flush()
        place = setup.hub.place_of("s")
        assert place is not None
        assert slow.xid is not None
        assert place.horizon <= slow.xid
        slow.commit()
        await setup.converged()


async def test_a_flush_waits_for_a_tick_that_begins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        await setup.screen().joining
        setup.looks.is_closed = True
        await until(lambda: len(setup.looks.waiting) == 1)
        setup.looks.let_through()
        await until(lambda: len(setup.looks.waiting) == 1)  # its snapshot is taken
        setup.change("a")
        flush = asyncio.create_task(setup.poller.flush())
        await turns()
        setup.looks.let_through()
        await until(lambda: len(setup.looks.waiting) == 1)
        assert not flush.done()
        setup.looks.open()
        await flush
        assert setup.screens[0].rows.keys() == {"a"}


@pytest.mark.parametrize("end", ["truncate", "rotate_epoch", "restore", "purge"])
async def test_a_new_epoch_has_everybody_start_over(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    async with running(monkeypatch) as setup:
        backup = setup.table.backup()
        setup.change("a")
        screen = setup.screen()
        await screen.joining
        await setup.poller.flush()
        if end == "purge":  # tombstones of transactions that no tick has seen yet
            setup.looks.is_closed = True
            await until(lambda: setup.looks.waiting)
            with setup.table.begin() as transaction:
                transaction.delete("a")
            setup.change("b")
            setup.table.purge()
            setup.looks.open()
        else:
            getattr(setup.table, end)(*([backup] if end == "restore" else []))
        setup.change("c")
        await setup.converged()
        place = setup.hub.place_of("s")
        assert place is not None
        assert place.epoch == setup.table.epoch
        setup.change("d")
        await setup.converged()


async def test_a_lost_database_is_told_and_what_was_missed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        screen = setup.screen()
        await screen.joining
        setup.table.is_available = False
        setup.connection.is_gone = True
        await until(lambda: not setup.hub.is_live)
        with pytest.raises(DatabaseUnavailable):
            await setup.poller.flush()
        setup.change("a")
        setup.table.is_available = True
        await setup.converged()
        await until(lambda: setup.hub.is_live)
        assert "degraded" in screen.events or "synced" in screen.events


async def test_the_reader_of_the_hub_is_its_own_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as setup:
        assert setup.hub.reader is not setup.table
    assert setup.hub.reader is setup.table


@pytest.mark.parametrize("seed", range(60))
async def test_random_schedules(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Writers, ticks and readers take steps at random; reads and looks are held before and after their snapshots."""
    dice = random.Random(seed)
    sessions, keys = ("s", "t"), ("k0", "k1", "k2", "k3")
    async with running(monkeypatch) as setup:
        setup.reads.is_closed = setup.looks.is_closed = True
        open_ones: list[Any] = []

        def write() -> None:
            if not open_ones or (len(open_ones) < 3 and dice.random() < 0.4):
                open_ones.append(setup.table.begin())
            transaction, key = dice.choice(open_ones), dice.choice(keys)
            if setup.table._locks.get(key, transaction) is not transaction:
                return
            if transaction._row(key) is None:
                transaction.insert(key, dice.choice(sessions), status="pending")
            elif dice.random() < 0.3:
                transaction.delete(key)
            else:
                transaction.update(key, session=dice.choice(sessions), status=str(dice.random()))

        def end() -> None:
            if open_ones:
                transaction = open_ones.pop(dice.randrange(len(open_ones)))
                (transaction.rollback if dice.random() < 0.2 else transaction.commit)()

        def release(gate: Gate) -> None:
            if gate.waiting:
                gate.let_through(dice.randrange(len(gate.waiting)))

        for _ in range(300):
            step = dice.random()
            if step < 0.2:
                write()
            elif step < 0.35:
                end()
            elif step < 0.42 and len(setup.screens) < 4:
                setup.screen(dice.choice(sessions))
            elif step < 0.47 and setup.screens:
                await dice.choice(setup.screens).leave()
            elif step < 0.48:
                setup.connection.is_gone = True
            elif step < 0.49 and not open_ones:
                setup.table.truncate()
            elif step < 0.75:
                release(setup.reads)
            else:
                release(setup.looks)
            await turns(dice.randrange(4))
        while open_ones:
            end()
        setup.reads.open()
        setup.looks.open()
        setup.connection.is_gone = False
        await setup.converged()
        assert await sweep(setup) == 0

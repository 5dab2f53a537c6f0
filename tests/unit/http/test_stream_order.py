"""What a stream sends when: the opening first, no id before what it covers, nothing after the end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import rowcast.subscription
from rowcast import Hub, Watch
from rowcast.http import Principal, StreamSettings
from rowcast.http.stream import Stream
from rowcast.http.writer import Writer
from rowcast.hub import Joined, Read
from rowcast.subscription import Subscription
from rowcast.testing import MemorySource, MemoryTable

pytestmark = pytest.mark.anyio

WATCH = Watch(table="report", key="id", session="account", session_type="text", status="status")


async def _still_allowed() -> None:
    """Nothing is taken from anybody here."""


@dataclass
class Peer:
    """The server's side of one connection: `send` waits as long as `is_open` is not set."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    has_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Any) -> None:
        await self.is_open.wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    @property
    def events(self) -> list[tuple[str, bool]]:
        """Return name, and whether it has an id, of every frame."""
        text = b"".join(message.get("body", b"") for message in self.sent).decode()
        lines = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in text.split("\n\n") if frame]
        return [(fields["event"], "id" in fields) for fields in lines]


@dataclass
class Setup:
    table: MemoryTable
    source: MemorySource
    hub: Hub
    waiting: list["asyncio.Future[None]"]
    is_gated: bool = False

    def change(self, key: str, status: str) -> None:
        with self.table.begin() as transaction:
            if transaction._row(key) is None:
                transaction.insert(key, "s", status=status)
            else:
                transaction.update(key, status=status)
        self.source.deliver()

    @asynccontextmanager
    async def stream(self, peer: Peer, **settings: Any) -> AsyncIterator["asyncio.Task[str]"]:
        stream = Stream(
            self.hub,
            "s",
            Principal(owner="a"),
            settings=StreamSettings(**settings),
            stream_id="x",
            knows_protocol=True,
            recheck=_still_allowed,
        )
        await stream.join(None, None)
        task = asyncio.create_task(stream.run(peer.receive, peer.send))
        try:
            yield task
        finally:
            peer.is_open.set()
            peer.has_left.set()
            await task
            stream.leave()


@asynccontextmanager
async def running() -> AsyncIterator[Setup]:
    async def gate() -> None:
        if setup.is_gated:
            setup.waiting.append(asyncio.get_running_loop().create_future())
            await setup.waiting[-1]

    table = MemoryTable(WATCH, gate=gate)
    source = MemorySource(table)
    async with Hub(WATCH, source=source, reader=table) as hub:
        setup = Setup(table, source, hub, [])
        await turns()
        await source.regain()
        yield setup
        setup.is_gated = False
        for waits in setup.waiting:
            if not waits.done():
                waits.set_result(None)
        await turns()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_true():
            await asyncio.sleep(0.005)


async def test_nothing_is_written_before_the_opening_where_send_waits() -> None:
    """Behind a middleware `send` waits even for the first message; a wake-up may come meanwhile."""
    async with running() as setup:
        peer = Peer()
        async with setup.stream(peer):
            await turns()
            setup.change("a", "late")
            await turns()
            peer.is_open.set()
            await turns()
            assert peer.sent[0]["type"] == "http.response.start"
            assert [name for name, _ in peer.events] == ["connected", "snapshot", "synced", "report_update"]


async def test_a_heartbeat_comes_after_what_waits() -> None:
    """Its id covers everything that the hub has handed out."""
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer, heartbeat_ms=50):
            await turns()
            setup.change("a", "late")
            await until(lambda: "heartbeat" in dict(peer.events))
            assert [name for name, _ in peer.events][:5] == [
                "connected", "snapshot", "synced", "report_update", "heartbeat",
            ]  # fmt: skip
            assert peer.events[4] == ("heartbeat", True)


async def test_a_heartbeat_claims_nothing_while_the_stream_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", 1)
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer, heartbeat_ms=50):
            await turns()
            setup.is_gated = True
            setup.change("a", "1")
            setup.change("b", "1")
            await until(lambda: "heartbeat" in dict(peer.events))
            assert ("heartbeat", False) in peer.events
            assert ("heartbeat", True) not in peer.events
            setup.is_gated = False
            for waits in setup.waiting:
                waits.set_result(None)
            await until(lambda: "resync" in dict(peer.events))
            names = [name for name, _ in peer.events if name != "heartbeat"]
            assert names == ["connected", "snapshot", "synced", "resync", "snapshot", "synced"]


async def test_joining_again_waits_for_a_heartbeat_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes at once would be two calls of `send` at once."""
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", 1)
    async with running() as setup:
        peer, calls = Peer(), 0

        async def send(message: Any) -> None:
            nonlocal calls
            calls += 1
            assert calls == 1, "two at once"
            await Peer.send(peer, message)
            calls -= 1

        monkeypatch.setattr(peer, "send", send)
        peer.is_open.set()
        async with setup.stream(peer, heartbeat_ms=50):
            await turns()
            setup.is_gated = True
            setup.change("a", "1")
            setup.change("b", "1")
            await turns()
            peer.is_open.clear()
            await until(lambda: calls)
            setup.is_gated = False
            for waits in setup.waiting:
                waits.set_result(None)
            await turns()
            peer.is_open.set()
            await until(lambda: "resync" in dict(peer.events))


async def test_a_stream_that_cannot_read_anew_stays_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", 1)
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer) as task:
            await turns()
            setup.table.is_available = False
            setup.change("a", "1")
            setup.change("b", "1")
            await until(lambda: peer.events[-1] == ("degraded", False))
            setup.change("c", "1")
            await turns()
            setup.table.is_available = True
            await until(lambda: peer.events[-1] == ("synced", True))
            names = [name for name, _ in peer.events]
            assert names == ["connected", "snapshot", "synced", "degraded", "resync", "snapshot", "synced"]
            assert all(f'"id":"{key}"'.encode() in peer.sent[-1]["body"] for key in "abc")
            setup.change("a", "2")
            await until(lambda: peer.events[-1] == ("report_update", True))
            assert not task.done()


async def test_a_stream_keeps_nothing_of_what_it_read_first() -> None:
    async with running() as setup:
        for number in range(3):
            setup.change(f"row {number}", "1")
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer):
            await until(lambda: ("synced", True) in peer.events)
            gc.collect()
            assert not [found for found in gc.get_objects() if isinstance(found, Joined | Read)]


async def test_a_thousand_streams_that_come_and_go_leave_nothing_behind() -> None:
    async with running() as setup:
        tasks = asyncio.all_tasks()
        for _ in range(20):
            peers = [Peer() for _ in range(50)]
            async with AsyncExitStack() as stack:
                for number, peer in enumerate(peers):
                    peer.is_open.set()
                    await stack.enter_async_context(setup.stream(peer))
                    setup.change("a", str(number))
            assert all(peer.events[-1] == ("report_update", True) for peer in peers[:-1])
        await turns()
        assert asyncio.all_tasks() <= tasks
        assert setup.hub.statistics()["readers"] == setup.hub.statistics()["sessions"] == 0
        gc.collect()
        assert not [found for found in gc.get_objects() if isinstance(found, Stream | Subscription | Writer)]


@pytest.mark.parametrize("told", ["drain", "switch_streams"])
async def test_a_stream_that_is_told_to_end_before_it_has_begun_opens_and_ends(told: str) -> None:
    async with running() as setup:
        peer = Peer()
        async with setup.stream(peer) as task:
            await turns()
            if told == "drain":
                setup.hub.door.drain()
            else:
                setup.hub.door.switch_streams(False)
            peer.is_open.set()
            assert await task == ("drain" if told == "drain" else "switched_off")
            assert [name for name, _ in peer.events] == ["connected", "snapshot", "synced", "goodbye"]


async def test_a_stream_stays_when_others_are_to_go() -> None:
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer) as task:
            await turns()
            setup.hub.door.keep_streams(lambda owner: owner == "a")
            await turns()
            assert not task.done()
            setup.hub.door.keep_streams(lambda owner: owner == "b")
            assert await task == "switched_off"


async def test_nothing_follows_the_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcast.subscription, "PENDING_ROWS", 1)
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer) as task:
            await turns()
            setup.is_gated = True
            setup.change("a", "1")
            setup.change("b", "1")
            await turns()
            setup.hub.door.drain()
            setup.is_gated = False
            for waits in setup.waiting:
                waits.set_result(None)
            assert await task == "drain"
            await turns()
            assert [name for name, _ in peer.events] == ["connected", "snapshot", "synced", "goodbye"]
            assert [message["more_body"] for message in peer.sent[1:]] == [True, False]


@pytest.mark.fault(10)
async def test_a_peer_that_does_not_read_costs_one_write_and_is_left() -> None:
    async with running() as setup:
        peer = Peer()
        peer.is_open.set()
        async with setup.stream(peer, write_timeout_seconds=0.05) as task:
            await turns()
            peer.is_open.clear()
            for number in range(100):
                setup.change("a", str(number))
                await turns(3)
            assert await task == "slow_consumer"

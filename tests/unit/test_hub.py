"""Joining without a gap, and closing the gaps that come: on a table and a source in memory.

The schedules here are the shortest forms of what `test_order_machine.py` found, or could find.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rowcast import Cursor, DatabaseUnavailable, Hub, NullMetrics, Watch
from rowcast.subscription import Subscription
from rowcast.testing import MemorySource, MemoryTable

pytestmark = pytest.mark.anyio

WATCH = Watch(table="report", key="id", session="account", session_type="text", status="status", terminal=("done",))


class Gate:
    """Holds reads: each waits twice, before its snapshot and after it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self) -> None:
        if self.is_closed:
            waits = asyncio.get_running_loop().create_future()
            self.waiting.append(waits)
            await waits

    def open(self) -> None:
        self.is_closed = False
        while self.waiting:
            self.waiting.pop().set_result(None)


class Metrics(NullMetrics):
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def notification(self, outcome: str) -> None:
        self.outcomes.append(outcome)


@dataclass
class Setup:
    table: MemoryTable
    source: MemorySource
    hub: Hub
    gate: Gate
    metrics: Metrics

    def change(self, key: str, session: str = "s", *, reread: bool = False, **values: object) -> None:
        with self.table.begin() as transaction:
            if transaction._row(key) is None:
                transaction.insert(key, session, **({"status": "pending"} | values))
            else:
                transaction.update(key, session=session, **values)
            if reread:
                transaction.reread(session)

    def delete(self, key: str) -> None:
        with self.table.begin() as transaction:
            transaction.delete(key)

    async def join(self, session: str = "s", since: Cursor | None = None) -> tuple[Subscription, list[str]]:
        """Return a reader, and the keys that it was sent first."""
        subscription = self.hub.subscribe(session, lambda: None)
        joined = await self.hub.join(subscription, since)
        return subscription, [state.key for state in joined.read.states]


@asynccontextmanager
async def running() -> AsyncIterator[Setup]:
    gate, metrics = Gate(), Metrics()
    table = MemoryTable(WATCH, gate=gate)
    source = MemorySource(table)
    async with Hub(WATCH, source=source, reader=table, metrics=metrics) as hub:
        await turns()
        await source.regain()
        await turns()
        setup = Setup(table, source, hub, gate, metrics)
        yield setup
        gate.open()
        for session in list(hub._feeds.sessions):
            for subscription in tuple(hub._feeds.get(session).subscriptions):  # type: ignore[union-attr]
                hub.unsubscribe(subscription)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def told(subscription: Subscription) -> list[tuple[str, str | None, Any]]:
    """Return name, horizon of the id, and key of everything that waits."""
    frames = [
        dict(line.split(": ", 1) for line in frame.decode().splitlines() if line) for frame in subscription.drain()
    ]
    return [
        (frame["event"], frame["id"].split(".")[2] if "id" in frame else None, json.loads(frame["data"]).get("id"))
        for frame in frames
    ]


# -- joining --


async def test_nobody_joins_before_the_source_was_heard() -> None:
    table = MemoryTable(WATCH)
    async with Hub(WATCH, source=MemorySource(table), reader=table) as hub:
        subscription = hub.subscribe("s", lambda: None)
        with pytest.raises(DatabaseUnavailable):
            await hub.join(subscription, None)
        hub.unsubscribe(subscription)


@pytest.mark.fault(31)
@pytest.mark.parametrize("steps", [0, 1])
async def test_a_change_before_during_or_after_the_read_is_told_once(steps: int) -> None:
    async with running() as setup:
        setup.gate.is_closed = True
        joining = asyncio.create_task(setup.join())
        await turns()
        for _ in range(steps):
            setup.gate.waiting.pop().set_result(None)
            await turns()
        setup.change("a")
        setup.source.deliver()
        setup.gate.open()
        subscription, first = await joining
        setup.source.deliver()
        assert [*first, *(key for _, _, key in told(subscription))] == ["a"]


@pytest.mark.fault(31)
async def test_what_is_committed_but_still_under_way_is_told_once_by_the_read() -> None:
    async with running() as setup:
        setup.change("a")
        subscription, first = await setup.join()
        assert first == ["a"]
        setup.source.deliver()
        assert [key for _, _, key in told(subscription)] == ["a"]  # the version rule of the client drops it


@pytest.mark.fault(30)
async def test_who_resumes_gets_what_a_long_transaction_commits_late() -> None:
    async with running() as setup:
        late = setup.table.begin()
        late.insert("late", "s", status="pending")
        setup.change("early")
        setup.source.deliver()
        _, first = await setup.join()
        assert first == ["early"]
        cursor = setup.hub.place_of("s")
        late.commit()
        _, missed = await setup.join(since=cursor)
        assert missed == ["late", "early"]  # in the order of the transactions; a superset of what was missed


@pytest.mark.fault(33)
async def test_what_is_rolled_back_was_never_said() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        transaction = setup.table.begin()
        transaction.insert("a", "s")
        transaction.rollback()
        assert setup.source.deliver() == 0
        assert told(subscription) == []


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("cursor", "reason"),
    [(Cursor(f"{1:016x}", 10**9), "bad_cursor"), (Cursor("f" * 16, 1000), "epoch_changed")],
)
async def test_a_cursor_that_leads_nowhere_gets_everything(cursor: Cursor, reason: str) -> None:
    async with running() as setup:
        setup.change("a")
        subscription = setup.hub.subscribe("s", lambda: None)
        joined = await setup.hub.join(subscription, cursor)
        assert (joined.resync, joined.read.full, len(joined.read.states)) == (reason, True, 1)


@pytest.mark.fault(65)
async def test_a_cursor_from_before_the_purge_gets_everything() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        cursor = setup.hub.place_of("s")
        setup.delete("a")
        setup.table.purge()
        subscription = setup.hub.subscribe("s", lambda: None)
        joined = await setup.hub.join(subscription, cursor)
        assert (joined.resync, joined.read.states) == ("bad_cursor", ())


@pytest.mark.fault(65)
async def test_a_row_that_went_while_away_is_told_to_have_gone() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        cursor = setup.hub.place_of("s")
        setup.delete("a")
        subscription = setup.hub.subscribe("s", lambda: None)
        joined = await setup.hub.join(subscription, cursor)
        assert [(state.key, state.removed) for state in joined.read.states] == [("a", True)]


@pytest.mark.fault(65)
async def test_a_row_that_went_and_came_back_while_away_is_told_as_it_is() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        cursor = setup.hub.place_of("s")
        setup.delete("a")
        setup.change("a")
        subscription = setup.hub.subscribe("s", lambda: None)
        joined = await setup.hub.join(subscription, cursor)
        assert [(state.key, state.removed) for state in joined.read.states] == [("a", False)]


async def test_a_snapshot_does_not_name_what_went_nor_let_it_come_back() -> None:
    """The row was changed, then deleted; the first of both is heard while the reader joins."""
    async with running() as setup:
        setup.change("a")
        setup.delete("a")
        setup.gate.is_closed = True
        joining = asyncio.create_task(setup.join())
        await turns()
        setup.source.deliver(1)
        setup.gate.open()
        subscription, first = await joining
        assert first == []
        assert told(subscription) == []


# -- what ids may claim --


async def test_an_id_is_the_horizon_of_what_was_heard() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        running_first = setup.table.begin()
        running_first.insert("long", "other")
        setup.change("a")
        setup.source.deliver()
        assert told(subscription) == [("report_update", "1000", "a")]
        running_first.rollback()
        setup.source.probe()
        setup.source.deliver()
        assert setup.hub.place_of("s") == Cursor(setup.table.epoch, 1002)


async def test_while_a_session_is_read_again_no_id_claims_what_that_read_will_bring() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.gate.is_closed = True
        setup.change("big", reread=True)
        setup.change("small")
        setup.source.deliver()
        assert told(subscription) == [("report_update", "1000", "small")]
        assert setup.hub.place_of("s") == Cursor(setup.table.epoch, 1000)
        assert setup.hub.place_of("another") == Cursor(setup.table.epoch, 1001)
        setup.gate.open()
        await turns()
        assert told(subscription) == [("report_update", "1000", "big")]
        assert setup.hub.place_of("s") == Cursor(setup.table.epoch, 1001)


async def test_a_burst_of_rereads_is_two_reads() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.gate.is_closed = True
        for number in range(50):
            setup.change(f"k{number}", reread=True)
        setup.source.deliver()
        await turns()
        reads = 0
        while setup.gate.waiting:
            reads += len(setup.gate.waiting)
            setup.gate.waiting.pop().set_result(None)
            await turns()
        assert reads <= 4  # each passes the gate twice
        assert len(told(subscription)) == 50


async def test_a_reread_tells_nothing_to_readers_that_came_after_it() -> None:
    """They have read the session themselves; the reread may be older, and would bring back what has gone since."""
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        first, _ = await setup.join()
        setup.gate.is_closed = True
        setup.change("big", reread=True)
        setup.source.deliver()
        await turns()
        setup.gate.waiting.pop().set_result(None)  # the snapshot is taken
        await turns()
        setup.hub.unsubscribe(first)
        setup.delete("a")
        setup.source.deliver()
        setup.gate.is_closed = False
        second, keys = await setup.join()
        setup.gate.open()
        await turns()
        assert keys == ["big"]
        assert told(second) == []


async def test_a_reread_does_not_bring_back_what_a_reader_that_joined_meanwhile_knows_to_have_gone() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        await setup.join()
        setup.gate.is_closed = True
        setup.change("a", reread=True, status="done")
        setup.source.deliver()
        await turns()
        setup.gate.waiting.pop().set_result(None)
        await turns()
        setup.delete("a")
        setup.gate.is_closed = False
        second, keys = await setup.join()
        setup.gate.open()
        await turns()
        assert keys == []
        assert told(second) == []


async def test_a_reread_that_fails_makes_the_readers_join_again() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.change("big", reread=True)
        setup.table.is_available = False
        setup.source.deliver()
        await turns()
        assert subscription.resync == "truncated"
        assert not subscription.drain()


# -- the lost source --


@pytest.mark.fault(28)
async def test_what_changed_while_the_source_was_lost_is_told_when_it_is_back() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.source.lose()
        assert [name for name, _, _ in told(subscription)] == ["degraded"]
        setup.change("a")
        await setup.source.regain()
        assert told(subscription) == [("report_update", "1000", "a"), ("synced", "1001", None)]


async def test_no_id_is_adopted_while_the_source_is_lost() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.source.lose()
        setup.change("missed")
        setup.source.listen()
        setup.change("heard")
        setup.source.deliver()
        assert setup.hub.place_of("s") is None
        assert [name for name, _, _ in told(subscription)] == ["degraded"]
        await setup.source.regain()
        assert told(subscription) == [
            ("report_update", "1000", "missed"),
            ("report_update", "1000", "heard"),
            ("synced", "1002", None),
        ]


async def test_what_is_heard_while_the_gap_is_read_is_not_lost() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.source.lose()
        told(subscription)
        setup.gate.is_closed = True
        regaining = asyncio.create_task(setup.source.regain())
        await turns()
        setup.gate.waiting.pop().set_result(None)  # the snapshot is taken
        await turns()
        setup.change("a")
        setup.source.deliver()
        setup.gate.open()
        await regaining
        assert [key for name, _, key in told(subscription) if name != "synced"] == ["a"]


async def test_a_row_that_moves_while_the_gap_is_read_leaves_one_session_and_appears_in_the_other() -> None:
    async with running() as setup:
        setup.change("a", "left")
        setup.source.deliver()
        left, _ = await setup.join("left")
        right, _ = await setup.join("right")
        setup.source.lose()
        setup.gate.is_closed = True
        regaining = asyncio.create_task(setup.source.regain())
        await turns()
        setup.gate.waiting.pop().set_result(None)
        await turns()
        setup.change("a", "right")
        setup.source.deliver()
        setup.gate.open()
        await regaining
        assert ("report_removed", "1000", "a") not in told(right)
        assert [name for name, _, _ in told(left)] == ["report_removed", "synced"]


async def test_who_joins_while_the_gap_is_read_is_told_that_it_is_closed() -> None:
    async with running() as setup:
        setup.source.lose()
        setup.gate.is_closed = True
        regaining = asyncio.create_task(setup.source.regain())
        await turns()
        setup.gate.is_closed = False
        subscription, _ = await setup.join()
        setup.change("a")  # the read of the gap sees it, but does not ask for this session
        setup.gate.open()
        await regaining
        assert told(subscription) == [("synced", "1000", None)]
        setup.source.deliver()
        assert told(subscription) == [("report_update", "1000", "a")]


async def test_what_an_attempt_to_regain_held_is_not_told_after_the_next_gap() -> None:
    """Since it was heard, the row went, and that was not heard."""
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        reader, _ = await setup.join()
        setup.source.lose()
        setup.source.listen()
        setup.change("a", status="done")
        setup.source.deliver()
        setup.hub.unsubscribe(reader)
        other, _ = await setup.join()
        setup.source.lose()
        setup.delete("a")
        await setup.source.regain()
        assert "report_update" not in {name for name, _, _ in told(other)}


async def test_a_failed_attempt_leaves_the_source_lost() -> None:
    async with running() as setup:
        setup.source.lose()
        setup.table.is_available = False
        with pytest.raises(DatabaseUnavailable):
            await setup.source.regain()
        assert not setup.hub.is_live
        setup.table.is_available = True
        await setup.source.regain()
        assert setup.hub.is_live


# -- epochs --


@pytest.mark.fault(26)
async def test_after_a_restore_every_reader_joins_again() -> None:
    async with running() as setup:
        backup = setup.table.backup()
        setup.change("a")
        setup.source.deliver()
        subscription, _ = await setup.join()
        setup.table.restore(backup)
        setup.source.lose()
        await setup.source.regain()
        assert subscription.resync == "epoch_changed"
        joined = await setup.hub.join(subscription, None, resync="epoch_changed")
        assert (joined.read.cursor.epoch, joined.read.states) == (setup.table.epoch, ())


@pytest.mark.fault(65)
async def test_a_truncate_makes_every_reader_join_again_once() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        subscription, _ = await setup.join()
        setup.table.truncate()
        setup.source.deliver()
        await turns()
        assert subscription.resync == "truncated"
        await setup.hub.join(subscription, None, resync="truncated")
        await turns()
        assert subscription.resync is None


async def test_states_from_before_a_truncate_do_not_outlive_it() -> None:
    """A reader joins behind the TRUNCATE, while notifications from before it are still on their way."""
    async with running() as setup:
        setup.change("a")
        setup.table.truncate()
        subscription, first = await setup.join()
        assert first == []
        await turns()
        setup.source.deliver()
        await turns()
        assert subscription.resync == "truncated"
        assert told(subscription) == []


async def test_an_epoch_that_changed_in_silence_is_noticed_by_whoever_joins() -> None:
    async with running() as setup:
        waiting, _ = await setup.join()
        setup.table.rotate_epoch()
        await setup.join("another")
        await turns()
        assert waiting.resync == "epoch_changed"


async def test_an_epoch_that_changed_in_silence_is_noticed_by_the_sweep() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.table.rotate_epoch()
        assert await setup.hub.sweep() == 0
        await turns()
        assert subscription.resync == "epoch_changed"


async def test_what_gathered_in_another_epoch_is_not_told() -> None:
    """The database goes back to a backup while a reader joins; what it heard before was lost with the crash."""
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        backup = setup.table.backup()
        setup.gate.is_closed = True
        joining = asyncio.create_task(setup.join())
        await turns()
        setup.change("a", status="done")
        setup.source.deliver()
        setup.table.restore(backup)
        setup.gate.open()
        subscription, first = await joining
        assert first == ["a"]
        assert told(subscription) == []


# -- the sweep --


async def test_the_sweep_finds_nothing_of_what_is_on_its_way() -> None:
    async with running() as setup:
        setup.change("before")
        await setup.join()
        setup.change("after")
        assert await setup.hub.sweep() == 0
        assert await setup.hub.sweep() == 0


@pytest.mark.fault(67)
async def test_the_sweep_finds_and_tells_what_no_notification_said() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        setup.change("a")
        setup.source._queue.clear()
        assert await setup.hub.sweep() == 1
        assert [key for _, _, key in told(subscription)] == ["a"]
        assert await setup.hub.sweep() == 0


async def test_the_sweep_brings_nothing_back_to_readers_who_came_while_it_read() -> None:
    """Its snapshot has a row that has gone since, and those who came meanwhile know that it has."""
    async with running() as setup:
        table, deliver = setup.table, setup.source.deliver
        setup.change("k")
        setup.change("other")
        deliver()
        first, _ = await setup.join()
        early = table.begin()  # its removal of k carries a transaction id below that of k's last change
        early.update("other", status="d")
        long = table.begin()  # holds the horizon back
        setup.change("another")
        deliver()
        long.insert("one more", "s", status="x")
        setup.change("k", status="u")
        deliver()
        setup.gate.is_closed = True
        sweeping = asyncio.create_task(setup.hub.sweep())
        await turns()
        setup.gate.waiting.pop().set_result(None)
        await turns()  # the snapshot is taken, the answer is under way
        answer = setup.gate.waiting.pop()
        setup.gate.is_closed = False
        early.delete("k")
        early.commit()
        deliver()
        setup.change("other")
        deliver()
        setup.source.probe()
        deliver()
        setup.hub.unsubscribe(first)
        newcomer, shown = await setup.join()
        assert "k" not in shown
        answer.set_result(None)
        assert await sweeping == 0
        await turns()
        long.commit()
        deliver()
        assert "k" not in [key for _, _, key in told(newcomer)]


async def test_the_sweep_does_not_count_what_went_before_anybody_joined() -> None:
    async with running() as setup:
        oldest = setup.table.begin()
        oldest.insert("long", "other")
        setup.change("a")
        setup.delete("a")
        setup.source.deliver()
        await setup.join()
        assert await setup.hub.sweep() == 0


async def test_the_sweep_needs_a_source_that_is_heard() -> None:
    async with running() as setup:
        await setup.join()
        setup.source.lose()
        with pytest.raises(DatabaseUnavailable):
            await setup.hub.sweep()


# -- counting, and the end --


async def test_notifications_are_counted_by_what_became_of_them() -> None:
    async with running() as setup:
        setup.change("a")
        setup.source.deliver()
        await setup.join()
        setup.change("a", status="done")
        setup.source.deliver()
        state = (await setup.table.session("s")).states[0]
        setup.hub.publish(state, 1000)
        assert setup.metrics.outcomes == ["unwatched", "delivered", "stale"]


async def test_statistics_count_sessions_readers_and_what_is_held() -> None:
    async with running() as setup:
        await setup.join("a")
        await setup.join("a")
        await setup.join("b")
        setup.source.lose()
        setup.source.listen()
        setup.change("x", "a")
        setup.change("y", "nobody")
        setup.source.deliver()
        statistics = setup.hub.statistics()
        assert (statistics["sessions"], statistics["readers"], statistics["held"]) == (2, 3, 1)


async def test_draining_says_goodbye_to_everybody_and_waits() -> None:
    async with running() as setup:
        subscription, _ = await setup.join()
        subscription.tell = lambda _: setup.hub.unsubscribe(subscription)
        await setup.hub.shutdown(timeout_seconds=5)
        assert setup.hub.door.is_draining
        assert setup.hub.statistics()["readers"] == 0


# -- the end --


async def test_a_shutdown_hurries_nobody_before_its_time() -> None:
    """Who was told to leave by a signal is told once more only when the time is over."""
    async with running() as setup:
        told_to: list[str] = []
        subscription = setup.hub.subscribe("s", lambda: None, told_to.append)
        setup.hub.door.drain()
        shutting = asyncio.create_task(setup.hub.shutdown(timeout_seconds=0.05))
        await turns()
        assert told_to == ["drain"]
        await shutting
        assert told_to == ["drain", "drain"]
        setup.hub.unsubscribe(subscription)

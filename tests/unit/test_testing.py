"""The table in memory keeps the rules of the real one that order depends on."""

import pytest

from rowcast import Cursor, DatabaseUnavailable, Hub, Watch
from rowcast.event import dump_json
from rowcast.testing import MemorySource, MemoryTable

pytestmark = pytest.mark.anyio

WATCH = Watch(
    table="report", key="id", session="account", session_type="text", status="status", terminal=("done",),
    presence=("body",), carried=("number",),
)  # fmt: skip


def table_with(*keys: str) -> MemoryTable:
    table = MemoryTable(WATCH)
    with table.begin() as transaction:
        for key in keys:
            transaction.insert(key, "s", status="pending", number=1)
    return table


async def test_a_row_is_described_as_on_the_wire() -> None:
    table = table_with("a")
    with table.begin() as transaction:
        transaction.update("a", status="done", body="text")
    (state,) = (await table.session("s")).states
    expected = {"id": "a", "account": "s", "status": "done", "has_body": True, "number": 1}
    assert dump_json(state.document) == dump_json(expected | {"version": state.version, "terminal": True})


async def test_nothing_is_seen_before_the_commit_and_nothing_after_a_rollback() -> None:
    table = table_with("a")
    before = table.rows("s")
    transaction = table.begin()
    transaction.update("a", status="done")
    assert table.rows("s") == before
    transaction.rollback()
    assert table.rows("s") == before


async def test_a_block_that_raises_rolls_back() -> None:
    table = table_with("a")

    def fail() -> None:
        with table.begin() as transaction:
            transaction.delete("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert table.rows("s").keys() == {"a"}


async def test_the_horizon_is_the_oldest_transaction_that_has_written() -> None:
    table = table_with("a", "b")
    start = table.horizon
    idle, first, second = table.begin(), table.begin(), table.begin()
    first.update("a", number=2)
    second.update("b", number=2)
    second.commit()
    assert (idle.xid, first.xid, table.horizon) == (None, start, start)
    first.commit()
    assert table.horizon == start + 2


async def test_two_transactions_cannot_write_one_row() -> None:
    table = table_with("a")
    first, second = table.begin(), table.begin()
    first.update("a", number=2)
    with pytest.raises(RuntimeError, match="another transaction"):
        second.delete("a")
    first.commit()
    second.delete("a")
    second.commit()
    with pytest.raises(RuntimeError, match="has ended"):
        second.delete("a")


async def test_what_changes_nothing_is_no_new_version() -> None:
    table = table_with("a")
    before = table.rows("s")
    with table.begin() as transaction:
        transaction.update("a", number=1)
    assert table.rows("s") == before


async def test_a_key_that_returns_starts_above_what_it_had() -> None:
    table = table_with("a")
    (before,) = table.rows("s").values()
    with table.begin() as transaction:
        transaction.delete("a")
        transaction.insert("a", "s")
    assert table.rows("s")["a"] > before + 1


async def test_a_row_that_moves_is_gone_from_one_session_and_there_in_the_other() -> None:
    table = table_with("a")
    since = Cursor(table.epoch, table.horizon)
    with table.begin() as transaction:
        transaction.update("a", session="t")
    read = await table.changes(["s", "t"], since)
    assert [(state.session, state.removed) for state in read.states] == [("t", False), ("s", True)]


async def test_a_cursor_of_another_epoch_from_the_future_or_before_the_purge_is_of_no_use() -> None:
    table = table_with("a")
    old = Cursor(table.epoch, table.horizon)
    assert (await table.changes(["s"], old)).usable
    assert not (await table.changes(["s"], Cursor(table.epoch, 10**9))).usable
    with table.begin() as transaction:
        transaction.delete("a")
    table.purge()
    assert not (await table.changes(["s"], old)).usable
    new = Cursor(table.epoch, table.horizon)
    table.truncate()
    assert not (await table.changes(["s"], new)).usable


async def test_a_restore_brings_everything_back_under_another_epoch() -> None:
    table = table_with("a")
    backup, epoch = table.backup(), table.epoch
    unfinished = table.begin()
    unfinished.delete("a")
    table.restore(backup)
    assert table.rows("s").keys() == {"a"}
    assert table.epoch != epoch
    with pytest.raises(RuntimeError):
        unfinished.delete("a")


async def test_reads_fail_while_the_table_is_away() -> None:
    table = table_with("a")
    table.is_available = False
    with pytest.raises(DatabaseUnavailable):
        await table.session("s")


async def test_a_source_delivers_in_the_order_of_the_commits_and_forgets_when_it_is_lost() -> None:
    table = table_with("a", "b")
    source = MemorySource(table)
    with pytest.raises(RuntimeError, match="enter the hub"):
        source.deliver()
    async with Hub(WATCH, source=source, reader=table) as hub:
        await source.regain()
        subscription = hub.subscribe("s", lambda: None)
        await hub.join(subscription, None)
        first, second = table.begin(), table.begin()
        first.update("a", number=2)
        second.update("b", number=2)
        second.commit()
        first.commit()
        assert source.waiting == 2
        assert source.deliver(1) == 1
        assert b'"id":"b"' in subscription.drain()[0]
        source.lose()
        assert (source.waiting, source.is_listening, hub.is_live) == (0, False, False)
        with pytest.raises(DatabaseUnavailable):
            await source.flush()
        await source.regain()
        assert b'"id":"a"' in subscription.drain()[0]
        hub.unsubscribe(subscription)

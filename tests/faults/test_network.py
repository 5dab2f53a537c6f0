"""Connections that break, dribble and lag, and servers that are not there. Whatever they do, no row is lost."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest
from tests.conftest import Server, StartServer
from tests.faults.toxic import Toxic, toxic

from watching import Table, becomes, converges, following, reconnects, settles, table_of, token_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def lively_server(start_shared_server: StartServer) -> Server:
    """A server whose silence is noticed after four and a half seconds."""
    return start_shared_server(ROWCAST_HEARTBEAT_MS=1000)


@pytest.fixture
async def proxy(lively_server: Server) -> AsyncIterator[Toxic]:
    async with toxic(lively_server.url, receive_buffer=4096) as proxy:
        yield proxy


@pytest.fixture
async def table(lively_server: Server) -> AsyncIterator[Table]:
    async with table_of(lively_server.database_url) as table:
        yield table


@pytest.mark.fault(1)
async def test_a_server_that_is_killed_and_comes_back_is_found_within_two_seconds(start_server: StartServer) -> None:
    """Back is when it is ready: until then a balancer keeps clients away, as the proxy does here."""
    server = await asyncio.to_thread(start_server)
    async with table_of(server.database_url) as table, toxic(server.url) as proxy:
        kept, changed = await table.add(), await table.add()
        async with following(proxy.url, table.session, token_of(server)) as watcher:
            await settles(watcher, "live")
            await converges(watcher, table)
            await proxy.refuse()
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await settles(watcher, "reconnecting", within=1)
            await table.write(20, changed)
            await asyncio.sleep(2)
            await asyncio.to_thread(start_server, port=int(server.url.rpartition(":")[2]))
            await table.write(20, changed)
            await proxy.listen()
            took = await settles(watcher, "live", within=2.4)
            print(f"\nlive {took:.2f} s after the server was back")
            await converges(watcher, table, within=1)
        told = [change.row["request_id"] for change in watcher.changes]
        assert told.count(str(kept)) == 1  # it resumed from where it stood


@pytest.mark.fault(3)
async def test_a_server_that_is_away_for_long_is_never_given_up(
    lively_server: Server, proxy: Toxic, table: Table
) -> None:
    """Eight seconds stand for sixty: no wait is longer than half of what the outage has lasted, or two seconds.

    So what holds after eight seconds, to be back within four, says for sixty: within thirty, which is the cap.
    """
    key = await table.add()
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        await settles(watcher, "live")
        await proxy.refuse()
        proxy.reset()
        await settles(watcher, "reconnecting")
        away_since = time.monotonic()
        while time.monotonic() - away_since < 8:
            await table.write(1, key)
            assert watcher.live.status == "reconnecting"
            await asyncio.sleep(0.2)
        assert 4 <= watcher.live.reconnects <= 20
        await proxy.listen()
        await settles(watcher, "live", within=4.5)
        await converges(watcher, table, within=1)


@pytest.mark.fault(4)
async def test_a_reset_in_the_middle_costs_less_than_a_second(
    lively_server: Server, proxy: Toxic, table: Table
) -> None:
    keys = [await table.add() for _ in range(3)]
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        await settles(watcher, "live")
        await converges(watcher, table)
        writing = asyncio.create_task(table.write(200, *keys))
        before = len(watcher.changes)
        await becomes(lambda: len(watcher.changes) > before, what="the stream tells")
        proxy.reset()
        took = await reconnects(watcher, within=1)
        print(f"\nlive again {1000 * took:.0f} ms after the reset")
        await writing
        await converges(watcher, table, within=1)
        proxy.set("down", on="open", reset_after=100)
        await table.write(1, *keys)
        await reconnects(watcher, more_than=1, within=1.5)
        await converges(watcher, table, within=1)


@pytest.mark.fault(5)
@pytest.mark.parametrize("left", [1, 5, 120, 260])
async def test_a_frame_that_is_cut_is_discarded_and_told_again(
    lively_server: Server, proxy: Toxic, table: Table, left: int
) -> None:
    key = await table.add()
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        await settles(watcher, "live")
        await converges(watcher, table)
        told = len(watcher.changes)
        proxy.set("down", on="open", cut_after=left)
        await table.set(key, "in_progress")
        await becomes(lambda: watcher.live.reconnects, what="the stream is cut")
        assert len(watcher.changes) == told
        await converges(watcher, table, within=2)
    assert [change.row["status"] for change in watcher.changes] == ["pending", "in_progress"]


@pytest.mark.fault(8)
@pytest.mark.parametrize("split", [1, 2, 3])
async def test_bytes_may_come_one_by_one(lively_server: Server, proxy: Toxic, table: Table, split: int) -> None:
    proxy.set("down", split=split)
    keys = [await table.add() for _ in range(20)]
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        await converges(watcher, table, within=5)
        await table.write(20, *keys)
        await table.remove(keys[0])
        await converges(watcher, table, within=5)
    assert (watcher.live.reconnects, watcher.live.skipped) == (0, 0)


@pytest.mark.fault(9)
async def test_on_a_slow_link_the_newest_state_wins(lively_server: Server, proxy: Toxic, table: Table) -> None:
    """At 60,000 bytes a second four thousand states would take half a minute, were each of them told.

    What is on its way when the link turns slow has to arrive, and that is as much as the kernel's buffers take; at 200
    bytes a second nobody would wait for that, so the link is quicker here than on the worst of days.
    """
    key = await table.add()
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        await settles(watcher, "live")
        await converges(watcher, table)
        proxy.set("down", bytes_per_second=60_000)
        await table.connection.execute(
            f"""DO $$ BEGIN FOR i IN 1..4000 LOOP
                UPDATE request SET response = i::text WHERE request_id = '{key}'; COMMIT;
            END LOOP; END $$"""
        )
        took = await converges(watcher, table, within=20)
        print(f"\nthe newest of 4000 states came after {took:.1f} s, {len(watcher.changes)} were told")
    assert len(watcher.changes) < 3000
    assert watcher.live.reconnects == 0


@pytest.mark.fault(11)
async def test_a_long_way_is_not_taken_for_a_dead_end(lively_server: Server, proxy: Toxic, table: Table) -> None:
    proxy.set(delay_ms=300)
    key = await table.add()
    async with following(proxy.url, table.session, token_of(lively_server)) as watcher:
        assert await settles(watcher, "live", within=5) < 2.5
        began = time.monotonic()
        while time.monotonic() - began < 6:  # longer than the watchdog's patience
            await table.write(1, key)
            assert await converges(watcher, table, within=2) > 0.25
    assert watcher.live.reconnects == 0

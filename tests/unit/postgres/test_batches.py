"""Reads that wait share the next one; a read never began before it was asked for."""

import asyncio
from collections.abc import Mapping

import pytest

from rowcast.errors import DatabaseUnavailable
from rowcast.postgres.batches import Batches

pytestmark = pytest.mark.anyio


class Table:
    """Counts reads, and lets them go on one by one."""

    def __init__(self) -> None:
        self.begun: list[dict[str, int]] = []
        self.gates: list[asyncio.Future[None]] = []

    async def read(self, horizons: Mapping[str, int]) -> int:
        self.begun.append(dict(horizons))
        self.gates.append(asyncio.get_running_loop().create_future())
        number = len(self.begun)
        await self.gates[-1]
        return number

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.sleep(0)

    def end(self, number: int) -> None:
        self.gates[number - 1].set_result(None)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_whoever_asks_during_a_read_shares_the_next_one() -> None:
    table = Table()
    batches = Batches(table.read, at_once=1, sessions_each=100)
    first = asyncio.create_task(batches.read("a", 7))
    await table.until_begun(1)
    later = [asyncio.create_task(batches.read(session, horizon)) for session, horizon in (("a", 9), ("b", 5), ("a", 8))]
    await turn()
    assert table.begun == [{"a": 7}]
    table.end(1)
    assert await first == 1
    await table.until_begun(2)
    assert table.begun[1] == {"a": 8, "b": 5}
    table.end(2)
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_as_many_reads_run_as_may_and_none_is_too_long() -> None:
    table = Table()
    batches = Batches(table.read, at_once=2, sessions_each=3)
    asked = [asyncio.create_task(batches.read(f"s{number}", 1)) for number in range(8)]
    await turn()
    assert table.begun == [{"s0": 1}, {"s1": 1}]
    table.end(2)
    await table.until_begun(3)
    table.end(1)
    await table.until_begun(4)
    assert table.begun[2:] == [{"s2": 1, "s3": 1, "s4": 1}, {"s5": 1, "s6": 1, "s7": 1}]
    table.end(3)
    table.end(4)
    assert await asyncio.gather(*asked) == [1, 2, 3, 3, 3, 4, 4, 4]


async def test_a_read_that_fails_fails_for_those_who_share_it_and_no_others() -> None:
    table = Table()
    batches = Batches(table.read, at_once=1, sessions_each=100)
    first = asyncio.create_task(batches.read("a", 1))
    await table.until_begun(1)
    later = [asyncio.create_task(batches.read("b", 1)) for _ in range(2)]
    await turn()
    table.gates[0].set_exception(DatabaseUnavailable("gone"))
    with pytest.raises(DatabaseUnavailable, match="gone"):
        await first
    await table.until_begun(2)
    table.end(2)
    assert await asyncio.gather(*later) == [2, 2]


async def test_who_leaves_does_not_take_the_read_from_the_others() -> None:
    table = Table()
    batches = Batches(table.read, at_once=1, sessions_each=100)
    first, leaving, staying = (asyncio.create_task(batches.read("a", 1)) for _ in range(3))
    await turn()
    table.end(1)
    await table.until_begun(2)
    leaving.cancel()
    await turn()
    assert leaving.cancelled()
    table.end(2)
    assert (await first, await staying) == (1, 2)
    assert len(table.begun) == 2


async def test_whoever_waits_when_it_stops_is_told() -> None:
    table = Table()
    batches = Batches(table.read, at_once=1, sessions_each=100)
    running = asyncio.create_task(batches.read("a", 1))
    await table.until_begun(1)
    waiting = asyncio.create_task(batches.read("b", 1))
    await turn()
    await batches.stop()
    for task in (running, waiting):
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await task
    assert len(table.begun) == 1

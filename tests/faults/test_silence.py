"""Peers that fall silent without a word: the cable is out, the machine sleeps, the process is frozen."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.conftest import StartServer, wait_until
from tests.faults.toxic import toxic

from namespace import namespace, why_not
from watching import Table, becomes, converges, following, settles, table_of, token_of
from wire import metric

pytestmark = pytest.mark.anyio

WATCHDOG_SECONDS = 2.5 * 1 + 2
MAY_LAST = WATCHDOG_SECONDS + 1  # what came last may have come a heartbeat after the silence began
OPEN_STREAMS = "rowcast_streams"


async def stays_right_through_silence(
    url: str, table: Table, token: str, *, silence: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> None:
    """Follow; fall silent; expect the watchdog in time, and nothing lost once the silence is over."""
    key = await table.add()
    async with following(url, table.session, token) as watcher:
        await settles(watcher, "live")
        await converges(watcher, table)
        await silence()
        began = time.monotonic()
        await table.set(key, "in_progress")
        added = await table.add()
        await settles(watcher, "reconnecting", within=MAY_LAST)
        print(f"\nnoticed after {time.monotonic() - began:.1f} s")
        assert "silent" in watcher.live.reason
        assert time.monotonic() - began > WATCHDOG_SECONDS - 1.5
        await end()
        await settles(watcher, "live", within=10)
        await converges(watcher, table, within=1)
        await table.remove(added)
        await converges(watcher, table, within=1)


@asynccontextmanager
async def lively_server(start_server: StartServer, **settings: Any) -> AsyncIterator[tuple[Any, Table]]:
    server = await asyncio.to_thread(lambda: start_server(ROWCAST_HEARTBEAT_MS=1000, **settings))
    async with table_of(server.database_url) as table:
        yield server, table


async def now(_: None) -> None:
    """What has been done already."""


def freed(server: Any) -> bool:
    """Whether the server has none but the stream that is followed now."""
    return metric(server, OPEN_STREAMS) <= 1


@pytest.mark.fault(6)
async def test_a_stream_whose_network_is_gone_is_replaced_and_the_server_lets_go_of_it(
    start_server: StartServer,
) -> None:
    """The client lives in a network of its own, and its cable is pulled out: neither end gets an error."""
    reason = await asyncio.to_thread(why_not)
    must = bool(os.environ.get("TESTS_MUST_NOT_SKIP"))
    assert not (reason and must), f"fault 6 needs network namespaces here: {reason}"
    async with lively_server(start_server, ROWCAST_HOST="0.0.0.0", ROWCAST_WRITE_TIMEOUT_SECONDS=3) as (server, _):
        if reason:
            print(f"\nFAULT 6 IS SHOWN BY A PROXY ONLY, NOT BY A NETWORK: {reason}", file=sys.__stderr__)
            await through_a_proxy(server)
            return
        with namespace() as network:
            url = f"http://{network.here}:{server.url.rpartition(':')[2]}"
            home = asyncio.get_running_loop()

            async def at_home(work: Callable[[], None]) -> None:
                """What is done to the cable, and asked of the server, is not of that network."""
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.to_thread(work), home))

            def wait_and_plug_in() -> None:
                # The server notices by itself: its end has heard nothing, not even an error.
                wait_until(lambda: not metric(server, OPEN_STREAMS), what="the server lets go", seconds=3 + 5)
                network.plug_in()

            async def in_there() -> None:
                async with table_of(server.database_url) as table:
                    await stays_right_through_silence(
                        url,
                        table,
                        token_of(server),
                        silence=lambda: at_home(network.unplug),
                        end=lambda: at_home(wait_and_plug_in),
                    )

            await asyncio.to_thread(network.run, lambda: asyncio.run(in_there()))


async def through_a_proxy(server: Any) -> None:
    async with table_of(server.database_url) as table, toxic(server.url) as proxy:
        await stays_right_through_silence(
            proxy.url,
            table,
            token_of(server),
            silence=lambda: now(proxy.set(stall=True)),
            end=lambda: now(proxy.clear()),
        )


@pytest.mark.fault(6)
async def test_a_stream_that_a_proxy_has_forgotten_is_replaced(start_server: StartServer) -> None:
    """The proxy answers for the server: its connections stay open, and nothing comes through."""
    async with lively_server(start_server) as (server, table), toxic(server.url) as proxy:
        await stays_right_through_silence(
            proxy.url,
            table,
            token_of(server),
            silence=lambda: now(proxy.set(on="open", stall=True)),
            end=lambda: now(None),  # new connections work all the time
        )
        assert proxy.connections == 2


@pytest.mark.fault(7)
async def test_a_frozen_server_is_left_and_what_it_says_when_it_thaws_is_not_applied_twice(
    start_server: StartServer,
) -> None:
    """Frozen for as long as the watchdog takes and a while longer; another half minute would show nothing more."""
    async with lively_server(start_server) as (server, table):
        keys = [await table.add() for _ in range(3)]
        async with following(server.url, table.session, token_of(server)) as watcher:
            await settles(watcher, "live")
            await converges(watcher, table)
            server.process.send_signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                await table.write(30, *keys)
                await settles(watcher, "reconnecting", within=MAY_LAST)
                print(f"\nnoticed after {time.monotonic() - began:.1f} s")
                await asyncio.sleep(max(0.0, began + 7 - time.monotonic()))
            finally:
                server.process.send_signal(signal.SIGCONT)
            await settles(watcher, "live", within=10)
            await converges(watcher, table, within=2)
            await becomes(lambda: asyncio.to_thread(freed, server), what="the server lets go of the old stream")
            await table.write(3, *keys)
            await converges(watcher, table, within=1)
        told = [(change.row["request_id"], change.row["version"]) for change in watcher.changes]
        assert len(told) == len(set(told))

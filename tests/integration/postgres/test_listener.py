"""What the listener does with a burst: ten thousand notifications of one commit."""

import asyncio

import asyncpg
import pytest
import uvloop

from rowcast import Hub, LatestByRow, NullMetrics
from rowcast.postgres import Listener, PostgresReader
from rowcast.postgres.inbox import MOST_WAITING, TURN
from rowcast.service.store import REQUESTS

ROWS = 10_000


class Counting(NullMetrics):
    """Counts what is heard, in all and since the loop made a turn."""

    def __init__(self) -> None:
        self.heard = self.since_turn = self.most = 0

    def notification(self, outcome: str) -> None:
        assert outcome == "delivered"
        self.heard += 1
        self.since_turn += 1
        self.most = max(self.most, self.since_turn)


@pytest.mark.fault(61)
def test_a_burst_is_taken_in_by_small_shares(service_database: str) -> None:
    """With the loop of the server, which reads more at once than the standard library's."""
    uvloop.run(_burst(service_database))


async def _burst(dsn: str) -> None:
    writer, metrics = await asyncpg.connect(dsn), Counting()
    session = await writer.fetchval("INSERT INTO session (user_owner) VALUES ('a') RETURNING session_id::text")
    await writer.execute(
        "INSERT INTO request (session_id, request) SELECT $1::text::uuid, 'x' FROM generate_series(1, $2)",
        session,
        ROWS,
    )
    loop, source, most_pending = asyncio.get_running_loop(), Listener(dsn, REQUESTS), 0
    async with Hub(REQUESTS, source=source, reader=PostgresReader(dsn, REQUESTS), metrics=metrics) as hub:
        async with asyncio.timeout(10):
            while not hub.is_live:
                await asyncio.sleep(0.01)
        subscription = hub.subscribe(session, lambda: None)
        subscription.finish_join(LatestByRow())
        told: list[bytes] = []
        is_over = False

        def turn() -> None:
            nonlocal most_pending
            metrics.since_turn = 0
            frames = subscription.drain()
            most_pending = max(most_pending, len(frames))
            told.extend(frames)
            if not is_over:
                loop.call_soon(turn)

        turn()
        await writer.execute("UPDATE request SET response = 'x' WHERE session_id = $1::text::uuid", session)
        await source.flush()
        # Whoever has heard the probe behind it has heard all of it: nothing is left in between.
        assert metrics.heard == ROWS
        is_over = True
        told.extend(subscription.drain())
        assert len(told) == ROWS
        assert subscription.resync is None, "it never waited for more than it may"
        hub.unsubscribe(subscription)
    await writer.close()
    print(f"\nat most {metrics.most} in a turn")
    assert metrics.most <= 2 * TURN  # a share may begin in the middle of a turn
    assert most_pending <= MOST_WAITING

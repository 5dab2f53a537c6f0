"""The oracle of `tests/unit/test_order_machine.py` on real parts: PostgreSQL, two server processes, real sockets.

Writers hold transactions open at random, roll back, use savepoints, delete, move rows between sessions and try ended
requests again; `psql` writes too. Clients cut their streams at random bytes, resume, poll in every mode, and hand over
from one to the other. At the end each client must show what SELECT shows, and never have gone back.

ORDER_SECONDS makes it last longer, ORDER_SEED chooses another run.
"""

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from follower import Follower

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("ORDER_SECONDS", "15"))
SEED = int(os.environ.get("ORDER_SEED", "1"))
WRITERS, CLIENTS = 8, 42
NEXT = {"pending": "in_progress", "in_progress": "done", "done": "pending", "error": "pending"}
REFUSED = (
    asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,
)  # fmt: skip


class Writers:
    def __init__(self, dsn: str, sessions: list[str], dice: random.Random) -> None:
        self.dsn = dsn
        self.sessions = sessions
        self.dice = dice
        self.counts: Counter[str] = Counter()
        self.stopping = asyncio.Event()

    async def write(self) -> None:
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("SET lock_timeout = '300ms'")
        try:
            while not self.stopping.is_set():
                with suppress(*REFUSED):
                    await self.transaction(connection)
                await self.pause(0.02)
        finally:
            await connection.close()

    async def pause(self, longest: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), self.dice.uniform(0, longest))

    async def transaction(self, connection: Any) -> None:
        isolation = self.dice.choice(["read_committed", "read_committed", "repeatable_read", "serializable"])
        transaction = connection.transaction(isolation=isolation)
        await transaction.start()
        try:
            for _ in range(self.dice.choice([1, 1, 2, 4, 8])):
                if self.dice.random() < 0.2:
                    savepoint = connection.transaction()
                    await savepoint.start()
                    await self.change(connection)
                    await (savepoint.rollback if self.dice.random() < 0.5 else savepoint.commit)()
                else:
                    await self.change(connection)
                if self.dice.random() < 0.2:
                    await self.pause(0.05)
            if self.dice.random() < 0.05:
                await self.pause(1.5)
        except BaseException:
            await transaction.rollback()
            self.counts["refused"] += 1
            raise
        if self.dice.random() < 0.15:
            await transaction.rollback()
            self.counts["rolled back"] += 1
        else:
            await transaction.commit()
            self.counts["committed"] += 1

    async def change(self, connection: Any) -> None:
        self.counts["changes"] += 1
        session = self.dice.choice(self.sessions)
        row = await connection.fetchrow(
            "SELECT request_id, status::text AS status FROM request WHERE session_id = $1::text::uuid"
            " ORDER BY md5(request_id::text || $2) LIMIT 1 FOR UPDATE SKIP LOCKED",
            session,
            str(self.dice.random()),
        )
        kind = self.dice.random()
        if row is None or kind < 0.08:
            await connection.execute("INSERT INTO request (session_id, request) VALUES ($1::text::uuid, 'x')", session)
        elif kind < 0.14:
            await connection.execute("DELETE FROM request WHERE request_id = $1", row["request_id"])
        elif kind < 0.24:
            await connection.execute(
                "UPDATE request SET session_id = $2::text::uuid, sequence_number = $3 WHERE request_id = $1",
                row["request_id"],
                self.dice.choice(self.sessions),
                self.dice.randrange(1_000_000, 2_000_000_000),
            )
        elif kind < 0.5:
            await connection.execute(
                "UPDATE request SET response = $2 WHERE request_id = $1", row["request_id"], str(self.dice.random())
            )
        else:
            await connection.execute("SET LOCAL rowcast.retry = 'on'")
            await connection.execute(
                "UPDATE request SET status = $2::text::request_status WHERE request_id = $1 AND status::text = $3",
                row["request_id"],
                NEXT[row["status"]],
                row["status"],
            )

    async def psql(self) -> None:
        """An external writer, in no language of ours."""
        program = shutil.which("psql")
        if program is None:
            return
        process = await asyncio.create_subprocess_exec(
            program, "-X", "-q", "-d", self.dsn, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.stdin.write(b"SET lock_timeout = '100ms';\n")
        while not self.stopping.is_set():
            process.stdin.write(
                b"UPDATE request SET error = md5(random()::text) WHERE request_id ="
                b" (SELECT request_id FROM request ORDER BY random() LIMIT 1);\n"
            )
            await process.stdin.drain()
            self.counts["by psql"] += 1
            await self.pause(0.05)
        process.stdin.close()
        await process.wait()


async def live(client: Follower, kind: int, dice: random.Random, writers: Writers, goals: dict[str, Any]) -> None:
    """Follow the session as one kind of client does, then converge by the means of that kind."""
    polls = [{"delta": False}, {"delta": True}, {"delta": False, "wait": 1}, {"delta": True, "wait": 1}]
    while not writers.stopping.is_set() and kind != 0:
        if kind in (1, 2) or (kind == 5 and dice.random() < 0.5):
            cut = int(dice.expovariate(1 / dice.choice([400, 4000, 40_000, 400_000]))) + 1
            await client.follow(cut_after=cut, until=writers.stopping.is_set, by_header=kind == 1)
        else:
            await client.poll(**(polls[kind - 3] if kind in (3, 4) else dice.choice(polls)))
        await writers.pause(0.1)

    def is_there() -> bool:
        return bool(goals) and client.versions == goals[client.session]

    if kind in (3, 4):
        while not is_there():
            await client.poll(**polls[kind - 3 + 2 * dice.randrange(2)])
            await asyncio.sleep(0.05)  # what a polling client does
    while not is_there():
        await client.follow(until=is_there)


async def test_clients_converge_whatever_is_interleaved(open_place: Callable[..., Any], source: str) -> None:
    dice = random.Random(SEED)
    place = await open_place(workers=2, ROWCAST_SOURCE=source)
    sessions = [await place.session() for _ in range(4)]
    for session in sessions:
        for _ in range(12):
            await place.request(session)
    writers = Writers(place.server.database_url, sessions, dice)
    goals: dict[str, Any] = {}
    clients = [place.follower(sessions[number % len(sessions)]) for number in range(CLIENTS)]
    following = [
        asyncio.create_task(live(client, number % 6, dice, writers, goals)) for number, client in enumerate(clients)
    ]
    writing = [asyncio.create_task(writers.write()) for _ in range(WRITERS)] + [asyncio.create_task(writers.psql())]

    await asyncio.wait([*following, *writing], timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    writers.stopping.set()
    await asyncio.gather(*writing)
    # Whoever sees nothing new would never look at the goal: say something to everybody once more.
    for session in sessions:
        await place.request(session)
    goals.update({session: await place.versions(session) for session in sessions})
    done, _ = await asyncio.wait(following, timeout=30)

    counts = sum((client.counts for client in clients), Counter[str]())
    lost = 0
    for client in clients:
        stored = goals[client.session]
        lost += sum(client.versions.get(key) != version for key, version in stored.items())
        lost += len(client.versions.keys() - stored.keys())
    print(f"\nwrote {dict(writers.counts)}\nsaw {dict(counts)}")
    print(f"lost {lost}, stale {counts['stale']}, duplicate {counts['duplicate']}, applied {counts['applied']}")
    print("sweep_found", [line for line in metrics(place).splitlines() if line.startswith("rowcast_sweep_found_total")])
    for number, task in enumerate(following):
        if task in done:
            task.result()
        else:
            task.print_stack()
            print("stuck", number % 6, clients[number].status, clients[number].counts)
    assert lost == 0
    assert len(done) == len(clients)
    assert counts["applied"] > 0
    assert "rowcast_sweep_found_total 0.0" in metrics(place)


def metrics(place: Any) -> str:
    with place.server.client() as client:
        return str(client.get("/metrics").text)

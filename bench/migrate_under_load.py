"""What the migration that makes requests watchable costs whoever writes at the time.

    python bench/migrate_under_load.py --rows 1000000 --writers 8

Starts a PostgreSQL of its own in a temporary directory, fills the service's table, has writers update random rows one
by one, each in a transaction of its own, and runs the migration up and down beneath them. Prints how long each
direction took, the longest time any writer waited for one UPDATE, UPDATEs a second before, during and after, and
whether the table was rewritten (its relfilenode would change).
"""

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from uuid import UUID

import asyncpg
from alembic import command
from alembic.config import Config

from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations

FIRST, NOTIFY = "c3a1d0f4b2e7", "b725927e9e64"
ROWS_A_SESSION = 100
SETTINGS = {"max_wal_size": "4GB", "shared_buffers": "256MB", "checkpoint_timeout": "30min"}

Sample = tuple[float, float]  # when an UPDATE ended (time.monotonic), how many seconds it took


def write(dsn: str, rows: int, seed: int, stop: Event, results: Connection) -> None:
    """Update random rows until told to stop, in a process of its own; every second update is a watched change."""
    dice = random.Random(seed)

    async def run() -> list[Sample]:
        connection = await asyncpg.connect(dsn)
        watched = await connection.prepare("UPDATE request SET response = $2 WHERE request_id = $1")
        unwatched = await connection.prepare("UPDATE request SET review = $2 WHERE request_id = $1")
        samples = []
        results.send("ready")
        while not stop.is_set():
            statement = watched if dice.random() < 0.5 else unwatched
            started = time.monotonic()
            await statement.fetch(UUID(int=dice.randint(1, rows)), str(dice.random()))
            ended = time.monotonic()
            samples.append((ended, ended - started))
        await connection.close()
        return samples

    results.send(asyncio.run(run()))


async def fill(dsn: str, rows: int) -> None:
    """Insert requests in sessions of a hundred, with the triggers off."""
    connection = await asyncpg.connect(dsn)
    sessions = -(-rows // ROWS_A_SESSION)
    await connection.execute(f"""
        ALTER TABLE request DISABLE TRIGGER ALL;
        INSERT INTO session (session_id, user_owner)
            SELECT lpad(to_hex(i), 32, '0')::uuid, 'bench|1' FROM generate_series(1, {sessions}) AS i;
        INSERT INTO request (request_id, session_id, sequence_number, request, response)
            SELECT lpad(to_hex(i), 32, '0')::uuid, lpad(to_hex(i % {sessions} + 1), 32, '0')::uuid, i, 'question',
                repeat('x', 200) FROM generate_series(1, {rows}) AS i;
        ALTER TABLE request ENABLE TRIGGER ALL
    """)
    await connection.execute("VACUUM ANALYZE request")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def storage(dsn: str) -> int:
    """The file that holds the table; another one after a rewrite."""
    connection = await asyncpg.connect(dsn)
    number = await connection.fetchval("SELECT relfilenode FROM pg_class WHERE oid = 'request'::regclass")
    await connection.close()
    return int(number)


def measure(dsn: str, rows: int, writers: int, quiet_seconds: float, migrate: Callable[[], None]) -> str:
    """Run `migrate` beneath writers and describe what they saw."""
    context = multiprocessing.get_context("spawn")
    stop, processes, pipes = context.Event(), [], []
    for seed in range(writers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=write, args=(dsn, rows, seed, stop, theirs))
        process.start()
        processes.append(process)
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    time.sleep(quiet_seconds)
    before = asyncio.run(storage(dsn))
    began = time.monotonic()
    migrate()
    ended = time.monotonic()
    time.sleep(quiet_seconds)
    stop.set()
    samples = [sample for pipe in pipes for sample in pipe.recv()]
    for process in processes:
        process.join()

    def during(start: float, end: float) -> str:
        some = [seconds for at, seconds in samples if start <= at < end]
        worst = max(some, default=0) * 1000
        return f"{len(some) / (end - start):,.0f} UPDATEs/s, longest {worst:,.0f} ms"

    after = asyncio.run(storage(dsn))
    return "\n".join(
        [
            f"  took            {ended - began:.1f} s",
            f"  before          {during(began - quiet_seconds, began)}",
            f"  during          {during(began, ended)}",
            f"  after           {during(ended, ended + quiet_seconds)}",
            f"  table rewritten {'no' if after == before else 'YES'}",
        ]
    )


def main() -> None:
    """Run it and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10, help="how long to watch before and after")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="rowcast-bench-") as directory,
        EmbeddedPostgres(Path(directory, "data"), settings=SETTINGS) as server,
    ):
        dsn = server.dsn()
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["dsn"] = dsn
        command.upgrade(config, FIRST)
        asyncio.run(fill(dsn, options.rows))
        print(f"{options.rows:,} rows, {options.writers} writers")
        for name, migrate in (("up", command.upgrade), ("down", command.downgrade)):
            revision = NOTIFY if name == "up" else FIRST
            result = measure(
                dsn, options.rows, options.writers, options.seconds, lambda m=migrate, r=revision: m(config, r)
            )
            print(f"{name}\n{result}", flush=True)


if __name__ == "__main__":
    main()

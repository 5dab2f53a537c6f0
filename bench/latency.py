"""How long a committed change takes to reach its streams, beside a bare LISTEN callback in the same run.

    python bench/latency.py                      # 1, 100, 1,000 and 5,000 streams, one session each
    python bench/latency.py --streams 10000 --fan-out   # all on one session: when has the last one heard?

A writer sends UPDATEs one by one; the clock starts when the UPDATE is sent, so its own round trip is included for
everybody. The bare callback is asyncpg's `add_listener` in the process of the clients: what anybody would get who does
nothing with what is heard. Absolute figures belong to the machine; the ratio belongs to the code.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from rowcast.http import GuestTokens, SigningKey
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations

PORT = 8765
READY = b"event: synced"
UPDATE = b"event: request_update"


@dataclass
class Clock:
    """When the current change was heard, by streams and by the bare callback."""

    expected: int = 1
    streams: list[float] = field(default_factory=list)
    bare: float | None = None
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self, expected: int) -> None:
        self.expected, self.bare = expected, None
        self.streams.clear()
        self.complete.clear()

    def stream_heard(self) -> None:
        self.streams.append(time.perf_counter())
        self.check()

    def bare_heard(self, *_: object) -> None:
        self.bare = time.perf_counter()
        self.check()

    def check(self) -> None:
        if len(self.streams) >= self.expected and self.bare is not None:
            self.complete.set()


class StreamClient(asyncio.Protocol):
    """One open stream; counts frames and keeps nothing."""

    def __init__(self, session: uuid.UUID, token: str, clock: Clock) -> None:
        head = [
            f"GET /api/sse/{session}?proto=1&hb=60000 HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {token}",
        ]
        self.request = "\r\n".join([*head, "", ""])
        self.clock = clock
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if UPDATE in data:
            self.clock.stream_heard()
        elif READY in data and not self.ready.done():
            self.ready.set_result(None)
        elif b" 200 " not in data and not self.ready.done():
            self.ready.set_exception(RuntimeError(data[:200].decode(errors="replace")))


async def measure(dsn: str, token: str, *, streams: int, changes: int, pause: float, fan_out: bool) -> None:
    sessions = [uuid.uuid4() for _ in range(1 if fan_out else streams)]
    database = await asyncpg.connect(dsn)
    listener = await asyncpg.connect(dsn)
    clock = Clock()
    await database.executemany(
        "INSERT INTO session (session_id, user_owner) VALUES ($1, 'guest|bench')", [(each,) for each in sessions]
    )
    await database.executemany(
        "INSERT INTO request (session_id, request) VALUES ($1, 'bench')", [(each,) for each in sessions]
    )
    await listener.add_listener("request_update", clock.bare_heard)
    loop = asyncio.get_running_loop()
    transports = []
    for start in range(0, streams, 100):
        watched = [sessions[number % len(sessions)] for number in range(start, min(start + 100, streams))]
        clients = [StreamClient(session, token, clock) for session in watched]
        transports += [(await loop.create_connection(lambda c=client: c, "127.0.0.1", PORT))[0] for client in clients]
        await asyncio.gather(*(client.ready for client in clients))

    first, last, bare = [], [], []
    for number in range(changes):
        clock.reset(streams if fan_out else 1)
        sent = time.perf_counter()
        await database.execute(
            "UPDATE request SET response = $2 WHERE session_id = $1",
            sessions[number * 7919 % len(sessions)],
            str(number),
        )
        async with asyncio.timeout(30):
            await clock.complete.wait()
        first.append(min(clock.streams) - sent)
        last.append(max(clock.streams) - sent)
        bare.append((clock.bare or sent) - sent)
        await asyncio.sleep(pause)
    memory = await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowcast-listener'"
    )
    report(streams, "last of all" if fan_out else "its stream", last, bare, backends=memory)
    for transport in transports:
        transport.abort()
    await listener.close()
    await database.close()


def report(streams: int, who: str, heard: Sequence[float], bare: Sequence[float], *, backends: int) -> None:
    def spread(values: Sequence[float]) -> tuple[float, float]:
        cuts = statistics.quantiles(values, n=100)
        return cuts[49] * 1000, cuts[98] * 1000

    (p50, p99), (bare50, bare99) = spread(heard), spread(bare)
    print(
        f"{streams:>7} streams  {who:<12} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms   "
        f"bare LISTEN p50 {bare50:6.2f} ms  p99 {bare99:6.2f} ms   ratio {p50 / bare50:5.2f} / {p99 / bare99:5.2f}   "
        f"listener backends {backends}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000, 5000])
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between changes")
    parser.add_argument("--fan-out", action="store_true", help="all streams on one session")
    chosen = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))

    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "data") as postgres:
        dsn = postgres.create_database("bench")
        migrations.migrate(dsn)
        key_file = Path(folder) / "key.pem"
        key = SigningKey.generate().save(key_file)
        environment = os.environ | {
            "ROWCAST_DATABASE_URL": dsn,
            "ROWCAST_SIGNING_KEY_FILE": str(key_file),
            "ROWCAST_GUEST_ENABLED": "true",
            "ROWCAST_STREAMS_PER_OWNER": "100000",
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "rowcast.cli", "serve", "--port", str(PORT)],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            token, _ = GuestTokens(key).issue_for("bench")
            asyncio.run(wait_for_server())
            for streams in chosen.streams:
                asyncio.run(
                    measure(
                        dsn, token, streams=streams, changes=chosen.changes, pause=chosen.pause, fan_out=chosen.fan_out
                    )
                )
        finally:
            server.terminate()
            server.wait()


async def wait_for_server() -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", PORT)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()

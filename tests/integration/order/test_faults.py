"""Faults of order, one by one, with a real server and a real database."""

import asyncio
import itertools
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from follower import Follower

pytestmark = pytest.mark.anyio

MALFORMED = 'rowcast_notifications_total{outcome="malformed"}'


async def converge(client: Follower, goal: dict[str, int], *, seconds: float = 10, **how: Any) -> None:
    """Follow until the client shows `goal`."""
    async with asyncio.timeout(seconds):
        while client.versions != goal:
            await client.follow(until=lambda: client.versions == goal, **how)


async def begun(client: Follower) -> "asyncio.Task[None]":
    """Follow in the background, from the moment the stream is live, until cancelled."""
    live = asyncio.Event()
    seen = client.counts["synced"]

    def is_live() -> bool:
        if client.counts["synced"] > seen:
            live.set()
        return False

    task = asyncio.create_task(client.follow(until=is_live))
    async with asyncio.timeout(10):
        await live.wait()
    return task


async def until(is_true: Callable[[], object], what: str) -> None:
    """Wait for a fact that frames of a followed stream bring about."""
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.005)


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def notes(client: Follower) -> list[tuple[str, str, int]]:
    """Return name, row and version of every change that was heard live."""
    return [
        (name, data["request_id"], data["version"])
        for name, data in client.seen
        if name in ("request_update", "request_removed")
    ]


@pytest.mark.fault(30)
async def test_the_first_writer_commits_last_and_the_client_reconnects_between(place: Any) -> None:
    session = await place.session()
    slow, quick = await place.request(session), await place.request(session)
    client = place.follower(session)
    await converge(client, await place.versions(session))
    late = await place.connect()
    async with late.transaction():
        await late.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", slow)
        await place.writer.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", quick)
        await converge(client, await place.versions(session))
        assert client.rows[quick]["status"] == "in_progress"
        beats = client.counts["heartbeat"]  # its cursor is the newest there is
        await client.follow(until=lambda: client.counts["heartbeat"] > beats)
    await late.close()
    await converge(client, await place.versions(session))
    assert client.rows[slow]["status"] == "in_progress"
    assert client.counts["snapshot"] == 1
    assert client.counts["stale"] == 0


@pytest.mark.fault(31)
@pytest.mark.parametrize("by_header", [True, False])
async def test_what_is_committed_between_page_load_and_connect_is_told_once(place: Any, by_header: bool) -> None:
    session = await place.session()
    changed, deleted = await place.request(session), await place.request(session)
    client = place.follower(session)
    assert await client.poll() == 200
    await place.writer.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", changed)
    await place.writer.execute("DELETE FROM request WHERE request_id = $1::text::uuid", deleted)
    added = await place.request(session)
    client.is_noting = True
    await converge(client, await place.versions(session), by_header=by_header)
    assert sorted(key for _, key, _ in notes(client)) == sorted([changed, deleted, added])
    assert client.counts["snapshot"] == 0


@pytest.mark.fault(32)
async def test_a_thousand_updates_of_one_row_end_with_the_last(place: Any) -> None:
    session = await place.session()
    request = await place.request(session)
    client = place.follower(session)
    task = await begun(client)
    client.is_noting = True
    await place.writer.execute(
        f"""DO $$ BEGIN FOR i IN 1..1000 LOOP
            UPDATE request SET response = i::text WHERE request_id = '{request}'; COMMIT;
        END LOOP; END $$"""
    )
    began = time.monotonic()
    goal = await place.versions(session)
    await until(lambda: client.versions == goal, "the final state arrives")
    print(f"\nthe final state came {1000 * (time.monotonic() - began):.0f} ms after the last commit")
    assert time.monotonic() - began < 2
    versions = [version for _, _, version in notes(client)]
    assert all(earlier < later for earlier, later in itertools.pairwise(versions))
    await ended(task)


@pytest.mark.fault(32)
async def test_a_thousand_updates_at_once_are_told_merged(place: Any) -> None:
    session = await place.session()
    request = await place.request(session)
    client = place.follower(session)
    task = await begun(client)
    client.is_noting = True
    await place.writer.execute(
        f"""DO $$ BEGIN FOR i IN 1..1000 LOOP
            UPDATE request SET response = i::text WHERE request_id = '{request}';
        END LOOP; END $$"""
    )
    goal = await place.versions(session)
    await until(lambda: client.versions == goal, "the final state arrives")
    print(f"\n1000 updates were {len(notes(client))} frames")
    assert len(notes(client)) < 200
    assert client.counts["stale"] == 0
    await ended(task)


@pytest.mark.fault(33)
async def test_what_is_rolled_back_is_never_told(place: Any) -> None:
    session = await place.session()
    kept, undone = await place.request(session), await place.request(session)
    client = place.follower(session)
    task = await begun(client)
    client.is_noting = True
    transaction = place.writer.transaction()
    await transaction.start()
    await place.writer.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", undone)
    await transaction.rollback()
    async with place.writer.transaction():
        savepoint = place.writer.transaction()
        await savepoint.start()
        await place.writer.execute("DELETE FROM request WHERE request_id = $1::text::uuid", undone)
        await savepoint.rollback()
        await place.writer.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", kept)
    goal = await place.versions(session)
    await until(lambda: client.versions == goal, "the change behind it arrives")
    assert [key for _, key, _ in notes(client)] == [kept]
    await ended(task)


@pytest.mark.fault(60)
async def test_nobody_waits_for_a_long_transaction(place: Any) -> None:
    session = await place.session()
    held, *others = [await place.request(session) for _ in range(4)]
    stayer, comer = place.follower(session), place.follower(session)
    task = await begun(stayer)
    late = await place.connect()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", held)
    slowest = 0.0
    for number in range(20):
        began = time.monotonic()
        await place.writer.execute(
            "UPDATE request SET response = $2 WHERE request_id = $1::text::uuid", others[number % 3], str(number)
        )
        goal = await place.versions(session)
        await until(lambda goal=goal: stayer.versions == goal, "the stream shows the change")  # type: ignore[misc]
        await converge(comer, goal)
        await converge(place.follower(session), goal)
        slowest = max(slowest, time.monotonic() - began)
    assert stayer.rows[held]["status"] == comer.rows[held]["status"] == "pending"
    await transaction.commit()
    await late.close()
    goal = await place.versions(session)
    await until(lambda: stayer.versions == goal, "the late change arrives")
    await converge(comer, goal)
    print(f"\nslowest of 20 changes: {1000 * slowest:.0f} ms")
    assert slowest < 5
    assert stayer.counts["stale"] == comer.counts["stale"] == 0
    await ended(task)


@pytest.mark.fault(61)
async def test_ten_thousand_rows_change_at_once(place: Any) -> None:
    sessions = [await place.session() for _ in range(3)]
    for session in sessions:
        await place.writer.execute(
            "INSERT INTO request (session_id, request, sequence_number)"
            " SELECT $1::text::uuid, 'x', n FROM generate_series(1, 3334) AS n",
            session,
        )
    clients = [place.follower(session) for session in sessions for _ in range(2)]
    tasks = [await begun(client) for client in clients]
    for client in clients:
        client.is_noting = True
    applied = [client.counts["applied"] for client in clients]
    async with asking_all_the_time(place) as answers:
        await asyncio.sleep(1)
        quiet = await answers()
        await place.writer.execute(
            "UPDATE request SET status = 'in_progress' WHERE session_id = ANY ($1::text[]::uuid[])", sessions
        )
        goals = {session: await place.versions(session) for session in sessions}
        await until(lambda: all(client.versions == goals[client.session] for client in clients), "all rows arrived")
        busy = await answers()
    for client, before in zip(clients, applied, strict=True):
        assert client.counts["applied"] - before == 3334
        updates = [key for name, key, _ in notes(client)]
        assert len(updates) == len(set(updates)), "a row was told twice for one commit"
        assert client.counts["stale"] == 0
    snapshots = sum(client.counts["resync"] for client in clients)
    print(f"\nslowest answers in ms: {busy[-4:]}, when nothing happened {quiet[-4:]}; {snapshots} started over")
    # Python's own full collections of garbage, which come when they come, are the two that may take longer.
    assert busy[-3] < 100 + 2 * quiet[-3]
    for task in tasks:
        await ended(task)


ASK = """
import socket, sys, threading, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
took = [0.0] * 4
def tell():
    for _ in sys.stdin:
        print(*sorted(took)[-100:], flush=True)
        took[:] = [0.0] * 4
threading.Thread(target=tell).start()
while threading.active_count() > 1:
    began = time.monotonic()
    connection.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    connection.recv(65536)
    took.append(round(1000 * (time.monotonic() - began), 1))
"""


@asynccontextmanager
async def asking_all_the_time(place: Any) -> AsyncIterator[Callable[[], Awaitable[list[float]]]]:
    """Have another process ask for nothing, again and again; return what says how many ms the slowest answers took."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK, place.server.url.rpartition(":")[2],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    async def answers() -> list[float]:
        """The slowest since the last call, the slowest last."""
        process.stdin.write(b"\n")
        return [float(number) for number in (await process.stdout.readline()).split()]

    try:
        await answers()
        yield answers
    finally:
        process.stdin.close()
        await process.wait()


@pytest.mark.fault(65)
@pytest.mark.parametrize("mode", ["stream", "delta", "full"])
async def test_what_went_while_the_client_was_away_goes_and_what_returns_is_shown(place: Any, mode: str) -> None:
    session, elsewhere = await place.session(), await place.session()
    deleted, moved, back, kept = [await place.request(session) for _ in range(4)]
    client, other = place.follower(session), place.follower(elsewhere)
    await converge(client, await place.versions(session))
    await converge(other, {}) if mode == "stream" else await other.poll()
    await place.writer.execute("DELETE FROM request WHERE request_id = ANY ($1::uuid[])", [deleted, back])
    await place.writer.execute(
        "UPDATE request SET session_id = $2::text::uuid WHERE request_id = $1::text::uuid", moved, elsewhere
    )
    await place.writer.execute(
        "INSERT INTO request (request_id, session_id, request) VALUES ($1::text::uuid, $2::text::uuid, 'again')",
        back, session,
    )  # fmt: skip
    for reader in (client, other):
        if mode == "stream":
            await converge(reader, await place.versions(reader.session))
        else:
            assert await reader.poll(delta=mode == "delta") == 200
            assert reader.versions == await place.versions(reader.session)
    assert client.rows.keys() == {back, kept}
    assert other.rows.keys() == {moved}
    assert client.counts["stale"] == 0


@pytest.mark.fault(65)
@pytest.mark.parametrize("mode", ["connected", "away", "delta"])
async def test_a_truncated_table_is_empty_for_everybody(place: Any, mode: str) -> None:
    session = await place.session()
    for _ in range(3):
        await place.request(session)
    client = place.follower(session)
    await converge(client, await place.versions(session))
    task = await begun(client) if mode == "connected" else None
    await place.writer.execute("TRUNCATE request CASCADE")
    again = await place.request(session)
    goal = await place.versions(session)
    if task is not None:
        await until(lambda: client.versions == goal, "the table is empty but for the new row")
        await ended(task)
    elif mode == "away":
        await converge(client, goal)
    else:
        await client.poll(delta=True)
    assert client.versions == goal
    assert goal.keys() == {again}


@pytest.mark.fault(67)
async def test_forged_notifications_break_nothing(place: Any, source: str) -> None:
    before = metric(place, MALFORMED)
    session = await place.session()
    request = await place.request(session)
    client = place.follower(session)
    task = await begun(client)
    row = f'"request_id":"{request}","session_id":"{session}"'
    malformed = [
        "", "garbage", "null", "[]", "{}", "7", '"x"', "{" * 3000, "[" * 7000, '{"horizon":"1"}',
        f'{{{row},"version":9007199254740991}}',
        f'{{{row},"version":9007199254740993,"horizon":"1"}}',
        f'{{{row},"version":1.5,"horizon":"1"}}',
        f'{{{row},"version":true,"horizon":"1"}}',
        f'{{{row},"version":-1,"horizon":"1"}}',
        f'{{{row},"version":1,"horizon":"-1"}}',
        f'{{{row},"version":1,"horizon":"99999999999999999999"}}',
        f'{{{row},"version":1,"horizon":1}}',
        f'{{{row},"version":9007199254740991,"horizon":"1","updated_at":NaN}}',
        f'{{{row},"version":9007199254740991,"horizon":"1","updated_at":1e999}}',
        f'{{{row},"version":9007199254740991,"horizon":"1","more":{{"deep":[]}}}}',
        f'{{"request_id":7,"session_id":"{session}","version":1,"horizon":"1"}}',
        '{"reread":true,"horizon":"1"}', '{"reread":true,"session_id":7,"horizon":"1"}',
    ]  # fmt: skip
    harmless = [
        f'{{{row},"version":1,"horizon":"18446744073709551615"}}',
        f'{{{row},"version":1,"removed":true,"horizon":"1"}}',
        '{"request_id":"x","session_id":"nobody","version":1,"horizon":"1"}',
        f'{{"request_id":"\\ud800","session_id":"{session}","version":1,"horizon":"1"}}',
        '{"reread":true,"session_id":"nobody","horizon":"1"}',
        f'{{"reread":true,"session_id":"{session}","horizon":"1"}}',
        '{"truncated":true,"horizon":"1"}',
    ]
    for payload in (*malformed, *harmless):
        await place.writer.execute("SELECT pg_notify('request_update', $1)", payload)
    await place.writer.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1::text::uuid", request)
    goal = await place.versions(session)
    await until(lambda: goal.items() <= client.versions.items(), "the real change arrives")
    await until(lambda: client.versions == goal, "what never was has gone")
    await ended(task)
    await converge(client, goal)
    await converge(place.follower(session), goal)
    # Who does not listen has not heard them.
    assert metric(place, MALFORMED) - before == (len(malformed) if source == "notify" else 0)
    assert "Traceback" not in place.server.log


def metric(place: Any, name: str) -> float:
    with place.server.client() as client:
        match = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(match[1]) if match else 0.0

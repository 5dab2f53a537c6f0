"""What the channel is told: identifiers and flags, in the order of commits, whatever the row holds."""

import asyncio
import json
import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import JOBS, Lab
from rowcast import Watch
from rowcast.postgres import install
from rowcast.postgres.notification import parse

pytestmark = pytest.mark.anyio

FIELDS = {
    "request_id",
    "session_id",
    "status",
    "updated_at",
    "has_response",
    "has_error",
    "sequence_number",
    "version",
    "terminal",
    "horizon",
}
NOTES = Watch(table="note", key="id", session="room", key_type="integer", session_type="text", status="mood")


async def add_request(lab: Lab, session: UUID, text: str = "what?") -> Any:
    return await lab.add(session_id=session, request=text)


@pytest.fixture
async def notes(bare: Lab) -> Lab:
    """A table whose session ids and states are texts."""
    await bare.execute("CREATE TABLE note (id integer PRIMARY KEY, room text, mood text, updated_at timestamptz)")
    bare.watch = NOTES
    await install(bare.dsn, NOTES)
    return bare


async def test_the_names_are_those_that_were_asked_for(service: Lab) -> None:
    assert service.watch.channel == "request_update"
    assert await service.value("SELECT 'notify_request_status_update'::regproc::text") == "notify_request_status_update"
    assert await service.value("SELECT 'idx_request_session_updated'::regclass::text") == "idx_request_session_updated"
    columns = "SELECT pg_get_indexdef('idx_request_session_updated'::regclass)"
    assert (await service.value(columns)).endswith("(session_id, updated_at)")
    trigger = "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'request_status_update_trigger'"
    assert await service.value(trigger) == "notify_request_status_update"


async def test_the_payload_has_the_fields_that_were_asked_for_and_what_order_needs(service: Lab, session: UUID) -> None:
    ear = await service.listen()
    key = await add_request(service, session)
    await service.set(key, "status = 'in_progress'")
    await service.set(key, "status = 'done', response = 'forty-two'")
    row = await service.row(key)
    first, second, third = await ear.heard()
    assert all(set(told) == FIELDS for told in (first, second, third))
    assert first | third == third  # the same fields
    assert (first["status"], second["status"], third["status"]) == ("pending", "in_progress", "done")
    assert (first["terminal"], second["terminal"], third["terminal"]) == (False, False, True)
    assert third == {
        "request_id": str(key),
        "session_id": str(session),
        "status": "done",
        "updated_at": pytest.approx(row["updated_at"].timestamp(), abs=0.0006),
        "has_response": True,
        "has_error": False,
        "sequence_number": 1,
        "version": row["rowcast_version"],
        "terminal": True,
        "horizon": third["horizon"],
    }
    assert int(third["horizon"]) <= row["rowcast_xid"]


async def test_what_the_trigger_says_is_what_the_listener_understands(jobs: Lab) -> None:
    ear = await jobs.listen()
    key = await jobs.add()
    await jobs.set(key, "state = 'done'")
    await jobs.execute("DELETE FROM job WHERE id = $1", key)
    understood = [parse(JOBS, payload) for payload in await ear.raw()]
    assert [(told.state.terminal, told.state.removed) for told in understood if told.state] == [
        (False, False),
        (True, False),
        (True, True),
    ]


@pytest.mark.fault(34)
@pytest.mark.parametrize("text", ["x" * 1_000_000, "漢" * 400_000, "\x01" * 9000, '"' * 9000, "💥\n\\" * 5000])
async def test_no_response_and_no_error_text_can_fail_the_update(service: Lab, session: UUID, text: str) -> None:
    key, ear = await add_request(service, session, text), await service.listen()
    await service.set(key, "status = 'in_progress'")
    await service.set(key, "status = 'error', response = $2, error = $2", text)
    _, told = await ear.raw()
    assert len(told.encode()) < 500
    assert (json.loads(told)["has_response"], json.loads(told)["has_error"]) == (True, True)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=4))
async def test_no_text_of_a_user_is_in_the_payload(service: Lab, session: UUID, text: str) -> None:
    ear, marked = await service.listen(), f"\u2603{text}"
    key = await add_request(service, session, marked)
    await service.execute("UPDATE session SET name = left($1, 200), user_owner = $1", marked)
    await service.set(key, "status = 'in_progress', review = left($2, 4000)", marked)
    await service.set(key, "status = 'error', response = $2, error = $2", marked)
    payloads = await ear.raw()
    assert len(payloads) == 3
    for payload in payloads:
        assert set(json.loads(payload)) == FIELDS
        assert payload.isascii()
        assert json.dumps(marked)[1:-1] not in payload


async def test_a_session_id_that_nobody_can_watch_is_silently_not_told(notes: Lab) -> None:
    ear = await notes.listen()
    for room in ("r" * 65, "r" * 2000, "é" * 33, None):
        await notes.add(id=1, room=room)
        await notes.set(1, "mood = 'fine'")
        assert await ear.heard() == []
        await notes.set(1, "room = 'r'")
        assert [told["room"] for told in await ear.heard()] == ["r"]
        await notes.set(1, "room = $2", room)
        assert [(told["room"], told["removed"]) for told in await ear.heard()] == [("r", True)]
        await notes.execute("DELETE FROM note")
        assert await ear.heard() == []
        assert list(await notes.tombstones(1)) == ["r"]


async def test_every_session_id_of_64_bytes_is_told(notes: Lab) -> None:
    ear = await notes.listen()
    for room in ("r" * 64, '"' * 64, "\x01" * 64, "é" * 32):
        await notes.add(id=1, room=room)
        await notes.execute("DELETE FROM note")
        assert [told["room"] for told in await ear.heard()] == [room, room]


async def test_a_payload_over_1000_bytes_says_to_read_the_session_again(notes: Lab) -> None:
    ear = await notes.listen()
    await notes.add(id=1, room="r")
    await ear.raw()
    for length in (1001, 8001, 1_000_000):
        await notes.set(1, "mood = $2", "m" * length)
        (told,) = await ear.heard()
        assert set(told) == {"reread", "room", "horizon"}
        assert (told["reread"], told["room"]) == (True, "r")
    await notes.set(1, "mood = 'fine'")
    assert (await ear.heard())[0]["mood"] == "fine"


async def test_several_changes_in_a_transaction_are_told_in_their_order(jobs: Lab) -> None:
    ear = await jobs.listen()
    async with jobs.main.transaction():
        key = await jobs.add()
        for priority in range(1, 6):
            await jobs.set(key, "priority = $2", priority)
        await jobs.set(key, "priority = 1")
        assert await ear.heard() == []  # nothing before the commit
    heard = await ear.heard()
    assert [told["priority"] for told in heard] == [0, 1, 2, 3, 4, 5, 1]
    assert [told["version"] - heard[0]["version"] for told in heard] == list(range(7))


async def test_truncate_is_told_and_ends_the_epoch(own_jobs: Lab) -> None:
    async with own_jobs.reader() as reader:
        key, ear = await own_jobs.add(), await own_jobs.listen()
        owner = str((await own_jobs.row(key))["owner"])
        before = await reader.session(owner)
        await own_jobs.execute("TRUNCATE job")
        (told,) = await ear.heard()
        assert set(told) == {"truncated", "horizon"}
        assert not (await reader.changes([owner], before.cursor)).usable
        after = await reader.session(owner)
        assert (after.states, after.cursor.epoch != before.cursor.epoch) == ((), True)


async def test_truncate_by_cascade_is_told_as_well(service: Lab, session: UUID) -> None:
    await add_request(service, session)
    ear = await service.listen()
    await service.execute("TRUNCATE session CASCADE")
    assert [told["truncated"] for told in await ear.heard()] == [True]


async def test_the_horizon_never_passes_a_transaction_that_has_not_ended(jobs: Lab) -> None:
    ear = await jobs.listen()
    first, second = await jobs.connect(), await jobs.connect()
    earlier = first.transaction()
    await earlier.start()
    key = await first.fetchval("INSERT INTO job DEFAULT VALUES RETURNING id")
    xid = await first.fetchval("SELECT pg_current_xact_id()")
    await second.execute("INSERT INTO job DEFAULT VALUES")
    (told,) = await ear.heard()
    assert int(told["horizon"]) <= xid < await second.fetchval("SELECT max(rowcast_xid::text::bigint) FROM job")
    await earlier.commit()
    (told,) = await ear.heard()
    assert (told["id"], int(told["horizon"]) <= xid) == (str(key), True)
    await jobs.add()
    (told,) = await ear.heard()
    assert int(told["horizon"]) > xid


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_who_heard_a_horizon_has_heard_everything_below_it(jobs: Lab, isolation: str) -> None:
    """Writers hold their transactions open at random; no notification may come later than a horizon above it."""
    ear, dice = await jobs.listen(), random.Random(7)
    keys = [await jobs.add() for _ in range(4)]
    await ear.raw()
    xids: dict[tuple[str, int], int] = {}
    bump = "UPDATE job SET priority = priority + 1 WHERE id = $1 RETURNING rowcast_version, rowcast_xid"

    async def write(connection: Any, own_key: object) -> None:
        for _ in range(25):
            done = {}
            try:
                async with connection.transaction(isolation=isolation):
                    for key in sorted(dice.choices([own_key, own_key, keys[0]], k=dice.randint(1, 3))):
                        for _ in range(dice.randint(0, 4)):
                            await connection.fetchval("SELECT 1")
                        row = await connection.fetchrow(bump, key)
                        done[str(key), row["rowcast_version"]] = row["rowcast_xid"]
            except asyncpg.SerializationError:
                continue
            xids.update(done)

    await asyncio.gather(*[write(await jobs.connect(), key) for key in (*keys, *keys)])
    heard = await ear.heard()
    order = [(xids[told["id"], told["version"]], int(told["horizon"])) for told in heard]
    assert len(order) == len(xids) > 25
    safe = 0
    for xid, horizon in order:
        assert xid >= safe
        assert horizon <= xid
        safe = max(safe, horizon)
    assert safe > order[0][0]


@pytest.fixture
async def outsider(service: Lab, session: UUID) -> Any:
    """A worker that may update requests and has no rights on anything of ours."""
    role = f"worker_{uuid4().hex[:8]}"
    await service.execute(f"CREATE ROLE {role}")
    await service.execute(f"GRANT SELECT, UPDATE (status, response, error), DELETE ON request TO {role}")
    await service.execute(f"GRANT SELECT, UPDATE, DELETE ON session TO {role}")
    connection = await service.connect()
    await connection.execute(f"SET ROLE {role}")
    yield connection
    connection.terminate()
    await service.execute(f"DROP OWNED BY {role}")
    await service.execute(f"DROP ROLE {role}")


async def test_a_worker_needs_no_rights_on_our_schema(service: Lab, session: UUID, outsider: Any) -> None:
    key, ear = await add_request(service, session), await service.listen()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await outsider.fetch("SELECT * FROM rowcast.tombstone")
    await outsider.execute("UPDATE request SET status = 'in_progress' WHERE request_id = $1", key)
    await outsider.execute("DELETE FROM request WHERE request_id = $1", key)
    first, second = await ear.heard()
    assert (first["status"], second["removed"]) == ("in_progress", True)
    assert list(await service.tombstones(key)) == [str(session)]


@pytest.mark.parametrize("path", ["''", "evil, pg_catalog, public"])
async def test_the_search_path_of_a_writer_changes_nothing(service: Lab, session: UUID, path: str) -> None:
    await service.execute("""
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'gotcha'; END $$;
        CREATE FUNCTION evil.octet_length(text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'gotcha'; END $$;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'gotcha'; END $$
    """)
    key, ear, other = await add_request(service, session), await service.listen(), await service.connect()
    await other.execute(f"SET search_path = {path}")
    await other.execute("UPDATE public.request SET status = 'in_progress' WHERE request_id = $1", key)
    await other.execute("DELETE FROM public.request WHERE request_id = $1", key)
    await other.execute("TRUNCATE public.request CASCADE")
    first, second, third = await ear.heard()
    assert (first["status"], second["removed"], third["truncated"]) == ("in_progress", True, True)


async def test_functions_that_run_with_their_owners_rights_pin_their_search_path(service: Lab) -> None:
    rows = await service.main.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE prosecdef AND pronamespace::regnamespace::text <> 'pg_catalog'"
    )
    ours = {row["proname"]: row["proconfig"] for row in rows}
    assert {"notify_request_status_update", "stamp_request", "begin_epoch", "rotate_epoch"} <= set(ours)
    assert all(config == ["search_path=pg_catalog, pg_temp"] for config in ours.values())

"""Which changes of a row are new versions of it, and that its versions only grow."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from lab import Lab
from rowcast import Watch
from rowcast.postgres import install

pytestmark = pytest.mark.anyio

HOUR = 3_600_000_000
LARGEST = 2**53 - 1

WATCHED = {
    "status": "state = 'running'",
    "text appears": "result = 'x'",
    "text changes": "result = result || 'y'",
    "text vanishes": "result = NULL",
    "text becomes empty": "result = ''",
    "jsonb appears": "document = '{}'",
    "jsonb vanishes": "document = NULL",
    "jsonb changes": "document = '{\"a\": 2}'",
    "carried": "priority = 7",
    "session": "owner = gen_random_uuid()",
    "several at once": "state = 'done', result = 'x', priority = 9",
}
BEFORE = {"text changes": "x", "text vanishes": "x", "text becomes empty": None}


async def clock(lab: Lab) -> int:
    return int(await lab.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"))


@pytest.mark.parametrize("change", WATCHED)
async def test_a_watched_change_adds_one(jobs: Lab, change: str) -> None:
    document = '{"a": 1}' if change in {"jsonb vanishes", "jsonb changes"} else None
    key = await jobs.add(result=BEFORE.get(change), document=document)
    before = await jobs.version(key)
    async with jobs.main.transaction():
        await jobs.set(key, WATCHED[change])
        xid = await jobs.value("SELECT pg_current_xact_id()")
    row = await jobs.row(key)
    assert (row["rowcast_version"], row["rowcast_xid"]) == (before + 1, xid)


@pytest.mark.parametrize(
    "assignments",
    [
        "note = 'x'",
        "note = repeat('x', 100000)",
        "state = state",
        "result = result, document = document",
        'document = \'{"b": 2,   "a": 1}\'',
        "id = id, owner = owner, state = 'waiting', result = 'x', priority = 0",
    ],
)
async def test_what_changes_nothing_watched_changes_no_stamp_and_tells_nobody(jobs: Lab, assignments: str) -> None:
    key = await jobs.add(result="x", document='{"a": 1, "b": 2}')
    before, ear = await jobs.row(key), await jobs.listen()
    await jobs.set(key, assignments)
    after = await jobs.row(key)
    assert await ear.heard() == []
    stamps = ("rowcast_version", "rowcast_xid", "updated_at")
    assert [after[name] for name in stamps] == [before[name] for name in stamps]


async def test_updated_at_follows_the_watched_changes(jobs: Lab) -> None:
    key = await jobs.add()
    before = await jobs.row(key)
    await jobs.set(key, "state = 'running', updated_at = '2001-01-01'")
    now = await jobs.value("SELECT clock_timestamp()")
    assert before["updated_at"] < (await jobs.row(key))["updated_at"] <= now


async def test_an_insert_begins_at_the_clock_in_microseconds(jobs: Lab) -> None:
    earliest = await clock(jobs)
    version = await jobs.version(await jobs.add())
    assert earliest <= version <= await clock(jobs) <= LARGEST


async def test_a_version_ahead_of_the_clock_is_kept_by_an_insert(jobs: Lab) -> None:
    ahead = await clock(jobs) + HOUR
    key = await jobs.add(rowcast_version=ahead)
    assert ahead <= await jobs.version(key) <= ahead + 2


@pytest.mark.parametrize("version", [-(2**63), -1, 0, 1, 2, 2**53 - 1, 2**53, 2**63 - 1])
async def test_a_version_that_cannot_be_one_is_ignored_by_an_insert(jobs: Lab, version: int) -> None:
    earliest = await clock(jobs)
    key = await jobs.add(rowcast_version=version)
    assert earliest <= await jobs.version(key) <= await clock(jobs)


@pytest.mark.parametrize("ahead", [0, HOUR], ids=["clock as ever", "clock jumped back an hour"])
async def test_a_key_that_returns_never_starts_lower(jobs: Lab, ahead: int) -> None:
    key = await jobs.add(rowcast_version=await clock(jobs) + ahead)
    seen = [await jobs.version(key)]
    for owner in (uuid4(), uuid4(), uuid4()):  # each time in another session
        await jobs.execute("DELETE FROM job WHERE id = $1", key)
        seen.append(max((await jobs.tombstones(key)).values()))
        await jobs.add(id=key, owner=owner)
        seen.append(await jobs.version(key))
    assert seen == sorted(set(seen))


async def test_updates_go_on_when_the_clock_jumps_back(jobs: Lab) -> None:
    key = await jobs.add(rowcast_version=await clock(jobs) + HOUR)
    before = await jobs.version(key)
    await jobs.set(key, "state = 'running'")
    assert await jobs.version(key) == before + 1


@pytest.mark.parametrize(
    "stale", ["rowcast_version = 1", "rowcast_xid = '3'", "rowcast_version = 1, rowcast_xid = '3'"]
)
async def test_an_orm_that_saves_a_stale_object_does_not_turn_the_row_back(jobs: Lab, stale: str) -> None:
    key = await jobs.add()
    before, ear = await jobs.row(key), await jobs.listen()
    await jobs.set(key, f"{stale}, note = 'saved'")
    after = await jobs.row(key)
    assert (after["rowcast_version"], after["rowcast_xid"]) == (before["rowcast_version"], before["rowcast_xid"])
    assert await ear.heard() == []

    await jobs.set(key, f"{stale}, state = 'done'")
    assert await jobs.version(key) == before["rowcast_version"] + 1
    assert [(told["version"], told["state"]) for told in await ear.heard()] == [(before["rowcast_version"] + 1, "done")]


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("NEW.state := 'done'", {"state": "done", "terminal": True}),
        ("NEW.result := repeat('r', 3000)", {"has_result": True}),
        ("NEW.document := '[1]'", {"has_document": True}),
        ("NEW.priority := OLD.priority + 1", {"priority": 1}),
        ("NEW.rowcast_version := 1; NEW.priority := 5", {"priority": 5}),
    ],
)
async def test_a_trigger_of_the_owner_cannot_change_a_watched_column_behind_us(
    own_jobs: Lab, assignment: str, told: dict[str, Any]
) -> None:
    """Neither when the UPDATE named the column nor when it did not, and whatever the trigger is called."""
    await own_jobs.execute(
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {assignment}; RETURN NEW; END $$"
    )
    for name in ("a_meddler", "zzz_meddler"):
        key = await own_jobs.add()
        await own_jobs.execute(f"CREATE TRIGGER {name} BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION meddle()")
        before, ear = await own_jobs.version(key), await own_jobs.listen()
        await own_jobs.set(key, "note = 'unrelated'")
        assert await own_jobs.version(key) == before + 1
        (heard,) = await ear.heard()
        assert told.items() <= heard.items()
        assert heard["version"] == before + 1
        await own_jobs.execute(f"DROP TRIGGER {name} ON job")


async def test_a_wide_value_that_a_trigger_replaces_by_one_as_long_is_seen(own_jobs: Lab) -> None:
    """Incompressible, so that both are stored in the same number of bytes."""
    wide = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000))"
    await own_jobs.execute(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN NEW.result := {wide}; RETURN NEW; END $$"
    )
    key = await own_jobs.value(f"INSERT INTO job (result) SELECT {wide} RETURNING id")
    before = await own_jobs.version(key)
    await own_jobs.execute("CREATE TRIGGER meddle BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION meddle()")
    await own_jobs.set(key, "note = 'unrelated'")
    assert await own_jobs.version(key) == before + 1


async def test_an_after_trigger_that_updates_the_row_again_leaves_the_newest_state_told(own_jobs: Lab) -> None:
    await own_jobs.execute("""
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE job SET state = 'done' WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER a_first AFTER UPDATE ON job FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION again()
    """)
    key, ear = await own_jobs.add(), await own_jobs.listen()
    await own_jobs.set(key, "state = 'running'")
    newest = max(await ear.heard(), key=lambda told: int(told["version"]))
    assert (newest["state"], newest["version"]) == ("done", await own_jobs.version(key))


async def test_on_conflict_do_update_counts_from_the_stored_version(jobs: Lab) -> None:
    key = await jobs.add()
    before, ear = await jobs.version(key), await jobs.listen()
    upsert = "INSERT INTO job (id, state) VALUES ($1, 'running') ON CONFLICT (id) DO UPDATE SET state = excluded.state"
    await jobs.execute(upsert, key)
    await jobs.execute(upsert, key)
    assert await jobs.version(key) == before + 1
    await jobs.execute(upsert + ", rowcast_version = excluded.rowcast_version, note = excluded.note", key)
    assert await jobs.version(key) == before + 1
    assert [told["version"] for told in await ear.heard()] == [before + 1]


async def test_on_conflict_do_nothing_changes_nothing(jobs: Lab) -> None:
    key = await jobs.add()
    before, ear = await jobs.version(key), await jobs.listen()
    await jobs.execute("INSERT INTO job (id, state) VALUES ($1, 'running') ON CONFLICT DO NOTHING", key)
    assert await jobs.version(key) == before
    assert await ear.heard() == []


async def test_copy_stamps_and_tells(jobs: Lab) -> None:
    ear, keys = await jobs.listen(), [uuid4() for _ in range(50)]
    await jobs.main.copy_records_to_table("job", records=[(key, "done") for key in keys], columns=["id", "state"])
    heard = await ear.heard()
    assert {told["id"] for told in heard} == {str(key) for key in keys}
    assert all([told["version"] == await jobs.version(told["id"]) for told in heard])


async def test_merge_stamps_and_tells(jobs: Lab) -> None:
    if jobs.main.get_server_version().major < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    old, gone, new = await jobs.add(), await jobs.add(), uuid4()
    before, ear = await jobs.version(old), await jobs.listen()
    await jobs.execute(
        """MERGE INTO job USING (VALUES ($1::uuid), ($2::uuid), ($3::uuid)) AS v (id) ON v.id = job.id
        WHEN MATCHED AND v.id = $2 THEN DELETE
        WHEN MATCHED THEN UPDATE SET result = 'merged'
        WHEN NOT MATCHED THEN INSERT (id, result) VALUES (v.id, 'merged')""",
        old,
        gone,
        new,
    )
    heard = {told["id"]: told for told in await ear.heard()}
    assert heard[str(old)]["version"] == before + 1 == await jobs.version(old)
    assert heard[str(gone)]["removed"]
    assert heard[str(new)]["has_result"]


async def test_a_savepoint_that_is_rolled_back_leaves_no_trace(jobs: Lab) -> None:
    key = await jobs.add()
    before, ear = await jobs.version(key), await jobs.listen()
    async with jobs.main.transaction():
        await jobs.set(key, "priority = 1")
        await jobs.execute("SAVEPOINT s")
        await jobs.set(key, "priority = 2")
        await jobs.execute("ROLLBACK TO s")
        await jobs.set(key, "state = 'done'")
    heard = [(told["version"], told["priority"], told["state"]) for told in await ear.heard()]
    assert heard == [(before + 1, 1, "waiting"), (before + 2, 1, "done")]
    row = await jobs.row(key)
    assert (row["rowcast_version"], row["priority"]) == (before + 2, 1)


async def test_the_stamp_of_a_savepoint_is_that_of_its_transaction(jobs: Lab) -> None:
    key = await jobs.add()
    async with jobs.main.transaction():
        xid = await jobs.value("SELECT pg_current_xact_id()")
        async with jobs.main.transaction():
            await jobs.set(key, "state = 'running'")
    assert (await jobs.row(key))["rowcast_xid"] == xid


@pytest.mark.fault(33)
async def test_a_transaction_that_is_rolled_back_tells_nobody(jobs: Lab) -> None:
    key = await jobs.add()
    before, ear = await jobs.row(key), await jobs.listen()
    transaction = jobs.main.transaction()
    await transaction.start()
    await jobs.set(key, "state = 'done', result = 'x'")
    await jobs.add()
    await jobs.execute("DELETE FROM job WHERE id <> $1", key)
    await transaction.rollback()
    assert await ear.heard() == []
    assert await jobs.row(key) == before


async def test_what_a_deferred_constraint_does_at_commit_is_stamped_and_told(own_jobs: Lab) -> None:
    await own_jobs.execute("""
        CREATE FUNCTION settle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE job SET result = 'settled' WHERE id = NEW.id AND result IS NULL; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER settle AFTER UPDATE ON job DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION settle()
    """)
    key = await own_jobs.add()
    before, ear = await own_jobs.version(key), await own_jobs.listen()
    await own_jobs.set(key, "state = 'done'")
    heard = [(told["version"], told["has_result"]) for told in await ear.heard()]
    assert heard == [(before + 1, False), (before + 2, True)]
    assert await own_jobs.version(key) == before + 2


async def test_a_replication_role_does_not_bypass_the_triggers(own_jobs: Lab) -> None:
    key, ear = await own_jobs.add(), await own_jobs.listen()
    before = await own_jobs.version(key)
    replica = await own_jobs.connect(session_replication_role="replica")
    await replica.execute("UPDATE job SET state = 'running' WHERE id = $1", key)
    await replica.execute("UPDATE job SET rowcast_version = 1 WHERE id = $1", key)
    assert await own_jobs.version(key) == before + 1
    await replica.execute("DELETE FROM job WHERE id = $1", key)
    await replica.execute("INSERT INTO job (id) VALUES ($1)", key)
    versions = [told["version"] for told in await ear.heard()]
    assert versions[:2] == [before + 1, before + 2]
    assert versions[2] == await own_jobs.version(key) > before + 2
    await replica.execute("TRUNCATE job")
    assert (await ear.heard())[0]["truncated"]


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_concurrent_updates_of_a_row_never_share_a_version(jobs: Lab, isolation: str) -> None:
    key, ear = await jobs.add(), await jobs.listen()
    before, writers, each = await jobs.version(key), 6, 10

    async def write(connection: Any) -> Sequence[int]:
        versions: list[int] = []
        while len(versions) < each:
            try:
                async with connection.transaction(isolation=isolation):
                    statement = "UPDATE job SET priority = priority + 1 WHERE id = $1 RETURNING rowcast_version"
                    version = await connection.fetchval(statement, key)
            except asyncpg.SerializationError:
                continue
            versions.append(version)
        return versions

    written = await asyncio.gather(*[write(await jobs.connect()) for _ in range(writers)])
    assert all(list(versions) == sorted(versions) for versions in written)
    expected = list(range(before + 1, before + 1 + writers * each))
    assert sorted(version for versions in written for version in versions) == expected
    assert [told["version"] for told in await ear.heard()] == expected


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_strict_isolation_levels_can_do_everything_with_a_row(jobs: Lab, isolation: str) -> None:
    key = uuid4()
    seen = []
    for statement in (
        "INSERT INTO job (id) VALUES ($1) RETURNING rowcast_version",
        "UPDATE job SET state = 'done' WHERE id = $1 RETURNING rowcast_version",
        "UPDATE job SET owner = gen_random_uuid() WHERE id = $1 RETURNING rowcast_version",
        "DELETE FROM job WHERE id = $1 RETURNING rowcast_version + 1",
        "INSERT INTO job (id) VALUES ($1) RETURNING rowcast_version",
    ):
        async with jobs.main.transaction(isolation=isolation):
            seen.append(await jobs.value(statement, key))
    assert seen == sorted(set(seen))


async def test_an_update_that_waited_for_another_counts_from_its_result(jobs: Lab) -> None:
    key = await jobs.add()
    before, second = await jobs.version(key), await jobs.connect()
    async with jobs.main.transaction():
        await jobs.set(key, "priority = 1")
        waiting = asyncio.create_task(second.execute("UPDATE job SET state = 'done' WHERE id = $1", key))
        third = await jobs.connect()
        async with asyncio.timeout(20):
            while not await third.fetchval("SELECT pg_blocking_pids($1) <> '{}'", second.get_server_pid()):
                await asyncio.sleep(0.005)
    await waiting
    row = await jobs.row(key)
    assert (row["rowcast_version"], row["priority"], row["state"]) == (before + 2, 1, "done")


async def test_a_referential_action_is_a_change_like_any_other(bare: Lab) -> None:
    await bare.execute("CREATE TABLE owner (id uuid PRIMARY KEY)")
    await bare.execute("ALTER TABLE job ADD FOREIGN KEY (owner) REFERENCES owner ON UPDATE CASCADE ON DELETE CASCADE")
    await install(bare.dsn, bare.watch)
    first, second = uuid4(), uuid4()
    await bare.execute("INSERT INTO owner VALUES ($1)", first)
    key = await bare.add(owner=first)
    before, ear = await bare.version(key), await bare.listen()

    await bare.execute("UPDATE owner SET id = $1", second)
    told = [(event["owner"], event["version"], event.get("removed", False)) for event in await ear.heard()]
    assert told == [(str(first), before + 1, True), (str(second), before + 1, False)]

    await bare.execute("DELETE FROM owner")
    told = [(event["owner"], event["version"], event["removed"]) for event in await ear.heard()]
    assert told == [(str(second), before + 2, True)]


async def test_two_phase_writers_are_refused_by_postgres_not_silently_lost(jobs: Lab) -> None:
    key = await jobs.add()
    await jobs.execute("BEGIN")
    await jobs.set(key, "state = 'done'")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
        await jobs.execute("PREPARE TRANSACTION 'two-phase'")
    await jobs.execute("ROLLBACK")


PARTED = """
CREATE TABLE part (id integer, owner integer NOT NULL, region text NOT NULL, state text NOT NULL DEFAULT 'waiting',
    updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_east PARTITION OF part FOR VALUES IN ('east');
CREATE TABLE part_west PARTITION OF part FOR VALUES IN ('west');
"""
PARTS = Watch(table="part", key="id", session="owner", key_type="integer", session_type="integer", status="state")


@pytest.mark.fault(66)
@pytest.mark.parametrize("ahead", [0, HOUR], ids=["clock as ever", "clock jumped back an hour"])
@pytest.mark.parametrize("also", ["", ", state = 'done'", ", rowcast_version = 1"])
async def test_a_row_that_moves_partition_only_grows(bare: Lab, ahead: int, also: str) -> None:
    await bare.execute(PARTED)
    await bare.execute("INSERT INTO part (id, owner, region) VALUES (1, 1, 'east')")  # before it is watched
    await install(bare.dsn, PARTS, concurrently=False)
    await bare.execute(
        "INSERT INTO part (id, owner, region, rowcast_version) VALUES (2, 1, 'east', $1)", await clock(bare) + ahead
    )
    ear = await bare.listen(PARTS.channel)
    known = {row["id"]: row["rowcast_version"] for row in await bare.main.fetch("SELECT * FROM part")}
    for region in ("west", "east", "west"):
        await bare.execute(f"UPDATE part SET region = $1{also}", region)
        for told in await ear.heard():
            key = int(told["id"])
            assert told["version"] > known[key]
            known[key] = told["version"]
        for row in await bare.main.fetch("SELECT * FROM part"):
            assert (row["region"], row["rowcast_version"]) == (region, known[row["id"]])
            (tombstone,) = await bare.main.fetch(
                "SELECT * FROM rowcast.tombstone WHERE watch = 'part' AND key = $1", str(row["id"])
            )
            assert tombstone["version"] < row["rowcast_version"]


async def test_the_triggers_of_partitions_also_fire_for_replication(bare: Lab) -> None:
    await bare.execute(PARTED)
    await install(bare.dsn, PARTS, concurrently=False)
    ear = await bare.listen(PARTS.channel)
    replica = await bare.connect(session_replication_role="replica")
    await replica.execute("INSERT INTO part_east (id, owner, region) VALUES (1, 1, 'east')")
    await replica.execute("UPDATE part SET state = 'done'")
    assert [told["state"] for told in await ear.heard()] == ["waiting", "done"]


@pytest.mark.parametrize("kind", ["integer", "bigint", "text"])
async def test_every_type_of_key_is_stamped(bare: Lab, kind: str) -> None:
    await bare.execute(f'CREATE TABLE "Thing" ("Key" {kind} PRIMARY KEY, "In" {kind} NOT NULL, v boolean)')
    watch = Watch(
        table="Thing",
        key="Key",
        session="In",
        key_type=kind,
        session_type=kind,
        carried=("v",),
        updated_at=None,  # type: ignore[arg-type]
    )
    await install(bare.dsn, watch)
    ear = await bare.listen(watch.channel)
    await bare.execute(f"""INSERT INTO "Thing" VALUES ('1'::{kind}, '2'::{kind}, true)""")
    await bare.execute('UPDATE "Thing" SET v = false')
    await bare.execute('DELETE FROM "Thing"')
    first, second, third = await ear.heard()
    assert (first["Key"], first["In"], first["v"]) == ("1", "2", True)
    assert (second["version"], second["v"]) == (first["version"] + 1, False)
    assert (third["version"], third["removed"]) == (first["version"] + 2, True)

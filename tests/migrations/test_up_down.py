"""Up, down and up again, by every way there is, and the schema is the same each time."""

import asyncio
from uuid import uuid4

import pytest

from lab import Lab, OpenLab
from rowcast.postgres import owner_removal_steps, uninstall
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from rowcast.service.store.watched import REQUESTS
from schema import ALEMBIC, FIRST, NOTIFY, OWNER, ROLLOUT, ROWCAST, downgrade, dump, migrate, program, run, upgrade

EPOCH = "SELECT rowcast.current_epoch('request', 'request')"


def test_alembic_goes_up_and_step_by_step_down_from_the_command_line(
    database_url: str, unwatched_database: str
) -> None:
    run([*ALEMBIC, "upgrade", "head"], database_url)
    for revision in (OWNER, NOTIFY, FIRST):
        run([*ALEMBIC, "downgrade", "-1"], database_url)
        assert revision in run([*ALEMBIC, "current"], database_url)
    assert dump(database_url) == dump(unwatched_database)


def test_up_down_up_leaves_the_schema_identical(database_url: str) -> None:
    empty = dump(database_url)
    upgrade(database_url, FIRST)
    first = dump(database_url)
    upgrade(database_url, NOTIFY)
    notify = dump(database_url)
    upgrade(database_url, OWNER)
    owner = dump(database_url)
    upgrade(database_url)
    head = dump(database_url)
    for before in (owner, notify, first):
        downgrade(database_url, "-1")
        assert dump(database_url) == before
    upgrade(database_url)
    assert dump(database_url) == head
    downgrade(database_url, "base")
    assert dump(database_url) == empty
    upgrade(database_url)
    assert dump(database_url) == head
    assert any("request_status_update_trigger" in line for line in head)
    assert any("request_owner_trigger" in line for line in head)
    assert len({len(each) for each in (empty, first, notify, owner, head)}) == 5


def test_rowcast_migrate_does_what_alembic_does(database_url: str, service_database: str) -> None:
    assert migrate(database_url) == "The database was migrated.\n"
    assert migrate(database_url) == "The database is up to date.\n"
    assert dump(database_url) == dump(service_database)


@pytest.mark.parametrize(
    "command", [[*ROWCAST, "migrate", "--sql"], [*ALEMBIC, "upgrade", "head", "--sql"]], ids=["rowcast", "alembic"]
)
def test_the_sql_that_is_printed_gives_the_same_schema(
    database_url: str, service_database: str, command: list[str]
) -> None:
    script = run(command)
    run([program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database_url], text=script)
    assert dump(database_url) == dump(service_database)
    assert migrate(database_url) == "The database is up to date.\n"


def test_the_sql_of_the_way_back_gives_back_the_schema(service_database: str, unwatched_database: str) -> None:
    script = run([*ALEMBIC, "downgrade", f"{ROLLOUT}:{FIRST}", "--sql"])
    run([program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", service_database], text=script)
    assert dump(service_database) == dump(unwatched_database)


@pytest.mark.anyio
async def test_the_rows_are_kept_up_and_down(unwatched: Lab) -> None:
    session = await unwatched.value("INSERT INTO session (user_owner) VALUES ('test|1') RETURNING session_id")
    keys = [await unwatched.add(session_id=session, request=f"question {number}") for number in range(5)]
    before = await unwatched.main.fetch("SELECT * FROM request ORDER BY sequence_number")
    await asyncio.to_thread(upgrade, unwatched.dsn)
    ear = await unwatched.listen()
    after = await unwatched.main.fetch("SELECT * FROM request ORDER BY sequence_number")
    assert [dict(row) | {"rowcast_version": 1, "rowcast_xid": 0} for row in before] == [dict(row) for row in after]
    await unwatched.set(keys[0], "status = 'in_progress'")
    assert [(told["version"], told["sequence_number"]) for told in await ear.heard()] == [(2, 1)]
    async with unwatched.reader() as reader:
        assert {state.key for state in (await reader.session(str(session))).states} == set(map(str, keys))
    await asyncio.to_thread(downgrade, unwatched.dsn, FIRST)
    await unwatched.set(keys[1], "status = 'in_progress'")
    assert await ear.raw() == []
    assert await unwatched.value("SELECT count(*) FROM request WHERE status = 'in_progress'") == 2


@pytest.mark.anyio
async def test_down_and_up_ends_the_epoch(service: Lab) -> None:
    before = await service.value(EPOCH)
    await asyncio.to_thread(downgrade, service.dsn, FIRST)
    await asyncio.to_thread(upgrade, service.dsn)
    assert await service.value(EPOCH) != before


@pytest.mark.anyio
async def test_the_owner_of_a_database_can_migrate_without_being_a_superuser(
    postgres: EmbeddedPostgres, open_lab: OpenLab, database_url: str, service_database: str
) -> None:
    lab, role = await open_lab(database_url, REQUESTS), f"owner_{uuid4().hex[:8]}"
    await lab.execute(f"CREATE ROLE {role} LOGIN")
    await lab.execute(f"ALTER DATABASE {await lab.value('SELECT current_database()')} OWNER TO {role}")
    dsn = database_url.replace("postgres@", f"{role}@")
    await asyncio.to_thread(migrate, dsn)
    assert [line for line in dump(database_url) if "OWNER TO" not in line] == [
        line for line in dump(service_database) if "OWNER TO" not in line
    ]
    owner = await open_lab(dsn, REQUESTS)
    assert len(await owner.value(EPOCH)) == 16
    session = await owner.value("INSERT INTO session (user_owner) VALUES ('test|1') RETURNING session_id")
    ear = await owner.listen()
    await owner.add(session_id=session, request="?")
    assert len(await ear.heard()) == 1
    await asyncio.to_thread(downgrade, dsn, "base")
    await asyncio.to_thread(upgrade, dsn)
    await lab.execute(f"REASSIGN OWNED BY {role} TO postgres")
    await lab.execute(f"DROP ROLE {role}")


@pytest.mark.anyio
async def test_the_library_takes_away_what_the_migration_made(service: Lab, unwatched_database: str) -> None:
    await uninstall(service.dsn, REQUESTS)
    await service.execute("DROP INDEX idx_request_session_updated")
    await service.execute("DROP TABLE rollout")
    for step in owner_removal_steps(REQUESTS, sessions="session", owner="user_owner"):
        for statement in step.statements:
            await service.execute(statement)
    assert dump(service.dsn) == dump(unwatched_database)


def test_the_watch_of_the_migration_is_that_of_the_service() -> None:
    """Should it grow, a revision has to follow, and this test to be told so."""
    from rowcast.service.migrations.versions.b725927e9e64_add_request_status_notify_trigger import WATCH

    assert WATCH == REQUESTS


@pytest.mark.anyio
async def test_whether_there_is_anything_to_do_is_seen_at_every_revision(open_lab: OpenLab, database_url: str) -> None:
    assert not await migrations.is_migrated(database_url)
    await asyncio.to_thread(upgrade, database_url, FIRST)
    assert not await migrations.is_migrated(database_url)
    await asyncio.to_thread(upgrade, database_url)
    assert await migrations.is_migrated(database_url)
    await asyncio.to_thread(downgrade, database_url, "base")
    assert not await migrations.is_migrated(database_url)

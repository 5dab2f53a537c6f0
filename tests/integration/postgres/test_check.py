"""A table that could not be watched faithfully is refused with a cure, before anything is changed."""

from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from lab import JOBS, Lab
from rowcast import Watch
from rowcast.postgres import install, uninstall

pytestmark = pytest.mark.anyio

PREPARE = """
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE DOMAIN wrapped AS json;
ALTER TABLE job
    ADD as_json json, ADD as_xml xml, ADD as_jsons json[], ADD as_domain wrapped, ADD as_point point, ADD as_box box,
    ADD computed text GENERATED ALWAYS AS (upper(note)) STORED, ADD naive timestamp, ADD day date,
    ADD number integer, ADD big bigint, ADD small smallint, ADD short varchar(20), ADD amount numeric
"""
REFUSED = {
    "json": ({"presence": ("as_json",)}, "as_json", "json, whose values cannot be compared; use jsonb or text"),
    "xml": ({"presence": ("as_xml",)}, "as_xml", "xml, whose values cannot be compared; use jsonb or text"),
    "json in an array": ({"presence": ("as_jsons",)}, "as_jsons", "use jsonb or text"),
    "json in a domain": ({"presence": ("as_domain",)}, "as_domain", "use jsonb or text"),
    "point": ({"presence": ("as_point",)}, "as_point", "use jsonb or text"),
    "box, whose equality compares areas": ({"presence": ("as_box",)}, "as_box", "use jsonb or text"),
    "json as status": ({"status": "as_json"}, "as_json", "use jsonb or text"),
    "generated": ({"presence": ("computed",)}, "computed", "generated; watch the columns it is computed from"),
    "generated as status": ({"status": "computed"}, "computed", "generated; watch the columns it is computed from"),
    "missing": ({"presence": ("nowhere",)}, "nowhere", "add it, or correct the watch"),
    "missing updated_at": ({"updated_at": "nowhere"}, "nowhere", "add it, or correct the watch"),
    "key of another type": ({"key_type": "bigint"}, "id", "is uuid, but the watch says bigint"),
    "session of another type": ({"session_type": "text"}, "owner", "is uuid, but the watch says text"),
    "bigint for integer": (
        {"session": "big", "session_type": "integer"},
        "big",
        "is bigint, but the watch says integer",
    ),
    "numeric key": ({"key": "amount", "key_type": "bigint"}, "amount", "is numeric, but the watch says bigint"),
    "instant without a zone": ({"updated_at": "naive"}, "naive", "needs timestamp with time zone"),
    "date": ({"updated_at": "day"}, "day", "needs timestamp with time zone"),
    "carried text": ({"carried": ("note",)}, "note", "only integers, booleans, uuids and enums are carried"),
    "carried varchar": ({"carried": ("short",)}, "short", "only integers, booleans, uuids and enums are carried"),
    "carried jsonb": ({"presence": (), "carried": ("document",)}, "document", "only integers, booleans"),
    "carried numeric": ({"carried": ("amount",)}, "amount", "only integers, booleans, uuids and enums are carried"),
}


async def everything(lab: Lab) -> Any:
    """All that the catalogues know about tables, columns, functions, triggers and schemas of users."""
    return await lab.main.fetch("""
        SELECT 'column', attrelid::regclass::text, attname::text FROM pg_attribute WHERE attrelid >= 16384
        UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname::text FROM pg_trigger
        UNION ALL SELECT 'function', pronamespace::regnamespace::text, proname::text FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT 'schema', nspname::text, '' FROM pg_namespace WHERE nspname !~ '^pg_t' ORDER BY 1, 2, 3
    """)


async def test_each_refusal_names_the_column_and_the_cure_and_changes_nothing(bare: Lab) -> None:
    await bare.execute(PREPARE)
    before = await everything(bare)
    for case, (changes, column, cure) in REFUSED.items():
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await install(bare.dsn, replace(JOBS, **changes))
        assert f'"{column}"' in str(refusal.value), case
        assert cure in str(refusal.value), case
        assert str(refusal.value).startswith("rowcast: "), case
    assert await everything(bare) == before


async def test_what_can_be_watched_is_accepted(bare: Lab) -> None:
    await bare.execute(PREPARE)
    await bare.execute("ALTER TABLE job ADD flag boolean, ADD other uuid, ADD words text[], ADD bytes bytea")
    presence = ("result", "document", "note", "words", "bytes", "amount")
    carried = ("priority", "big", "small", "flag", "other")
    await install(bare.dsn, replace(JOBS, presence=presence, carried=carried))
    ear, key = await bare.listen(), await bare.add()
    await bare.set(key, "words = '{a}', bytes = 'x', amount = 1.5, flag = true, other = id, big = 2^62, small = 3")
    told = (await ear.heard())[1]
    assert all(told[f"has_{column}"] == (column in {"words", "bytes", "amount"}) for column in presence)
    assert [told[column] for column in carried] == [0, 2**62, 3, True, str(key)]


async def test_a_varchar_will_do_for_text(bare: Lab) -> None:
    await bare.execute("CREATE TABLE thing (k varchar(40) PRIMARY KEY, s varchar)")
    watch = Watch(table="thing", key="k", session="s", key_type="text", session_type="text", updated_at=None)
    await install(bare.dsn, watch)
    ear = await bare.listen("thing_update")
    await bare.execute("INSERT INTO thing VALUES ('a', 'b')")
    assert [(told["k"], told["s"]) for told in await ear.heard()] == [("a", "b")]


async def test_a_second_watch_on_a_table_is_refused(own_jobs: Lab) -> None:
    """It would put back the stamps that the first one made."""
    with pytest.raises(asyncpg.DuplicateObjectError, match='job is watched as "job" already'):
        await install(own_jobs.dsn, replace(JOBS, name="task"))
    await install(own_jobs.dsn, JOBS)


async def test_a_name_is_good_for_one_table(own_jobs: Lab) -> None:
    await own_jobs.execute("CREATE SCHEMA app; CREATE TABLE app.job (LIKE public.job INCLUDING ALL)")
    other = replace(JOBS, table="app.job", name="job")
    with pytest.raises(asyncpg.DuplicateObjectError, match='job is watched as "job" already'):
        await install(own_jobs.dsn, other)
    await install(own_jobs.dsn, replace(other, name="app_job"))
    await uninstall(own_jobs.dsn, JOBS)
    key, ear = (
        await own_jobs.value("INSERT INTO app.job DEFAULT VALUES RETURNING id"),
        await own_jobs.listen("app_job_update"),
    )
    await own_jobs.execute("UPDATE app.job SET state = 'done'")
    assert [(told["id"], told["state"]) for told in await ear.heard()] == [(str(key), "done")]


async def test_installing_twice_changes_nothing_but_the_epoch(own_jobs: Lab) -> None:
    key = await own_jobs.add()
    before, row, ear = await everything(own_jobs), await own_jobs.row(key), await own_jobs.listen()
    epoch = await own_jobs.value("SELECT rowcast.current_epoch('job', 'job')")
    await install(own_jobs.dsn, JOBS)
    assert (await everything(own_jobs), await own_jobs.row(key)) == (before, row)
    assert await own_jobs.value("SELECT rowcast.current_epoch('job', 'job')") != epoch
    await own_jobs.set(key, "state = 'done'")
    assert len(await ear.heard()) == 1


async def test_uninstalling_gives_back_the_table_as_it_was_and_can_be_repeated(bare: Lab) -> None:
    live = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'job'::regclass AND NOT attisdropped"
    before = await bare.main.fetch(live)
    await install(bare.dsn, JOBS)
    key = await bare.add()
    await uninstall(bare.dsn, JOBS)
    await uninstall(bare.dsn, JOBS)
    assert await bare.main.fetch(live) == before
    assert await bare.value("SELECT to_regnamespace('rowcast')") is None
    await bare.set(key, "state = 'done'")


async def test_uninstalling_one_watch_leaves_the_others(own_jobs: Lab) -> None:
    await own_jobs.execute("CREATE TABLE thing (id integer PRIMARY KEY, room integer)")
    things = Watch(table="thing", key="id", session="room", key_type="integer", session_type="integer", updated_at=None)
    await install(own_jobs.dsn, things)
    await uninstall(own_jobs.dsn, things)
    key, ear = await own_jobs.add(), await own_jobs.listen()
    await own_jobs.execute("DELETE FROM job WHERE id = $1", key)
    assert [told["removed"] for told in await ear.heard()] == [True]

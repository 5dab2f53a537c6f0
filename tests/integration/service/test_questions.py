"""The handler `questions` and its demo data on a real PostgreSQL: what it answers, refuses and cannot do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from rowcast import ConfigurationError, DatabaseUnavailable
from rowcast.service.handlers import Answer, HandlerError, Job
from rowcast.service.handlers.catalogue import load_catalogue, parse_question
from rowcast.service.handlers.demo_data import install_demo_data, remove_demo_data
from rowcast.service.handlers.question import Asked
from rowcast.service.handlers.questions import Limits, answer_question, ask, confine, list_questions

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NOT_INSTALLED = "The demo data is not installed: run `rowcast demo-data`."

# The data is the same on every machine and every PostgreSQL. Other data needs another version in MARKER.
DIGESTS = {
    "region": "5329241e9e931ded0322aabfb3edbe05",
    "customer": "7f07f91a52c4d7fd895a8d3191002d5a",
    "product": "6911fd409232685521dde581f68feb16",
    "orders": "f4312f95839009bea9141af26ce8b452",
    "order_line": "e4dfc3eeb621b1d7f4338ac53b8bd1cb",
    "delivery": "20f2955a92a143e3fc113f8618b4b15f",
}


def on_database(url: str, test: Callable[[Connection], Awaitable[None]]) -> None:
    """Run a test on a connection of its own."""

    async def run() -> None:
        async with connected(url) as connection:
            await test(connection)

    asyncio.run(run())


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def job(url: str, text: str) -> Job:
    return Job(request_id=UUID(int=1), session_id=UUID(int=2), text=text, connect=lambda: connected(url))


def question(sql: str, *, head: str = "") -> Asked:
    """A question that is not in the catalogue."""
    text = f"-- order: 1\n-- title: T\n-- description: D\n-- example: mine\n{head}\n{sql}"
    return Asked(question=parse_question("mine", text), arguments={})


def decoded(answer: Answer) -> dict[str, Any]:
    return dict(json.loads(answer.response))


async def refusal(answering: Awaitable[Answer]) -> HandlerError:
    with pytest.raises(HandlerError) as caught:
        await answering
    return caught.value


async def install_sketch(connection: Connection) -> None:
    """Install the role, and tables of the right names without the data: much faster, and enough for most tests."""
    await connection.execute("create schema demo")
    for table in DIGESTS:
        await connection.execute(f"create table demo.{table} as select 1 as number")
    await connection.execute("comment on schema demo is 'Rowcast demo data, version 1'")
    assert await install_demo_data(connection)


async def assert_clean(connection: Connection) -> None:
    """The connection is as it was before a question ran on it."""
    assert not connection.is_in_transaction()
    settings = await connection.fetchrow(
        "select current_user = session_user as own_role, current_setting('search_path') <> 'demo' as own_path,"
        " current_setting('transaction_read_only') = 'off' as may_write,"
        " current_setting('statement_timeout') = '0' as waits"
    )
    assert settings is not None
    assert all(settings.values())


# The demo data and its questions -------------------------------------------------------------------------------------


def test_installs_once_and_answers_every_question(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        # Several at once do it once.
        async with connected(database_url) as other, connected(database_url) as third:
            done = await asyncio.gather(*(install_demo_data(each) for each in (connection, other, third)))
        assert sorted(done) == [False, False, True]
        for table, digest in DIGESTS.items():
            found = await connection.fetchval(
                f"select md5(string_agg(md5(x::text), '' order by x::text collate \"C\")) from demo.{table} as x"
            )
            assert found == digest, table
        assert await connection.fetchval("select count(*) from demo.order_line") >= 100_000

        for listed in list_questions():
            if listed["name"] in {"every_pair", "broken"}:
                continue
            answer = await answer_question(job(database_url, listed["example"]))
            assert_well_formed(answer, listed["name"])
        await check_answers(database_url)
        await check_broken(database_url)
        await check_injection(connection, database_url)

        assert await remove_demo_data(connection)
        assert not await remove_demo_data(connection)
        assert str(await refusal(answer_question(job(database_url, "sales_by_month")))) == NOT_INSTALLED

    on_database(database_url, test)


def assert_well_formed(answer: Answer, name: str) -> None:
    response = decoded(answer)
    (record,) = answer.queries
    assert list(response) == [
        "title", "question", "parameters", "columns", "rows", "row_count", "truncated", "duration_ms",
    ]  # fmt: skip
    assert response["question"] == name
    assert response["rows"], name
    assert len(response["rows"]) == response["row_count"] == record.row_count
    assert all(len(row) == len(response["columns"]) for row in response["rows"])
    assert response["columns"] == list(record.columns)
    assert response["duration_ms"] == record.duration_ms
    assert record.sql == load_catalogue()[name].sql
    assert record.error is None
    assert record.summary.endswith(f" in {record.duration_ms:,} ms")


async def check_answers(url: str) -> None:
    sales = decoded(await answer_question(job(url, "sales_by_month year=2021")))
    assert sales["parameters"] == {"year": 2021}
    assert [column["type"] for column in sales["columns"]] == ["date", "bigint", "bigint", "numeric", "numeric"]
    assert [row[0] for row in sales["rows"]] == [f"2021-{month:02}-01" for month in range(1, 13)]
    assert {row[4] for row in sales["rows"]} == {None}  # there is no year before

    top = decoded(await answer_question(job(url, "top_customers count=4000")))
    assert top["rows"][-1][6] == 100

    cut = decoded(await answer_question(job(url, "orders_since day=2025-01-01")))
    assert (cut["row_count"], cut["truncated"]) == (5_000, True)

    pairs = decoded(await answer_question(job(url, "every_pair share=5 count=3")))
    assert pairs["row_count"] == 3


async def check_broken(url: str) -> None:
    error = await refusal(answer_question(job(url, "broken")))
    assert "divides by zero" in str(error)
    (record,) = error.queries
    assert record.error == str(error)
    assert record.row_count is None
    assert [column["name"] for column in record.columns] == ["product", "month", "revenue_per_kept_unit"]
    assert record.duration_ms > 0


async def check_injection(connection: Connection, url: str) -> None:
    for text in ["'; drop table demo.orders; --", "' or '1'='1", "$1", "%", "_", r"\' or 1=1", "tea') or (true"]:
        answer = decoded(await answer_question(job(url, json.dumps({"question": "find_product", "name": f"{text:2}"}))))
        assert answer["rows"] == []
    assert await connection.fetchval("select count(*) from demo.orders") > 0


def test_cancelling_every_pair_stops_it_in_the_database(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        assert await install_demo_data(connection)
        async with connected(database_url) as worker:
            asked = Asked(question=load_catalogue()["every_pair"], arguments={"share": 100, "count": 1})
            await assert_cancellable(connection, worker, asked)

    on_database(database_url, test)


async def assert_cancellable(connection: Connection, worker: Connection, asked: Asked) -> None:
    # The view shows the first kilobyte of a query.
    active = "select count(*) from pg_stat_activity where pid = $1 and state = 'active' and starts_with($2, query)"
    answering = asyncio.create_task(ask(worker, asked))
    while not await connection.fetchval(active, worker.get_server_pid(), asked.question.sql):
        assert not answering.done()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert await connection.fetchval(active, worker.get_server_pid(), asked.question.sql) == 0
    await assert_clean(worker)


def test_a_schema_of_somebody_else_is_left_alone(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await connection.execute("create schema demo; create table demo.mine (number integer)")
        with pytest.raises(ConfigurationError, match="not Rowcast's"):
            await install_demo_data(connection)
        with pytest.raises(ConfigurationError, match="not Rowcast's"):
            await remove_demo_data(connection)
        assert await connection.fetchval("select to_regclass('demo.mine') is not null")

    on_database(database_url, test)


def test_an_older_version_is_replaced(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await connection.execute("create schema demo; create table demo.old (number integer)")
        await connection.execute("comment on schema demo is 'Rowcast demo data, version 0'")
        assert await install_demo_data(connection)
        assert await connection.fetchval("select to_regclass('demo.old') is null")

    on_database(database_url, test)


def test_an_application_role_without_rights_is_told_the_cure(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        role = f"application_{uuid4().hex}"
        await connection.execute(f"create role {role} nologin")
        try:
            await connection.execute(f"set session authorization {role}")
            with pytest.raises(ConfigurationError, match="GRANT rowcast_questions TO"):
                await install_demo_data(connection)
            error = await refusal(ask(connection, question("select number from region")))
            assert str(error).startswith("The demo data may not be read: run `rowcast demo-data` again")

            await connection.execute("reset session authorization")
            await connection.execute(f"grant rowcast_questions to {role}")
            await connection.execute(f"set session authorization {role}")
            assert not await install_demo_data(connection)
            assert decoded(await ask(connection, question("select number from region")))["rows"] == [[1]]
        finally:
            await connection.execute("reset session authorization")
            await connection.execute(f"drop role {role}")

    on_database(database_url, test)


def test_a_role_that_may_create_roles_installs_for_itself(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        role = f"application_{uuid4().hex}"
        await connection.execute(f"create role {role} nologin createrole")
        try:
            await connection.execute("drop role if exists rowcast_questions")
        except asyncpg.DependentObjectsStillExistError:  # another database of this cluster has the demo data
            await connection.execute(f"grant rowcast_questions to {role} with admin option")
        database = await connection.fetchval("select quote_ident(current_database())")
        await connection.execute(f"grant create on database {database} to {role}")
        try:
            await connection.execute(f"set session authorization {role}")
            assert await install_demo_data(connection)
            assert not await install_demo_data(connection)
            assert_well_formed(await ask(connection, asked_default("sales_by_month")), "sales_by_month")
            assert await remove_demo_data(connection)
        finally:
            await connection.execute("reset session authorization")
            await connection.execute(f"drop owned by {role}; drop role {role}")

    on_database(database_url, test)


def asked_default(name: str) -> Asked:
    chosen = load_catalogue()[name]
    return Asked(question=chosen, arguments=chosen.read_arguments([]))


# What a question cannot do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "refused_with"),
    [
        ("select * from public.secret", asyncpg.InsufficientPrivilegeError),
        ("select rolpassword from pg_authid", asyncpg.InsufficientPrivilegeError),
        ("select pg_read_file('/etc/passwd')", asyncpg.InsufficientPrivilegeError),
        ("insert into demo.region values (2)", asyncpg.PostgresError),
        ("update demo.region set number = 2", asyncpg.PostgresError),
        ("select * from demo.region for update", asyncpg.PostgresError),
        ("create table demo.mine (number integer)", asyncpg.PostgresError),
        ("create temporary table mine (number integer)", asyncpg.ReadOnlySQLTransactionError),
        ("create table public.mine (number integer)", asyncpg.PostgresError),
        ("set local transaction_read_only = off", asyncpg.PostgresError),
        ("select nextval('public.counter')", asyncpg.PostgresError),
        ("select * from secret", asyncpg.UndefinedTableError),
    ],
)
def test_the_confined_role_may_read_the_demo_data_and_nothing_else(
    database_url: str, statement: str, refused_with: type[asyncpg.PostgresError]
) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        await connection.execute("create table public.secret as select 'x' as token; create sequence public.counter")
        transaction = connection.transaction()
        await transaction.start()
        await confine(connection, Limits())
        assert await connection.fetchval("select number from region") == 1
        with pytest.raises(refused_with):
            await connection.fetch(statement)
        await transaction.rollback()
        await assert_clean(connection)

    on_database(database_url, test)


def test_the_role_can_read_no_table_outside_the_demo_data(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        await connection.execute("create table public.secret (token text); create schema app; create table app.t ()")
        readable = await connection.fetch(
            "select distinct nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace"
            " where has_schema_privilege('rowcast_questions', pg_namespace.oid, 'USAGE')"
            " and has_table_privilege('rowcast_questions', pg_class.oid, 'SELECT')"
            " and relkind in ('r', 'p', 'v', 'm', 'f')"
        )
        assert {row["nspname"] for row in readable} == {"demo", "pg_catalog", "information_schema"}
        may = await connection.fetchrow(
            "select rolsuper or rolcanlogin or rolcreaterole or rolcreatedb or rolbypassrls as much,"
            " has_schema_privilege('rowcast_questions', 'demo', 'CREATE') as create,"
            " has_table_privilege('rowcast_questions', 'demo.region', 'INSERT, UPDATE, DELETE, TRUNCATE') as write"
            " from pg_roles where rolname = 'rowcast_questions'"
        )
        assert may is not None
        assert not any(may.values())

    on_database(database_url, test)


def test_a_role_with_too_many_rights_is_not_used(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        async with connection.transaction():
            await connection.execute("alter role rowcast_questions login")
            with pytest.raises(ConfigurationError, match="take those rights away"):
                await install_demo_data(connection)
            await connection.execute("alter role rowcast_questions nologin")

    on_database(database_url, test)


# Limits, failures, cancellation --------------------------------------------------------------------------------------


def test_rows_beyond_the_limit_are_cut(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        for wanted, row_count, truncated in [(0, 0, False), (1, 1, False), (5_000, 5_000, False), (5_001, 5_000, True)]:
            answer = await ask(connection, question(f"select generate_series(1, {wanted}) as n"))
            response = decoded(answer)
            assert (response["row_count"], response["truncated"]) == (row_count, truncated)
            assert len(response["rows"]) == row_count
        assert answer.queries[0].summary.startswith("first 5,000 rows in ")
        assert (await ask(connection, question("select 1 as n"))).queries[0].summary.startswith("1 row in ")

    on_database(database_url, test)


def test_bytes_beyond_the_limit_are_cut(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        wide = question("select repeat('é\"', 1000) as text from generate_series(1, 100000)")
        answer = await ask(connection, wide)
        assert decoded(answer)["truncated"]
        assert 1_048_576 - 5_000 < len(answer.response.encode()) <= 1_048_576
        answer = await ask(connection, wide, limits=Limits(response_bytes=1_000))
        assert decoded(answer)["rows"] == []
        assert decoded(answer)["truncated"]

    on_database(database_url, test)


def test_values_keep_their_meaning_in_json(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        expected = {
            "null::integer": None,
            "true": True,
            "9007199254740991::bigint": 2**53 - 1,
            "9007199254740993::bigint": "9007199254740993",
            "12.50::numeric": 12.5,
            "7.00::numeric": 7,
            "0.1::numeric": 0.1,
            "-0.0::numeric": 0,
            "1234567890.123456789012::numeric": "1234567890.123456789012",
            "'NaN'::numeric": "NaN",
            "'1e400'::numeric": "1E+400",
            "1.5::double precision": 1.5,
            "'-infinity'::double precision": "-inf",
            "date '2024-02-29'": "2024-02-29",
            "timestamp '2024-02-29 12:30:00'": "2024-02-29T12:30:00",
            "timestamptz '2024-02-29 12:30:00+00'": "2024-02-29T12:30:00+00:00",
            "time '12:30'": "12:30:00",
            "array['a', null]": ["a", None],
            "'00000000-0000-0000-0000-000000000001'::uuid": "00000000-0000-0000-0000-000000000001",
            "'\"\\'": '"\\',
        }
        columns = ", ".join(f"{expression} as c{n}" for n, expression in enumerate(expected))
        (row,) = decoded(await ask(connection, question(f"select {columns}")))["rows"]
        assert dict(zip(expected, row, strict=True)) == expected

    on_database(database_url, test)


def test_a_question_that_takes_too_long_is_stopped(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        error = await refusal(ask(connection, question("select pg_sleep(60)"), limits=Limits(statement_timeout_ms=50)))
        assert str(error) == "The question took longer than 0.05 s and was stopped. Ask for less."
        assert error.queries[0].error == str(error)
        await assert_clean(connection)

        # Each fetch of 500 rows is fast enough, all of them are not.
        slow = question("select pg_sleep(0.001) from generate_series(1, 1000000)")
        error = await refusal(ask(connection, slow, limits=Limits(rows=1_000_000, statement_timeout_ms=1_000)))
        assert str(error) == "The question took longer than 1 s and was stopped. Ask for less."
        await assert_clean(connection)

    on_database(database_url, test)


def test_cancelling_the_task_leaves_no_query_and_a_clean_connection(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        async with connected(database_url) as worker:
            await assert_cancellable(connection, worker, question("select pg_sleep(60)"))
            assert decoded(await ask(worker, question("select 1 as n")))["rows"] == [[1]]

    on_database(database_url, test)


def test_a_locked_table_is_not_waited_for(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        async with connected(database_url) as other, other.transaction():
            await other.execute("lock table demo.region in access exclusive mode")
            error = await refusal(
                ask(connection, question("select number from region"), limits=Limits(lock_timeout_ms=20))
            )
        assert str(error).startswith("The demo data is locked")
        await assert_clean(connection)

    on_database(database_url, test)


def test_a_lost_connection_is_not_the_users_fault(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        async with connected(database_url) as worker:
            pid = worker.get_server_pid()
            answering = asyncio.create_task(ask(worker, question("select pg_sleep(60)")))
            active = "select count(*) from pg_stat_activity where pid = $1 and query = 'select pg_sleep(60)'"
            while not await connection.fetchval(active, pid):
                assert not answering.done()
            await connection.execute("select pg_terminate_backend($1)", pid)
            with pytest.raises(DatabaseUnavailable):
                await answering

    on_database(database_url, test)


def test_errors_of_the_database_show_nothing_internal(database_url: str) -> None:
    async def test(connection: Connection) -> None:
        await install_sketch(connection)
        secret = question("select 'hunter2'::integer as n")
        error = await refusal(ask(connection, secret))
        assert str(error) == "The question failed in the database (SQLSTATE 22P02)."
        assert str(await refusal(ask(connection, question("select 1/0 as n")))) == "The question divided by zero."
        hinted = replace(secret.question, hints={"22P02": "Not a number."})
        assert str(await refusal(ask(connection, replace(secret, question=hinted)))) == "Not a number."
        assert str(await refusal(ask(connection, question("select * from missing")))) == NOT_INSTALLED
        await assert_clean(connection)

    on_database(database_url, test)


def test_a_bad_request_opens_no_connection(database_url: str) -> None:
    async def test() -> None:
        opened: list[str] = []

        @asynccontextmanager
        async def connect() -> AsyncIterator[Connection]:
            opened.append(database_url)
            async with connected(database_url) as connection:
                yield connection

        bad = Job(request_id=uuid4(), session_id=uuid4(), text="sales_by_month year=1", connect=connect)
        error = await refusal(answer_question(bad))
        assert error.queries == ()
        assert not opened
        good = replace(bad, text="sales_by_month")
        assert str(await refusal(answer_question(good))) == NOT_INSTALLED
        assert opened

    asyncio.run(test())

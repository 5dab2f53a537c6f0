"""The worker: every request is answered once, and ends, whatever happens to worker, handler or database."""

import asyncio
import collections
import json
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.conftest import StartServer, wait_until
from tests.integration.worker.conftest import Desk, StartWorker, publish

from rowcast import DatabaseUnavailable
from rowcast.postgres.embedded import EmbeddedPostgres
from rowcast.service import migrations
from rowcast.service.leases import EVERY_SECONDS
from rowcast.service.settings import Settings
from rowcast.service.store.work import LOST_WORKER, Work
from rowcast.service.worker import FAILED, STOPPED

Log = Callable[..., str]
TERMINAL = {"done", "error"}


def waiting_for_jobs(desk: Desk) -> int:
    """How many workers are connected to the queue and wait for work."""
    (row,) = desk.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'rowcast-worker' AND state = 'idle' AND query ~* 'queue'"
    )
    count: int = row[0]
    return count


async def record_states(dsn: str, until: Callable[[list[dict[str, Any]]], bool], work: Callable[[], Any]) -> Any:
    """Hear every change of a request while `work` runs in a thread, until enough was heard."""
    heard: list[dict[str, Any]] = []
    connection = await asyncpg.connect(dsn)
    try:
        await connection.add_listener("request_update", lambda *event: heard.append(json.loads(event[3])))
        await asyncio.to_thread(work)
        async with asyncio.timeout(40):
            while not until(heard):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
    return heard


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "at commit"])
def test_a_request_and_its_job_are_written_together_or_not_at_all(desk: Desk, moment: str) -> None:
    session = desk.session()
    desk.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$")
    if moment == "at once":
        desk.sql("CREATE TRIGGER refuse BEFORE INSERT ON pgqueuer FOR EACH ROW EXECUTE FUNCTION refuse()")
    else:
        desk.sql(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON request DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    with pytest.raises(asyncpg.RaiseError):
        desk.ask("x", "pid", session=session)
    assert desk.sql("SELECT 1 FROM request UNION ALL SELECT 1 FROM pgqueuer") == []


def test_a_request_that_is_written_has_its_job(desk: Desk) -> None:
    (request,) = desk.ask("x", "pid")
    (job,) = desk.sql("SELECT id, payload, entrypoint FROM pgqueuer")
    assert (job["id"], job["payload"].decode()) == (desk.row(request)["job_id"], str(request))


# -- answering ---------------------------------------------------------------------------------------------------------


def test_a_question_goes_from_pending_to_done_with_response_and_metadata(
    demo_database: str, start_server: StartServer, start_worker: StartWorker
) -> None:
    server = start_server(database_url=demo_database)
    start_worker(database_url=demo_database)
    with server.client() as client:
        session = client.post("/api/session").json()["session_id"]

        def ask() -> None:
            asked = client.post(f"/api/request/{session}", json={"request": "sales_by_month year=2025"})
            assert asked.status_code == 201

        heard = asyncio.run(record_states(demo_database, lambda it: bool(it) and it[-1]["terminal"], ask))
        assert [state["status"] for state in heard] == ["pending", "in_progress", "done"]
        assert [state["version"] for state in heard] == sorted(state["version"] for state in heard)
        request = client.get(f"/api/request/{session}/1").json()
        response = json.loads(request["response"])
        assert response["row_count"] == 12
        (query_id,) = request["query_ids"]
        query = client.get(f"/api/query/{query_id}").json()
        assert query["row_count"] == 12
        assert query["request_id"] == request["request_id"]
        assert query["columns"] == response["columns"]
        assert query["error"] is None


def test_what_cannot_be_answered_ends_as_an_error_with_a_hint(
    demo_database: str, desk_at: Callable[[str], Desk], start_worker: StartWorker
) -> None:
    desk = desk_at(demo_database)
    start_worker(database_url=demo_database)
    for text, hint in (("sales_by_moth", "sales_by_month"), ("sales_by_month year=soon", "year"), ("broken", "")):
        (request,) = desk.ask(text, "questions")
        wait_until(desk.is_now(request, "error"), what="the request ends")
        error = desk.row(request)["error"]
        assert error
        assert hint in error
        assert "Traceback" not in error


def test_several_workers_share_the_requests_and_answer_each_once(desk: Desk, start: StartWorker) -> None:
    workers = {str(start(ROWCAST_WORKER_CONCURRENCY=4).pid) for _ in range(3)}
    wait_until(lambda: waiting_for_jobs(desk) >= 3, what="three workers wait")
    asked: list[uuid.UUID] = []

    def ask() -> None:
        session = desk.session()
        asked.extend(desk.ask("x", "pid", session=session, times=60))

    heard = asyncio.run(record_states(desk.dsn, lambda it: sum(s["terminal"] for s in it) >= 60, ask))
    steps = collections.Counter((state["request_id"], state["status"]) for state in heard)
    assert steps == {(str(request), status): 1 for request in asked for status in ("pending", "in_progress", "done")}
    answered_by = {row["response"] for row in desk.sql("SELECT response FROM request")}
    assert len(answered_by) >= 2
    assert answered_by <= workers
    wait_until(lambda: desk.sql("SELECT 1 FROM pgqueuer") == [], what="the queue is empty")


def test_a_worker_of_concurrency_one_runs_one_at_a_time(desk: Desk, start: StartWorker, tmp_path: Path) -> None:
    worker = start(ROWCAST_WORKER_CONCURRENCY=1)
    first, second = desk.ask(str(tmp_path), "held", times=2)
    wait_until((tmp_path / f"{worker.pid}.began").exists, what="the first runs")
    (row,) = desk.sql("SELECT count(*) FILTER (WHERE status = 'in_progress') AS running FROM request")
    assert row["running"] == 1
    # Whoever waits for the one slot when the worker stops goes back to the queue, to the next worker.
    worker.terminate()
    assert worker.wait(10) == 0
    assert sorted(desk.row(each)["status"] for each in (first, second)) == ["error", "pending"]
    successor = start()
    (tmp_path / str(successor.pid)).touch()
    wait_until(
        lambda: sorted(desk.row(each)["status"] for each in (first, second)) == ["done", "error"],
        what="the waiting one is answered",
    )


def test_psql_is_a_worker_just_as_well(desk: Desk, run_sql: Callable[[str, str], str]) -> None:
    (request,) = desk.ask("by hand", "words")
    begin = f"UPDATE request SET status = 'in_progress' WHERE request_id = '{request}' AND status = 'pending';"
    end = f"UPDATE request SET status = 'done', response = '42' WHERE request_id = '{request}';"

    def work() -> None:
        run_sql(desk.dsn, begin)
        run_sql(desk.dsn, end)

    heard = asyncio.run(record_states(desk.dsn, lambda it: len(it) >= 2, work))
    assert [(state["status"], state["has_response"]) for state in heard] == [("in_progress", False), ("done", True)]
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        run_sql(desk.dsn, begin.replace("AND status = 'pending'", ""))
    assert "cannot go from done to in_progress" in refusal.value.stderr


def test_a_handler_of_ones_own_is_ten_lines_and_an_entry_point(
    desk: Desk, start_worker: StartWorker, tmp_path: Path
) -> None:
    page = Path(__file__).parents[3].joinpath("docs/how-to/write-a-handler.md").read_text()
    code, points = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL)[:2]
    assert len(code.strip().splitlines()) <= 12
    (tmp_path / "word_counter.py").write_text(code)
    publish(tmp_path, "word_counter", re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", points).replace('"', ""))
    start_worker(PYTHONPATH=tmp_path)
    (counted,), (empty,) = desk.ask("one two three", "words"), desk.ask("  ", "words")
    wait_until(desk.is_now(counted, "done"), what="the words are counted")
    assert desk.row(counted)["response"] == "3"
    wait_until(desk.is_now(empty, "error"), what="no words are refused")
    assert desk.row(empty)["error"] == "Send some words to count."


# -- handlers that misbehave -------------------------------------------------------------------------------------------


def test_whatever_a_handler_does_its_request_ends_and_the_worker_lives(
    desk: Desk, start: StartWorker, misbehaviour: tuple[str, ...], worker_log: Log
) -> None:
    worker = start()
    requests = {name: desk.ask("x", name)[0] for name in misbehaviour}
    for name, request in requests.items():
        wait_until(desk.is_now(request, "error"), what=f"{name} has ended")
        assert desk.row(request)["error"] == FAILED.error, name
    (fine,) = desk.ask("x", "pid")
    wait_until(desk.is_now(fine, "done"), what="others are answered")
    assert worker.poll() is None
    assert "internal detail" in worker_log()


def test_a_refusal_is_told_with_its_queries(desk: Desk, start: StartWorker) -> None:
    start()
    (request,) = desk.ask("x", "refuses")
    wait_until(desk.is_now(request, "error"), what="it is refused")
    assert desk.row(request)["error"] == "Ask for less."
    (query,) = desk.sql("SELECT sql, error FROM query WHERE request_id = $1", request)
    assert tuple(query) == ("select 1", "too much")


def test_an_unknown_handler_is_named_with_those_there_are(desk: Desk, start: StartWorker) -> None:
    start()
    (request,) = desk.ask("x", "nobody")
    wait_until(desk.is_now(request, "error"), what="it is refused")
    error = desk.row(request)["error"]
    assert error.startswith("There is no handler 'nobody' here; there are: ")
    assert "questions" in error


def test_a_handler_that_blocks_loses_its_request_and_cannot_keep_its_worker(
    desk: Desk, start: StartWorker, tmp_path: Path
) -> None:
    blocked = start(ROWCAST_WORKER_CONCURRENCY=1)
    (request,) = desk.ask(str(tmp_path / "blocking"), "blocks")
    wait_until((tmp_path / "blocking").exists, what="it blocks")
    start()
    wait_until(desk.is_now(request, "error"), what="the request ends")
    assert desk.row(request)["error"] == LOST_WORKER
    blocked.terminate()
    assert blocked.wait(15) == 1


def test_a_handler_that_will_not_be_cancelled_is_left_behind(desk: Desk, start: StartWorker, worker_log: Log) -> None:
    worker = start()
    (request,) = desk.ask("x", "stubborn")
    wait_until(desk.is_now(request, "in_progress"), what="it runs")
    worker.terminate()
    wait_until(desk.is_now(request, "error"), what="the request ends")
    assert desk.row(request)["error"] == STOPPED.error
    assert worker.wait(15) == 1
    assert "does not let itself be stopped" in worker_log()


# -- workers that die --------------------------------------------------------------------------------------------------


def test_by_default_a_lost_worker_is_noticed_within_thirty_seconds() -> None:
    lease = Settings.model_fields["lease_seconds"]
    assert lease.default + EVERY_SECONDS <= 30
    assert max(each.le for each in lease.metadata if hasattr(each, "le")) + EVERY_SECONDS <= 30


@pytest.mark.fault(35)
def test_the_server_ends_what_a_killed_worker_left(
    demo_database: str, start_server: StartServer, start_worker: StartWorker, desk_at: Callable[[str], Desk]
) -> None:
    """Nobody else is left to do it, and the query that the worker ran is of no use to anybody."""
    desk = desk_at(demo_database)
    start_server(database_url=demo_database, ROWCAST_LEASE_SECONDS=2)
    worker = start_worker(database_url=demo_database, ROWCAST_LEASE_SECONDS=2)
    (request,) = desk.ask("every_pair share=100", "questions")
    wait_until(lambda: desk.running("bought"), what="the question runs")
    worker.kill()
    killed = time.monotonic()
    wait_until(desk.is_now(request, "error"), what="the request ends")
    assert time.monotonic() - killed < 2 + EVERY_SECONDS + 2
    assert desk.row(request)["error"] == LOST_WORKER
    assert "Retry" in LOST_WORKER


@pytest.mark.fault(35)
def test_another_worker_ends_what_a_killed_worker_left_and_takes_the_retry(desk: Desk, start: StartWorker) -> None:
    worker = start()
    (request,) = desk.ask("select pg_sleep(600)", "sql")
    wait_until(lambda: desk.running("pg_sleep"), what="it runs")
    start()
    worker.kill()
    wait_until(desk.is_now(request, "error"), what="the request ends")
    assert desk.row(request)["error"] == LOST_WORKER
    desk.retry(request)
    wait_until(desk.is_now(request, "in_progress"), what="it runs again")
    assert desk.row(request)["error"] is None


def test_a_worker_that_was_thought_lost_changes_nothing_when_it_comes_back(
    desk: Desk, start: StartWorker, tmp_path: Path
) -> None:
    asleep = start()
    (request,) = desk.ask(str(tmp_path), "held")
    wait_until((tmp_path / f"{asleep.pid}.began").exists, what="the first worker runs it")
    asleep.send_signal(signal.SIGSTOP)
    awake = start()
    wait_until(desk.is_now(request, "error"), what="the first worker counts as lost")
    desk.retry(request)
    wait_until((tmp_path / f"{awake.pid}.began").exists, what="the second worker runs it")
    (tmp_path / str(asleep.pid)).touch()
    asleep.send_signal(signal.SIGCONT)
    wait_until((tmp_path / f"{asleep.pid}.ended").exists, what="the first worker is through with it")
    (tmp_path / str(awake.pid)).touch()
    wait_until(desk.is_now(request, "done"), what="it is answered")
    assert desk.row(request)["response"] == str(awake.pid)


def test_a_job_that_names_no_request_is_dropped(desk: Desk, start: StartWorker, worker_log: Log) -> None:
    start()
    desk.sql(
        "INSERT INTO pgqueuer (priority, status, entrypoint, payload)"
        " VALUES (0, 'queued', 'rowcast.request', 'no uuid')"
    )
    wait_until(lambda: desk.sql("SELECT 1 FROM pgqueuer") == [], what="the job is gone")
    assert "names no request" in worker_log()


# -- workers that are stopped ------------------------------------------------------------------------------------------


def test_sigterm_lets_running_work_end(desk: Desk, start: StartWorker, tmp_path: Path, worker_log: Log) -> None:
    worker = start(ROWCAST_WORKER_GRACE_SECONDS=20)
    (running,) = desk.ask(str(tmp_path), "held")
    wait_until((tmp_path / f"{worker.pid}.began").exists, what="it runs")
    worker.terminate()
    (late,) = desk.ask("x", "pid")
    (tmp_path / str(worker.pid)).touch()
    assert worker.wait(10) == 0
    assert desk.row(running)["status"] == "done"
    assert desk.row(late)["status"] in ("pending", "done")
    assert "Traceback" not in worker_log()
    assert desk.sql("SELECT 1 FROM pgqueuer WHERE id = $1", desk.row(running)["job_id"]) == []


@pytest.mark.parametrize("way", ["the grace is over", "a second signal"])
def test_what_does_not_end_in_time_ends_as_an_error(desk: Desk, start: StartWorker, worker_log: Log, way: str) -> None:
    worker = start(ROWCAST_WORKER_GRACE_SECONDS=0.2 if way == "the grace is over" else 600)
    (waiting,), (asking,) = desk.ask("x", "never"), desk.ask("select pg_sleep(600)", "sql")
    wait_until(lambda: desk.is_now(waiting, "in_progress")() and desk.running("pg_sleep"), what="both run")
    worker.terminate()
    if way == "a second signal":
        worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 0
    for request in (waiting, asking):
        assert (desk.row(request)["status"], desk.row(request)["error"]) == ("error", STOPPED.error)
    assert "Traceback" not in worker_log()
    wait_until(lambda: not desk.running("pg_sleep"), what="the query is cancelled")


def test_an_idle_worker_stops_at_once(desk: Desk, start: StartWorker) -> None:
    worker = start(ROWCAST_WORKER_GRACE_SECONDS=600)
    wait_until(lambda: waiting_for_jobs(desk) >= 1, what="the worker waits")
    began = time.monotonic()
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 0
    assert time.monotonic() - began < 5


# -- what runs is taken back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["request", "session"])
def test_deleting_cancels_the_query_that_runs_for_it(
    start_server: StartServer, desk: Desk, start: StartWorker, what: str, worker_log: Log
) -> None:
    server, worker = start_server(), start(ROWCAST_LEASE_SECONDS=25)
    with server.client() as client:
        session = client.post("/api/session").json()["session_id"]
        asked = client.post(f"/api/request/{session}", json={"request": "select pg_sleep(600)", "handler": "sql"})
        request = asked.json()["request_id"]
        wait_until(lambda: desk.running("pg_sleep"), what="the query runs")
        began = time.monotonic()
        gone = client.delete(f"/api/request/{request}" if what == "request" else f"/api/session/{session}")
        assert gone.status_code == 204
        wait_until(lambda: not desk.running("pg_sleep"), what="the query is cancelled", seconds=5)
        assert time.monotonic() - began < 5
    assert worker.poll() is None
    assert "Traceback" not in worker_log()


def test_a_row_that_is_deleted_in_sql_is_noticed_with_the_next_lease(desk: Desk, start: StartWorker) -> None:
    start()
    (request,) = desk.ask("select pg_sleep(600)", "sql")
    wait_until(lambda: desk.running("pg_sleep"), what="the query runs")
    desk.sql("DELETE FROM request WHERE request_id = $1", request)
    wait_until(lambda: not desk.running("pg_sleep"), what="the query is cancelled", seconds=5)


def test_retry_runs_again(desk: Desk, start: StartWorker) -> None:
    start()
    (request,) = desk.ask("x", "pid")
    wait_until(desk.is_now(request, "done"), what="it is answered")
    first = desk.row(request)
    desk.retry(request)
    wait_until(
        lambda: desk.row(request)["rowcast_version"] >= first["rowcast_version"] + 3, what="it is answered again"
    )
    again = desk.row(request)
    assert (again["status"], again["response"]) == ("done", first["response"])


# -- the database goes away --------------------------------------------------------------------------------------------


def test_a_worker_survives_a_restart_of_the_database(
    tmp_path: Path, start: StartWorker, desk_at: Callable[[str], Desk], worker_log: Log
) -> None:
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        migrations.migrate(postgres.dsn())
        desk = desk_at(postgres.dsn())
        worker = start(database_url=postgres.dsn(), ROWCAST_LEASE_SECONDS=10)
        (running,) = desk.ask(str(tmp_path), "held")
        wait_until((tmp_path / f"{worker.pid}.began").exists, what="it runs")
        (asking,) = desk.ask("select pg_sleep(600)", "sql")
        wait_until(lambda: desk.running("pg_sleep"), what="a query runs")
        postgres.stop("immediate")
        (tmp_path / str(worker.pid)).touch()  # it ends while there is nowhere to write that
        postgres.start()
        wait_until(lambda: _safely(desk.is_now(running, "done")), what="the answer is written")
        assert desk.row(running)["response"] == str(worker.pid)
        wait_until(desk.is_now(asking, "error"), what="the query ends")
        assert "database went away" in desk.row(asking)["error"]
        (later,) = desk.ask("x", "pid")
        wait_until(desk.is_now(later, "done"), what="it works on")
        assert worker.poll() is None
        assert "Traceback" not in worker_log()


def test_while_an_old_request_runs_on_a_worker_takes_new_ones_after_a_restart(
    tmp_path: Path, start: StartWorker, desk_at: Callable[[str], Desk]
) -> None:
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        migrations.migrate(postgres.dsn())
        desk = desk_at(postgres.dsn())
        worker = start(database_url=postgres.dsn(), ROWCAST_LEASE_SECONDS=10)
        (long,) = desk.ask(str(tmp_path), "held")
        wait_until((tmp_path / f"{worker.pid}.began").exists, what="it runs")
        postgres.restart("immediate")
        (later,) = desk.ask("x", "pid")
        wait_until(desk.is_now(later, "done"), what="the new one is answered")
        assert desk.row(long)["status"] == "in_progress"
        (tmp_path / str(worker.pid)).touch()
        wait_until(desk.is_now(long, "done"), what="the old one is answered")


def test_a_database_that_was_down_for_longer_than_the_lease_costs_no_request(
    tmp_path: Path, desk_at: Callable[[str], Desk]
) -> None:
    """Nobody could renew a lease meanwhile: whoever comes first after the start must not end what others still run."""
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        migrations.migrate(postgres.dsn())
        desk = desk_at(postgres.dsn())
        (request,) = desk.ask("x", "pid")
        desk.sql(
            "UPDATE request SET status = 'in_progress', lease_until = clock_timestamp() - interval '1 hour'"
            " WHERE request_id = $1",
            request,
        )
        ended = [desk.run(lambda it, lease=lease: Work(it, lease_seconds=lease).end_lost()) for lease in (600, 0)]
        assert ended == [0, 1]
        assert desk.row(request)["error"] == LOST_WORKER


def _safely(is_true: Callable[[], bool]) -> bool:
    try:
        return is_true()
    except DatabaseUnavailable:
        return False


# -- hostile texts -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE request; --",
    'sales_by_month year=2025"; select 1',
    '{"question": "sales_by_month", "year": {"$ne": 1}}',
    "sales_by_month year=(select 1)",
    "x" * 65_000,
    "😀" * 4000,
    "\x01\x02\x1b[31m\x7f\u202e",
    "[" * 30_000,
    "%s %(x)s {0} ${jndi:ldap://x} $1",
    "\n\r\t",
]


def test_no_text_does_harm(
    demo_database: str, start_server: StartServer, start_worker: StartWorker, desk_at: Callable[[str], Desk]
) -> None:
    desk = desk_at(demo_database)
    server, worker = start_server(database_url=demo_database), start_worker(database_url=demo_database)
    tables = desk.sql("SELECT schemaname, tablename FROM pg_tables ORDER BY 1, 2")
    with server.client() as client:
        session = client.post("/api/session").json()["session_id"]

        def ask(body: str) -> int:
            headers = {"Content-Type": "application/json"}
            status: int = client.post(f"/api/request/{session}", content=body, headers=headers).status_code
            return status

        for text in HOSTILE:
            assert ask(json.dumps({"request": text})) in (201, 413), text[:40]
        assert ask('{"request": "a\\u0000b"}') == 422
        assert ask('{"request": "a\\ud800b"}') == 422
        assert ask('{"request": "x", "handler": "../../etc/passwd"}') == 422
        assert ask(json.dumps({"request": "x" * 70_000})) == 413
        wait_until(
            lambda: {row["status"] for row in desk.sql("SELECT status::text FROM request")} <= TERMINAL,
            what="all have ended",
        )
        # Each is refused by the handler itself, with words for the user: none came as far as to break it.
        errors = [row["error"] for row in desk.sql("SELECT error FROM request")]
        assert all(errors)
        assert FAILED.error not in errors
        assert desk.sql("SELECT schemaname, tablename FROM pg_tables ORDER BY 1, 2") == tables
        assert ask('{"request": "sales_by_month year=2025"}') == 201
        wait_until(
            lambda: desk.sql("SELECT 1 FROM request WHERE status = 'done'"), what="an honest question is answered"
        )
    assert worker.poll() is None

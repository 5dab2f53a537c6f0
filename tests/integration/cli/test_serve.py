"""The server as a process: by its own command, and by uvicorn's."""

import os
import signal
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import httpx2
import pytest
from tests.conftest import free_port, wait_until
from tests.integration.cli.conftest import Begin, Rowcast

from rowcast.postgres.embedded import EmbeddedPostgres

UVICORN = [sys.executable, "-m", "uvicorn", "rowcast.service.main:app"]


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("arguments", "number"),
    [([], signal.SIGTERM), ([], signal.SIGINT), (["--workers", "2"], signal.SIGTERM)],
    ids=["term", "int", "two"],
)
def test_serve_ends_when_told_to(
    begin: Begin, service_database: str, key_file: Path, arguments: list[str], number: int
) -> None:
    port = free_port()
    running = begin(
        "serve",
        "--port",
        str(port),
        *arguments,
        ROWCAST_DATABASE_URL=service_database,
        ROWCAST_SIGNING_KEY_FILE=key_file,
        ROWCAST_DRAIN_SECONDS=0,
    )
    wait_until(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200, what="it is ready")
    os.killpg(running.process.pid, number)
    assert running.process.wait(15) == 0
    wait_until(lambda: group_is_gone(running.process.pid), what="no process is left")
    assert "Traceback" not in running.errors


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]], ids=["one", "two"])
def test_uvicorn_runs_it_too(begin: Begin, service_database: str, key_file: Path, arguments: list[str]) -> None:
    port = free_port()
    running = begin(
        "--port",
        str(port),
        *arguments,
        command=UVICORN,
        ROWCAST_DATABASE_URL=service_database,
        ROWCAST_SIGNING_KEY_FILE=key_file,
        ROWCAST_GUEST_ENABLED="true",
        ROWCAST_DRAIN_SECONDS=0,
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: status_of(f"{url}/readyz") == 200, what=lambda: f"it is ready\n{running.errors}")
    token = httpx2.post(f"{url}/api/auth/guest").json()["token"]
    for _ in range(6):  # new connections, so that each process is asked
        answer = httpx2.post(f"{url}/api/session", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 201
    running.process.terminate()
    running.process.wait(15)
    wait_until(lambda: group_is_gone(running.process.pid), what="no process is left")


def test_uvicorn_starts_before_the_migration_and_recovers(begin: Begin, rowcast: Rowcast, database_url: str) -> None:
    port = free_port()
    running = begin("--port", str(port), command=UVICORN, ROWCAST_DATABASE_URL=database_url)
    url = f"http://127.0.0.1:{port}/readyz"
    wait_until(lambda: status_of(url) == 503, what="it runs, and is not ready")
    assert status_of(url.replace("readyz", "livez")) == 200
    assert rowcast("migrate", ROWCAST_DATABASE_URL=database_url).returncode == 0
    wait_until(lambda: status_of(url) == 200, what=lambda: f"it is ready\n{running.errors}")


def test_uvicorn_starts_before_the_database_and_recovers(
    begin: Begin, postgres: EmbeddedPostgres, migrated_template: str
) -> None:
    name, port = f"later_{uuid.uuid4().hex[:12]}", free_port()
    running = begin("--port", str(port), command=UVICORN, ROWCAST_DATABASE_URL=postgres.dsn(name))
    url = f"http://127.0.0.1:{port}/readyz"
    wait_until(lambda: status_of(url) == 503, what="it runs, and is not ready")
    postgres.create_database(name, migrated_template)
    try:
        wait_until(lambda: status_of(url) == 200, what=lambda: f"it is ready\n{running.errors}")
    finally:
        running.process.terminate()
        running.process.wait(15)
        postgres.drop_database(name)


def test_uvicorn_says_in_one_line_what_is_wrong_with_the_settings(begin: Begin) -> None:
    running = begin("--port", str(free_port()), command=UVICORN, ROWCAST_HEARTBEAT_MSEC=1)
    assert running.process.wait(30) == 1
    assert running.errors.strip().splitlines() == [
        "rowcast: unknown setting ROWCAST_HEARTBEAT_MSEC; did you mean ROWCAST_HEARTBEAT_MS?"
    ]

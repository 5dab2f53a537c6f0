"""`rowcast demo`: one line when it is ready, everything gone when it ends, however it ends."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.conftest import free_port, wait_until
from tests.integration.cli.conftest import Begin, Rowcast, Running

from rowcast.postgres.cluster import name_of
from rowcast.postgres.postmaster import processes_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that the demos of this module share, one after the other."""
    directory = tmp_path_factory.mktemp("demo") / "kept"
    yield directory
    shutil.rmtree(directory)


Start = Callable[..., tuple[Running, str]]


@pytest.fixture
def start(begin: Begin, data: Path) -> Start:
    """Start the demo and return it with its address."""

    def start(**settings: object) -> tuple[Running, str]:
        port = free_port()
        running = begin("demo", "--data", str(data), PORT=port, **settings)
        running.says("\n")
        assert running.output == f"Rowcast is ready: http://127.0.0.1:{port}  (Ctrl-C stops it)\n"
        return running, f"http://127.0.0.1:{port}"

    return start


def postgres_of(data: Path) -> list[int]:
    """The processes of the embedded PostgreSQL, if there are any."""
    cluster = data / "postgres"
    return processes_of(name_of(cluster), owner=cluster.stat().st_uid) if cluster.exists() else []


def nothing_is_left(running: Running, data: Path) -> None:
    def group_is_gone() -> bool:
        try:
            os.killpg(running.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(lambda: group_is_gone() and not postgres_of(data), what="no process is left", seconds=10)


def test_it_runs_everything_and_keeps_its_data(start: Start, data: Path) -> None:
    running, url = start()
    with httpx2.Client(base_url=url) as client:
        assert "<html" in client.get("/").text
        token = client.post("/api/auth/guest").json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        session = client.post("/api/session").json()["session_id"]
        assert client.post(f"/api/request/{session}", json={"request": "sales_by_month"}).status_code == 201
        wait_until(
            lambda: client.get(f"/api/request/{session}/1").json()["status"] == "done", what="a question is answered"
        )
    running.process.terminate()
    assert running.process.wait(10) == 0
    nothing_is_left(running, data)

    began = time.monotonic()
    running, url = start()
    assert time.monotonic() - began < 30
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get(f"/api/request/{session}/1").json()["status"] == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_quickly_and_quietly_even_when_busy(start: Start, data: Path, number: int) -> None:
    running, url = start()
    with httpx2.Client(base_url=url) as client:
        client.headers["Authorization"] = f"Bearer {client.post('/api/auth/guest').json()['token']}"
        session = client.post("/api/session").json()["session_id"]
        client.post(f"/api/request/{session}", json={"request": "every_pair share=100"})
        wait_until(lambda: client.get(f"/api/request/{session}/1").json()["status"] == "in_progress", what="it is busy")
        with client.stream("GET", f"/api/sse/{session}", headers={"Accept": "text/event-stream"}) as stream:
            assert "connected" in next(stream.iter_text())
            began = time.monotonic()
            os.killpg(running.process.pid, number)
            assert running.process.wait(15) == 0
    assert time.monotonic() - began < 8
    nothing_is_left(running, data)
    assert running.errors == ""
    assert len(running.output.splitlines()) == 1


@pytest.mark.fault(64)
def test_killed_it_leaves_nothing_running_and_starts_again(start: Start, data: Path) -> None:
    running, _ = start()
    assert postgres_of(data)
    running.process.kill()
    running.process.wait()
    nothing_is_left(running, data)
    start()


def test_a_second_one_on_the_same_data_is_refused(start: Start, rowcast: Rowcast, data: Path) -> None:
    running, _ = start()
    result = rowcast("demo", "--data", str(data), PORT=free_port())
    assert result.returncode == 1
    assert "is in use by PostgreSQL" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert running.process.poll() is None


def test_a_start_that_fails_leaves_nothing_running(start: Start, rowcast: Rowcast, data: Path) -> None:
    running, _ = start()
    running.process.terminate()
    running.process.wait(10)
    key = data / "signing-key.pem"
    good = key.read_bytes()
    key.write_text("no key")
    try:
        result = rowcast("demo", "--data", str(data), PORT=free_port())
    finally:
        key.write_bytes(good)
    assert result.returncode == 1
    assert str(key) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert postgres_of(data) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_starts_it_leaves_nothing_running(begin: Begin, tmp_path: Path, number: int) -> None:
    data = tmp_path / "new"
    running = begin("demo", "--data", str(data), PORT=free_port())
    wait_until(lambda: postgres_of(data), what="PostgreSQL runs")
    os.killpg(running.process.pid, number)
    assert running.process.wait(15) == 0
    nothing_is_left(running, data)
    assert (running.output, running.errors) == ("", "")


def test_it_uses_the_database_that_is_set(begin: Begin, service_database: str, tmp_path: Path) -> None:
    data = tmp_path / "new"
    running = begin("demo", "--data", str(data), PORT=free_port(), ROWCAST_DATABASE_URL=service_database)
    running.says("ready")
    assert [path.name for path in data.iterdir()] == ["signing-key.pem"]
    assert (data / "signing-key.pem").stat().st_mode & 0o077 == 0
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 0

"""Rowcast in somebody else's application: the how-to, word for word, on a real server."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest

from database import execute
from rowcast import ConfigurationError, Hub, Watch
from rowcast.http import live_routes
from rowcast.postgres import postgres_hub
from wire import browser, get, parse_frame, refusal

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-to-your-app.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture(scope="module")
def mounted(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Any]]:
    """The application of the how-to: its address, its database, its process."""
    name = f"mounted_{uuid4().hex[:8]}"
    dsn = postgres.create_database(name)
    folder = tmp_path_factory.mktemp("mounted")
    for text in blocks("python"):
        if match := re.match(r"# (\w+\.py)\n", text):
            (folder / match[1]).write_text(text)
    (table,) = blocks("sql")
    execute(dsn, table)
    environment = {**os.environ, "DATABASE_URL": dsn}
    subprocess.run([sys.executable, "install.py"], cwd=folder, env=environment, check=True, timeout=60)
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0", "--no-access-log"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        assert match is not None
        wait_for_listen(match[1])
        try:
            yield match[1], dsn, process
        finally:
            process.terminate()
            process.communicate(timeout=20)
            postgres.drop_database(name)
    assert process.returncode in (0, -15)


def wait_for_listen(url: str) -> None:
    """Until the database is listened to, a stream is a 503."""
    deadline = time.monotonic() + 20
    with browser(url, {"X-User": "nobody"}) as client:
        while True:
            with client.stream("GET", "/sse/nobody") as response:
                if response.status_code == 200:
                    return
                assert response.status_code == 503
            assert time.monotonic() < deadline
            time.sleep(0.02)


def psql(dsn: str, statement: str) -> None:
    subprocess.run(["psql", "-qX", "-v", "ON_ERROR_STOP=1", dsn, "-c", statement], check=True, timeout=20)


class Curl:
    """`curl -N` and the frames it prints."""

    def __init__(self, url: str, *arguments: str) -> None:
        command = ["curl", "-sSN", "--max-time", "30", *arguments, url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)

    def next(self) -> Any:
        assert self.process.stdout is not None
        lines = []
        while (line := self.process.stdout.readline()) not in (b"\n", b""):
            lines.append(line.rstrip(b"\n"))
        return parse_frame(b"\n".join(lines))

    def news(self) -> Any:
        while (frame := self.next()).event == "heartbeat":
            pass
        return frame


@pytest.fixture
def connected(mounted: tuple[str, str, Any]) -> Iterator[Callable[..., Curl]]:
    """Return what opens a stream for an account and reads up to `synced`."""
    opened: list[Curl] = []
    url, _, _ = mounted

    def connect(account: str, *arguments: str) -> Curl:
        curl = Curl(f"{url}/sse/{account}?proto=1", "-H", f"X-User: {account}", "--fail", *arguments)
        opened.append(curl)
        return curl

    yield connect
    for curl in opened:
        curl.__exit__()


def test_a_row_written_by_psql_arrives(mounted: tuple[str, str, Any], connected: Callable[..., Curl]) -> None:
    url, dsn, _ = mounted
    curl = connected("acme")
    hello, everything, synced = curl.next(), curl.next(), curl.next()
    assert (hello.event, hello.data["account"], hello.data["mode"]) == ("connected", "acme", "snapshot")
    assert (everything.event, everything.data["reports"]) == ("snapshot", [])
    assert synced.event == "synced"

    psql(dsn, "INSERT INTO report (account) VALUES ('acme'), ('umbrella')")
    added = curl.news()
    assert added.event == "report_update"
    assert set(added.data) == {"report_id", "account", "state", "has_body", "version", "terminal", "cause"}
    assert (added.data["account"], added.data["state"]) == ("acme", "queued")
    assert (added.data["has_body"], added.data["terminal"], added.data["cause"]) == (False, False, "live")

    psql(dsn, "UPDATE report SET state = 'ready', body = 'All is well.' WHERE account = 'acme'")
    ready = curl.news()
    assert (ready.data["state"], ready.data["has_body"], ready.data["terminal"]) == ("ready", True, True)
    assert ready.data["version"] > added.data["version"]
    assert "All is well" not in json.dumps(ready.data)

    polled = get(f"{url}/account/acme/reports", headers={"X-User": "acme"})
    assert polled.json()["reports"] == [{k: v for k, v in ready.data.items() if k != "cause"}]
    assert polled.json()["account"] == "acme"

    psql(dsn, "DELETE FROM report WHERE account = 'acme'")
    gone = curl.news()
    assert (gone.event, gone.data["report_id"]) == ("report_removed", added.data["report_id"])


def test_a_client_that_comes_back_gets_what_it_missed(
    mounted: tuple[str, str, Any], connected: Callable[..., Curl]
) -> None:
    _, dsn, _ = mounted
    with connected("initech") as curl:
        position = [curl.next(), curl.next(), curl.next()][-1].id
    psql(dsn, "INSERT INTO report (account) VALUES ('initech')")
    curl = connected("initech", "-H", f"Last-Event-ID: {position}")
    assert curl.next().data["mode"] == "resume"
    missed = curl.next()
    assert (missed.event, missed.data["cause"]) == ("report_update", "catchup")


def test_authorize_has_the_last_word(mounted: tuple[str, str, Any]) -> None:
    url, _, _ = mounted
    for path in ("/sse/acme", "/account/acme/reports"):
        refusal(get(url + path), 401, "unauthorized")
        refusal(get(url + path, headers={"X-User": "umbrella"}), 404, "not_found")
    refusal(get(f"{url}/sse/{'x' * 65}", headers={"X-User": "x"}), 400, "invalid_request")


def test_it_stops_when_it_is_told_to(
    mounted: tuple[str, str, Any], connected: Callable[..., Curl], wait_for_fact: Callable[..., None]
) -> None:
    """Last of this file: with a stream open, as uvicorn alone would not."""
    _, _, process = mounted
    curl = connected("acme")
    assert [curl.next().event for _ in range(3)] == ["connected", "snapshot", "synced"]
    process.terminate()
    assert curl.news().event == "goodbye"
    assert process.wait(timeout=20) in (0, -15)


class TestRoutes:
    @pytest.fixture
    def hub(self) -> Hub:
        watch = Watch(table="report", key="report_id", session="account", session_type="text", updated_at=None)
        return postgres_hub("postgresql:///nowhere", watch)

    @staticmethod
    async def nobody(connection: object, account: str) -> Any:
        raise AssertionError

    def test_are_named_after_the_table(self, hub: Hub) -> None:
        paths = [route.path for route in live_routes(hub, self.nobody)]
        assert paths == ["/sse/{account}", "/account/{account}/reports"]

    def test_can_be_chosen(self, hub: Hub) -> None:
        routes = live_routes(hub, self.nobody, stream_path="/live/{account}", poll_path="/rows/{account}")
        assert [route.path for route in routes] == ["/live/{account}", "/rows/{account}"]

    def test_name_the_session(self, hub: Hub) -> None:
        with pytest.raises(ConfigurationError, match=r"\{account\}"):
            live_routes(hub, self.nobody, stream_path="/live/{session_id}")

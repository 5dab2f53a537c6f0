"""Other servers than ours, told to stop with streams open: by a signal, by a program, or by a file that changed."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.conftest import free_port, wait_until
from tests.contract.test_mounted import blocks

from crowd import RawStream
from database import execute
from rowcast.http import GuestTokens, SigningKey

pytestmark = [pytest.mark.anyio, pytest.mark.fault(2)]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-it-under-another-server.md"
GRANIAN = [sys.executable, "-m", "granian", "--interface", "asgi", "app:app"]
UVICORN = [sys.executable, "-m", "uvicorn", "app:app"]
GRACE_SECONDS = 5 + 1
"""The window for those who know no protocol, and a second."""

SIMPLE, KNOWING = 2, 16
NOISE = re.compile(r"Traceback|ERROR|CRITICAL|Exception|\"level\": \"(error|critical)\"")


@dataclass
class Running:
    """A server that runs."""

    process: "subprocess.Popen[bytes]"
    url: str
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        if self.process.poll() is None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            return False
        return True


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command that serves at `PORT`, in a folder: `start(command, folder, DATABASE_URL=…)`."""
    started: list[Running] = []
    with ExitStack() as stack:

        def begin(command: list[str], folder: Path, **environment: str) -> Running:
            port, log_file = free_port(), tmp_path / f"log-{len(started)}"
            bare = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
            log = stack.enter_context(log_file.open("wb"))
            process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in command],
                cwd=folder,
                env={**bare, **environment, "PORT": str(port), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            assert process.stdin is not None
            stack.enter_context(process.stdin)
            started.append(Running(process, f"http://127.0.0.1:{port}", log_file))
            return started[-1]

        yield begin
        for each in started:
            if not each.is_gone():
                os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()


@pytest.fixture
def application(postgres: Any, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The application of the how-to, and the programs that run it under other servers: their folder, their database."""
    folder = tmp_path / "application"
    folder.mkdir()
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for text in [*blocks("python"), *programs]:
        if match := re.match(r"# (\w+\.py)\n", text):
            (folder / match[1]).write_text(text)
    name = f"servers_{uuid4().hex[:8]}"
    dsn = postgres.create_database(name)
    try:
        (table,) = blocks("sql")
        execute(dsn, table)
        environment = {**os.environ, "DATABASE_URL": dsn}
        subprocess.run([sys.executable, "install.py"], cwd=folder, env=environment, check=True, timeout=60)
        yield folder, dsn
    finally:
        postgres.drop_database(name)


class Readers:
    """Streams of one account on a server, and what follows their end."""

    def __init__(self, running: Running, path: str, headers: dict[str, str]) -> None:
        self._running = running
        self.simple = [RawStream(running.url, path, headers) for _ in range(SIMPLE)]
        self.knowing = [RawStream(running.url, f"{path}?proto=1", headers) for _ in range(KNOWING)]
        self.all = [*self.simple, *self.knowing]
        self._tasks: list[asyncio.Task[str]] = []

    async def open(self) -> None:
        """Return when all are live; a server that is about to be ready is asked again."""
        self._tasks = [asyncio.create_task(self._until_open(stream)) for stream in self.all]
        await self.until(lambda: all(stream.is_live for stream in self.all), "all streams are live", 30)

    async def _until_open(self, stream: RawStream) -> str:
        while await stream.follow() == "refused" or stream.status in (0, 503):
            await asyncio.sleep(0.05)
        return stream.ended

    async def say_goodbye(self) -> None:
        """Wait until all have ended, as streams should."""
        await self.until(lambda: all(stream.ended for stream in self.all), "all streams have ended", 30)
        await asyncio.gather(*self._tasks)
        assert {stream.ended for stream in self.all} == {"whole"}
        for stream in self.all:
            assert [data["reason"] for data in stream.told("goodbye")] == ["drain"]
            assert stream.told("goodbye")[0]["resume"] is True
        assert len({stream.told("goodbye")[0]["retry_ms"] for stream in self.knowing}) > KNOWING / 2

    async def until(self, is_true: Callable[[], object], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}\n{self._running.log}"
            await asyncio.sleep(0.01)


async def stops(running: Running, stop: Callable[[], object], *, said: str = "", workers: int = 1) -> None:
    """Open streams, have the server stop, and see everybody leave as they should; `said` is what each worker says."""
    readers = Readers(running, "/sse/acme", {"X-User": "acme"})
    await readers.until(lambda: running.log.count(said) >= workers, "every worker runs", 30)
    await readers.open()
    began = time.monotonic()
    stop()
    await readers.say_goodbye()
    await readers.until(lambda: running.process.poll() is not None, "the server has ended", GRACE_SECONDS + 20)
    print(f"\nended after {time.monotonic() - began:.2f} s with {running.process.returncode}")
    await readers.until(running.is_gone, "no process of it is left", 20)
    assert running.process.returncode in (0, -signal.SIGTERM)
    assert not NOISE.search(running.log), running.log


@pytest.mark.parametrize("workers", [1, 2])
async def test_granian_is_told_by_a_signal(start: Start, application: tuple[Path, str], workers: int) -> None:
    folder, dsn = application
    running = start([*GRANIAN, "--port", "{port}", "--workers", str(workers)], folder, DATABASE_URL=dsn)
    await stops(running, running.process.terminate, said="Started worker-", workers=workers)


async def test_granian_inside_a_program(start: Start, application: tuple[Path, str]) -> None:
    folder, dsn = application
    running = start([sys.executable, "embedded.py"], folder, DATABASE_URL=dsn)
    await stops(running, running.process.terminate)


async def test_uvicorn_in_a_thread_of_a_program(start: Start, application: tuple[Path, str]) -> None:
    folder, dsn = application
    running = start([sys.executable, "beside.py"], folder, DATABASE_URL=dsn)
    await stops(running, lambda: press_enter(running))


def press_enter(running: Running) -> None:
    assert running.process.stdin is not None
    running.process.stdin.write(b"\n")
    running.process.stdin.flush()


@pytest.mark.parametrize("workers", [1, 2])
async def test_uvicorn_by_itself(start: Start, application: tuple[Path, str], workers: int) -> None:
    folder, dsn = application
    running = start([*UVICORN, "--port", "{port}", "--workers", str(workers)], folder, DATABASE_URL=dsn)
    await stops(running, running.process.terminate, said="Application startup complete", workers=workers)


async def reloads(
    running: Running, readers: Readers, *, touch: Callable[[], object], change: Callable[[], Awaitable[object]]
) -> None:
    """Have the application reloaded, twice; streams leave, come back from where they stood, and miss nothing."""
    await readers.open()
    for _ in range(2):
        touch()
        await readers.say_goodbye()
        await change()
        await readers.open()
        for stream in readers.all:
            assert stream.told("connected")[0]["mode"] == "resume"
            missed = [data for name, data in stream.events if name.endswith("_update")]
            assert {data["cause"] for data in missed} == {"catchup"}
    running.process.terminate()
    await readers.say_goodbye()
    await readers.until(running.is_gone, "the server has ended", 30)
    assert not NOISE.search(running.log), running.log


def rewrite(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


async def test_uvicorn_reloads_an_application_with_streams(start: Start, application: tuple[Path, str]) -> None:
    folder, dsn = application
    running = start([*UVICORN, "--port", "{port}", "--reload", "--reload-dir", "."], folder, DATABASE_URL=dsn)
    await reloads(
        running,
        Readers(running, "/sse/acme", {"X-User": "acme"}),
        touch=lambda: rewrite(folder / "app.py"),
        change=lambda: asyncio.to_thread(execute, dsn, "INSERT INTO report (account) VALUES ('acme')"),
    )


async def test_uvicorn_reloads_the_service_with_streams(
    start: Start, service_database: str, key_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "watched").mkdir()
    touched = tmp_path / "watched" / "touched.py"
    touched.touch()
    command = [sys.executable, "-m", "uvicorn", "rowcast.service.main:app", "--port", "{port}", "--reload"]
    running = start(
        [*command, "--reload-dir", str(touched.parent)],
        tmp_path,
        ROWCAST_DATABASE_URL=service_database,
        ROWCAST_SIGNING_KEY_FILE=str(key_file),
        ROWCAST_GUEST_ENABLED="true",
        ROWCAST_DRAIN_SECONDS="1",
        ROWCAST_STREAMS_PER_OWNER="100",
    )
    wait_until(lambda: "Application startup complete" in running.log, what=lambda: f"it runs\n{running.log}")
    session = str(uuid4())
    owner = "guest|reloaded"
    statement = "INSERT INTO session (session_id, user_owner) VALUES ($1, $2)"
    await asyncio.to_thread(execute, service_database, statement, session, owner)
    token, _ = GuestTokens(SigningKey.from_file(key_file)).issue_for(owner.partition("|")[2])
    await reloads(
        running,
        Readers(running, f"/api/sse/{session}", {"Authorization": f"Bearer {token}"}),
        touch=lambda: rewrite(touched),
        change=lambda: asyncio.to_thread(
            execute, service_database, "INSERT INTO request (session_id, request) VALUES ($1, 'x')", session
        ),
    )

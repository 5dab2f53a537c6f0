"""What goes wrong at the start is said in one line that helps, with exit code 1, and never with a password."""

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import free_port
from tests.integration.cli.conftest import Rowcast

from rowcast import ConfigurationError
from rowcast.postgres import normalise_dsn
from rowcast.postgres.embedded import EmbeddedPostgres

NEEDING_A_DATABASE = ["serve", "worker", "migrate", "demo-data", "demo"]
SECRET = "s3cr3t"


def one_line(result: object, *, code: int = 1) -> str:
    """The one line that a command left on stderr."""
    stderr: str = result.stderr  # type: ignore[attr-defined]
    assert result.returncode == code, stderr  # type: ignore[attr-defined]
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("rowcast: ")
    assert SECRET not in stderr
    return lines[0]


@pytest.mark.parametrize("command", [each for each in NEEDING_A_DATABASE if each != "demo"])
def test_no_database_is_set(rowcast: Rowcast, command: str) -> None:
    said = one_line(rowcast(command))
    assert "ROWCAST_DATABASE_URL" in said
    assert "rowcast demo" in said


@pytest.mark.parametrize("command", NEEDING_A_DATABASE)
def test_the_database_is_away(rowcast: Rowcast, command: str) -> None:
    dsn = f"postgresql://rowcast:{SECRET}@127.0.0.1:{free_port()}/x"
    assert "cannot be reached" in one_line(rowcast(command, ROWCAST_DATABASE_URL=dsn, PORT=free_port()))


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_the_database_does_not_exist(rowcast: Rowcast, command: str, postgres: EmbeddedPostgres) -> None:
    said = one_line(rowcast(command, ROWCAST_DATABASE_URL=postgres.dsn("nowhere"), PORT=free_port()))
    assert '"nowhere" does not exist' in said
    assert "createdb" in said


def test_the_password_is_wrong(rowcast: Rowcast, tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedPostgres(tmp_path / "data", port=port):
        dsn = f"postgresql://postgres:{SECRET}@127.0.0.1:{port}/postgres"
        assert "refused the login" in one_line(rowcast("serve", ROWCAST_DATABASE_URL=dsn))


@contextmanager
def postgres_13() -> Iterator[str]:
    """Something that greets as PostgreSQL 13 does, as far as a login goes (protocol 3.0)."""

    def part(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    def greet(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            (size,) = struct.unpack("!I", connection.recv(4))
            if struct.unpack("!I", connection.recv(size - 4)[:4]) == (80877103,):  # it asks for TLS first
                connection.sendall(b"N")
                connection.recv(1024)
            version = part(b"S", b"server_version\x0013.4\x00")
            connection.sendall(part(b"R", bytes(4)) + version + part(b"K", bytes(8)) + part(b"Z", b"I"))
            connection.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:
        greeting = thread.submit(greet, listening)
        yield f"postgresql://u@127.0.0.1:{listening.getsockname()[1]}/x"
        greeting.result(10)


def test_the_postgresql_is_too_old(rowcast: Rowcast) -> None:
    with postgres_13() as dsn:
        said = one_line(rowcast("migrate", ROWCAST_DATABASE_URL=dsn))
    assert said == "rowcast: PostgreSQL 13 is too old: 14 or newer is needed"


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_database_is_not_migrated(rowcast: Rowcast, database_url: str, command: str) -> None:
    said = one_line(rowcast(command, ROWCAST_DATABASE_URL=database_url, ROWCAST_PORT=free_port()))
    assert "rowcast migrate" in said


@pytest.mark.parametrize(
    "dsn",
    [
        f"mysql://u:{SECRET}@h/x",
        f"postgresql://u:{SECRET}/x@h/x",
        f"postgresql://u:{SECRET}#x@h/x",
        f"postgresql://u:{SECRET}[x@h/x",
        f"postgresql://u:{SECRET}@h:port/x",
        f"postgresql://u:{SECRET}@h:99999/x",
        f"host=h password='{SECRET}",
        f"{SECRET}",
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_repeated(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="the DSN cannot be read") as refusal:
        normalise_dsn(dsn)
    assert SECRET not in str(refusal.value)


def test_the_dsn_cannot_be_read(rowcast: Rowcast) -> None:
    result = rowcast("migrate", ROWCAST_DATABASE_URL=f"postgresql://u:{SECRET}/x@h/x")
    assert "the DSN cannot be read" in one_line(result)


def test_the_dsn_asks_for_something_that_does_not_exist(rowcast: Rowcast) -> None:
    dsn = f"postgresql://u:{SECRET}@127.0.0.1:1/x?sslmode=perhaps"
    assert "sslmode" in one_line(rowcast("migrate", ROWCAST_DATABASE_URL=dsn))


def test_a_role_that_may_not_migrate(rowcast: Rowcast, database_url: str, run_in: Callable[[str, str], None]) -> None:
    run_in(database_url, "CREATE ROLE rowcast_weak LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
    try:
        weak = database_url.replace("postgres@", "rowcast_weak@")
        said = one_line(rowcast("migrate", ROWCAST_DATABASE_URL=weak))
        assert "permission denied" in said
    finally:
        run_in(database_url, "DROP ROLE rowcast_weak")


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_setting_that_does_not_exist(rowcast: Rowcast, command: str) -> None:
    said = one_line(rowcast(command, ROWCAST_HEARTBEAT_MSEC=1))
    assert "ROWCAST_HEARTBEAT_MSEC" in said
    assert "ROWCAST_HEARTBEAT_MS?" in said


def test_a_setting_that_is_wrong(rowcast: Rowcast) -> None:
    assert "ROWCAST_PORT" in one_line(rowcast("serve", ROWCAST_PORT="many"))


def test_several_processes_without_a_key_they_share(rowcast: Rowcast, service_database: str) -> None:
    result = rowcast("serve", "--workers", "2", ROWCAST_DATABASE_URL=service_database, ROWCAST_PORT=free_port())
    assert "ROWCAST_SIGNING_KEY_FILE" in one_line(result)


@pytest.mark.parametrize("command", ["serve", "serve --workers 2", "demo"])
def test_the_port_is_taken(rowcast: Rowcast, service_database: str, key_file: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        where = {"PORT": port} if command == "demo" else {"ROWCAST_PORT": port, "ROWCAST_SIGNING_KEY_FILE": key_file}
        said = one_line(rowcast(*command.split(), ROWCAST_DATABASE_URL=service_database, **where))
    assert f"127.0.0.1:{port} cannot be used (Address already in use)" in said
    assert "PORT" in said


def test_an_address_that_is_not_ours(rowcast: Rowcast, service_database: str) -> None:
    result = rowcast("serve", "--host", "192.0.2.1", ROWCAST_DATABASE_URL=service_database)
    assert "192.0.2.1:8000 cannot be used" in one_line(result)


def test_the_demo_has_nowhere_to_keep_its_data(rowcast: Rowcast, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = one_line(rowcast("demo", "--data", "file/below", PORT=free_port()))
    assert "--data" in said


def test_tail_says_what_it_lacks(rowcast: Rowcast, service_database: str, key_file: Path) -> None:
    session = "00000000-0000-4000-8000-000000000000"
    both = {"ROWCAST_DATABASE_URL": service_database, "ROWCAST_SIGNING_KEY_FILE": key_file}
    assert "--token" in one_line(rowcast("tail", session))
    assert "no such session" in one_line(rowcast("tail", session, **both))
    assert "uuid" in one_line(rowcast("tail", "nonsense", **both))
    assert "http://" in one_line(rowcast("tail", session, "--token", "x", "--url", "localhost:8000"))


def test_wrong_usage_is_told_with_exit_code_two(rowcast: Rowcast) -> None:
    for arguments in (["serve", "--workers", "0"], ["tail"], ["tail", "x", "--transport", "pigeon"], ["nothing"]):
        result = rowcast(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_help_is_quick_to_read_and_needs_nothing(rowcast: Rowcast) -> None:
    result = rowcast("--help")
    assert result.returncode == 0
    for command in ("serve", "worker", "migrate", "demo", "demo-data", "tail"):
        assert command in result.stdout


def test_migrate_and_demo_data_say_what_they_did(rowcast: Rowcast, database_url: str) -> None:
    settings = {"ROWCAST_DATABASE_URL": database_url}
    expected = [
        ("migrate", "The database was migrated."),
        ("migrate", "The database is up to date."),
        ("demo-data", "The demo data was installed."),
        ("demo-data", "There was nothing to do."),
        ("demo-data --remove", "The demo data was removed."),
        ("demo-data --remove", "There was nothing to do."),
    ]
    for command, said in expected:
        result = rowcast(*command.split(), **settings)
        assert (result.returncode, result.stdout.strip(), result.stderr) == (0, said, ""), command


def test_the_sql_of_the_migrations_makes_the_same_database(
    rowcast: Rowcast, database_url: str, run_in: Callable[[str, str], None]
) -> None:
    printed = rowcast("migrate", "--sql")
    assert printed.returncode == 0
    run_in(database_url, printed.stdout)
    assert rowcast("migrate", ROWCAST_DATABASE_URL=database_url).stdout.strip() == "The database is up to date."


def test_a_demo_that_cannot_start_makes_nothing(rowcast: Rowcast, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        one_line(rowcast("demo", PORT=other.getsockname()[1]))
    assert list(tmp_path.iterdir()) == []

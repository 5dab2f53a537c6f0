"""A real PostgreSQL for the demo and for tests: started on a directory, ended with its owner."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import SubprocessError
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import asyncpg

from rowcast.errors import ConfigurationError
from rowcast.postgres import cluster
from rowcast.postgres.binaries import Binaries, Origin, find_binaries, runnable_by
from rowcast.postgres.postmaster import Account, Postmaster, handed_over, unprivileged_account

__all__ = ["Binaries", "EmbeddedPostgres", "Mode", "Origin", "find_binaries"]

Mode = Literal["fast", "immediate"]

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_DEFAULTS = {"max_connections": "100", "logging_collector": "off"}
_RESERVED = {"cluster_name", "data_directory", "listen_addresses", "port", "unix_socket_directories"}
_HOST = "127.0.0.1"
_SOCKET_PATH_BYTES = 107  # sun_path, unix(7)
_START_SECONDS, _STOP_SECONDS = 60, 30
_POLL_SECONDS = 0.005


class EmbeddedPostgres:
    """A PostgreSQL server on a directory of its own; `with EmbeddedPostgres(path) as server:` starts and stops it.

    Without a port it is reached over a unix socket inside the data directory. There is no password then: the directory
    has mode 0700, so only root and the account of the server itself get to the socket, and these could read a password
    kept beside it as well. With a port it also listens on 127.0.0.1, where everybody on the machine could knock, and a
    generated password is required (scram-sha-256). `dsn` gives what is needed.

    Everything here blocks, for half a second at the first start and for some milliseconds later. Any thread may call,
    one at a time. Not for production: it is stopped with its owner, and `initdb` does not wait for the disk.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a server; nothing happens before `start`.

        Args:
            data: its data directory, made at the first start and reused later.
            port: a port of 127.0.0.1 to listen on as well.
            binaries: what to run; by default what `find_binaries` gives, in the version that made the data.
            settings: parameters of postgresql.conf, such as `{"fsync": "off"}`.
        """
        if port is not None and not 0 < port < 65536:
            raise ConfigurationError(f"Port {port} does not exist: choose one from 1 to 65535.")
        if reserved := _RESERVED.intersection(settings or ()):
            raise ConfigurationError(
                f"{', '.join(sorted(reserved))} cannot be set for an embedded PostgreSQL: omit it."
            )
        self.data = data.resolve()
        self.port = port
        self._binaries = binaries
        self._settings = _DEFAULTS | dict(settings or {})
        self._postmaster: Postmaster | None = None
        self._short: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._postmaster is not None and not self._postmaster.ended.is_set()

    @property
    def pid(self) -> int:
        """The process id of the postmaster. Raises RuntimeError when it does not run."""
        if self._postmaster is None or not self.running:
            raise RuntimeError("the embedded PostgreSQL does not run")
        return self._postmaster.pid

    def dsn(self, database: str = "postgres") -> str:
        """The URI of a database for asyncpg or libpq; with a port, it carries the password.

        It stays the same for as long as this object lives, across restarts too.
        """
        if self.port is None:
            return self._socket_dsn(database)
        password = (self.data / cluster.PASSWORD).read_text()
        return f"postgresql://postgres:{password}@{_HOST}:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start the server and return when it accepts connections; where it runs already, do nothing.

        Raises:
            ConfigurationError: there is no fitting PostgreSQL, the data are in use, not ours or of another version,
                the port is taken, or the server ended, in which case the end of its log is told.
        """
        if self.running:
            return
        major = cluster.version_of(self.data)
        account = self._account(major)
        binaries = runnable_by(account, self._fitting(major))
        if major is None:
            cluster.make(self.data, binaries, account)
        cluster.await_predecessor(self.data)
        if self.port is not None:
            _require_free(self.port)
        self._launch(binaries, account)

    def stop(self, mode: Mode = "fast") -> None:
        """End the server: `fast` cuts its clients off and writes everything down, `immediate` leaves that to recovery.

        A server that does not end within 30 seconds is killed. Where none runs, nothing happens.
        """
        if self._postmaster is None:
            return
        if not self._postmaster.send(_SIGNALS[mode], wait_seconds=_STOP_SECONDS):
            self.kill()
        self._postmaster = None

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start, on the same data and DSN."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL, as Linux does when memory runs out; return when its children are gone."""
        if self._postmaster is None:
            return
        self._postmaster.send(signal.SIGKILL, wait_seconds=_STOP_SECONDS)
        self._postmaster = None
        cluster.await_predecessor(self.data)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given, to which nobody may be connected; give its DSN."""
        self._execute(f"CREATE DATABASE {_quoted(name)}" + (f" TEMPLATE {_quoted(template)}" if template else ""))
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and cut off whoever uses it."""
        self._execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self._socket_dsn("postgres"))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        # In a thread, because the caller's may already run a loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(execute())).result()

    def _socket_dsn(self, database: str) -> str:
        host = quote(str(self._socket_directory()))
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={self._socket_port}"

    @property
    def _socket_port(self) -> int:
        return self.port or 5432  # the name of the socket ends with it

    def _socket_directory(self) -> Path:
        """The data directory, or a short link to it where a client could not use its name.

        The server itself calls it `.` and is not limited. A comma or a colon would read as several hosts.
        """
        name = f"{self.data}/.s.PGSQL.{self._socket_port}"
        if len(os.fsencode(name)) <= _SOCKET_PATH_BYTES and not {",", ":"}.intersection(name):
            return self.data
        if self._short is None:
            directory = tempfile.mkdtemp(prefix="rowcast-", dir="/tmp")  # TMPDIR may be long, too
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            self._short = Path(directory, "data")
            self._short.symlink_to(self.data)
        return self._short

    def _account(self, major: int | None) -> Account | None:
        """Whom root lets the server run as: the owner of the data, where there are any."""
        account = unprivileged_account()
        if account is None or major is None:
            return account
        facts = self.data.stat()
        return Account(facts.st_uid, facts.st_gid)

    def _fitting(self, major: int | None) -> Binaries:
        binaries = self._binaries or find_binaries(major=major)
        if major not in (None, binaries.major):
            raise ConfigurationError(
                f"{self.data} was made by PostgreSQL {major}, which {binaries.major} cannot read: "
                f"pass binaries of {major}, or remove the directory to start afresh."
            )
        return binaries

    def _launch(self, binaries: Binaries, account: Account | None) -> None:
        settings = self._settings | {
            "cluster_name": cluster.name_of(self.data),
            "listen_addresses": "" if self.port is None else _HOST,
            "port": str(self._socket_port),
            "unix_socket_directories": ".",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with handed_over(self.data, account) as (directory, inherit), cluster.open_log(self.data) as log:
            command = [str(binaries.directory / "postgres"), "-D", directory, *arguments]
            begin, stale = os.fstat(log).st_size, cluster.read_lock_file(self.data)
            try:
                self._postmaster = Postmaster(command, account=account, log=log, inherit=inherit)
            except (OSError, SubprocessError) as error:
                raise ConfigurationError(f"PostgreSQL cannot be started: {error}.") from error
            try:
                self._await_ready(self._postmaster, log, begin, stale)
            except BaseException:
                self.stop("immediate")
                raise

    def _await_ready(self, postmaster: Postmaster, log: int, begin: int, stale: cluster.LockFile | None) -> None:
        """Wait for the server's own word in postmaster.pid, as pg_ctl does: it says `ready` once it lets clients in.

        What a killed server left there is not taken for it, even if the process ids are equal, as in a container.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            lock = cluster.read_lock_file(self.data)
            if lock and lock != stale and (lock.pid, lock.status) == (postmaster.pid, "ready"):
                return
            if postmaster.ended.wait(_POLL_SECONDS):
                raise ConfigurationError(
                    f"PostgreSQL ended while it started; its log says:\n{cluster.tail(log, begin)}"
                )
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"PostgreSQL is not ready after {_START_SECONDS} s; its log says:\n{cluster.tail(log, begin)}"
                )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} of {_HOST} cannot be had ({error.strerror}): stop what uses it, or choose another."
            ) from error


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'

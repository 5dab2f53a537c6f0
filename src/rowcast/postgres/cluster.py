"""The data directory of a PostgreSQL server, called a cluster: made once, used by one server at a time."""

import os
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rowcast.errors import ConfigurationError
from rowcast.postgres.binaries import Binaries
from rowcast.postgres.postmaster import Account, handed_over, processes_of, run_as

__all__ = [
    "PASSWORD",
    "LockFile",
    "await_predecessor",
    "make",
    "name_of",
    "open_log",
    "read_lock_file",
    "tail",
    "version_of",
]

PASSWORD = "rowcast.password"  # noqa: S105 - the name of a file
_LOG, _LOCK = "rowcast.log", "postmaster.pid"
_LOG_BYTES = 10_000_000  # a larger log is set aside at the next start, in place of the one before
_PREDECESSOR_SECONDS = 2
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class LockFile:
    """What a server says of itself in postmaster.pid: its process id, when it started (Unix time), how it is."""

    pid: int
    started: int
    status: str


def version_of(data: Path) -> int | None:
    """The major version that made the data; None where there are none yet."""
    try:
        names = {path.name for path in data.iterdir()}
        if not names:
            return None
        if PASSWORD not in names:
            raise ConfigurationError(f"{data} holds something that Rowcast did not make: choose an empty directory.")
        return int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{data} cannot hold a database ({error}): choose another directory.") from error


def make(data: Path, binaries: Binaries, account: Account | None) -> None:
    """Run initdb beside `data` and move the result there, so that an interrupted start leaves nothing half made."""
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=data.parent) as name:
            _initialize(Path(name), binaries, account)
            Path(name, "data").rename(data)
    except OSError as error:
        if version_of(data) is None:  # else another process was faster, and its data will do
            raise ConfigurationError(f"{data} cannot be made ({error}): choose another directory.") from error


def _initialize(stage: Path, binaries: Binaries, account: Account | None) -> None:
    password = stage / PASSWORD
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(24))
    if account:
        for path in (stage, password):
            os.chown(path, account.uid, account.gid)
    with handed_over(stage, account) as (directory, inherit):
        command = [str(binaries.directory / "initdb"), "-D", f"{directory}/data", "--username=postgres"]
        command += [f"--pwfile={directory}/{PASSWORD}", "--auth-local=trust", "--auth-host=scram-sha-256"]
        command += ["--encoding=UTF8", "--no-instructions", "--no-sync"]
        for locale in ("C.UTF-8", "C"):  # older systems know only the latter
            result = run_as(account, [*command, f"--locale={locale}"], inherit=inherit)
            if result.returncode == 0:
                break
        else:
            raise ConfigurationError(f"initdb of {binaries.directory} failed; it says:\n{result.stderr.strip()}")
    password.rename(stage / "data" / PASSWORD)


def await_predecessor(data: Path) -> None:
    """Wait for an earlier server to let go of the data: its owner may have been killed a moment ago.

    Raises:
        ConfigurationError: it runs on, so it has an owner.
    """
    name, owner = name_of(data), data.stat().st_uid
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    while running := processes_of(name, owner=owner):
        lock = read_lock_file(data)
        held = lock is not None and lock.pid in running
        if lock and held and lock.status == "stopping":
            deadline = time.monotonic() + _PREDECESSOR_SECONDS
        elif time.monotonic() > deadline:
            if lock and held:
                raise ConfigurationError(f"{data} is in use by PostgreSQL, process {lock.pid}: stop that one first.")
            _kill_all(running)  # children whose postmaster was killed; no new one may start before they are gone
        time.sleep(_POLL_SECONDS)
    _remove_stale_lock(data)


def _remove_stale_lock(data: Path) -> None:
    """Remove a postmaster.pid whose number now belongs to a program that is no PostgreSQL.

    PostgreSQL sees through a number that nobody has, but not through one that was given away again, as happens at every
    restart of a container.
    """
    lock = read_lock_file(data)
    if lock is None:
        return
    with suppress(OSError):
        line = Path(f"/proc/{lock.pid}/cmdline").read_bytes()
        if b"postgres" not in line and b"postmaster" not in line:
            (data / _LOCK).unlink()


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def name_of(data: Path) -> str:
    """A name for the directory itself, which it keeps when it is moved and shares with no later one of its path."""
    facts = data.stat()
    return f"rowcast-{facts.st_dev:x}-{facts.st_ino:x}"


def read_lock_file(data: Path) -> LockFile | None:
    """Read postmaster.pid; None unless it is there and complete."""
    with suppress(OSError, ValueError, IndexError):
        lines = (data / _LOCK).read_text().splitlines()
        return LockFile(pid=int(lines[0]), started=int(lines[2]), status=lines[7].strip())
    return None


@contextmanager
def open_log(data: Path) -> Iterator[int]:
    """Open the log of the server as a descriptor.

    O_NOFOLLOW, because the directory belongs to the server's account: root must not write through a link found in it.
    It is that account's file then, for a base backup reads whatever is in the directory.
    """
    path = data / _LOG
    with suppress(FileNotFoundError):
        if path.lstat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}): remove it.") from error
    try:
        owner = data.stat()
        if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        yield descriptor
    finally:
        os.close(descriptor)


def tail(log: int, begin: int) -> str:
    """The last lines that were written since `begin`."""
    size = os.fstat(log).st_size
    start = max(begin, size - 10_000)
    return "\n".join(os.pread(log, size - start, start).decode(errors="replace").splitlines()[-10:])

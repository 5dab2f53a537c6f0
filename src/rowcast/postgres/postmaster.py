"""One PostgreSQL server process, which never outlives the process that started it."""

import ctypes
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Account", "Postmaster", "handed_over", "processes_of", "run_as", "unprivileged_account"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NOBODY = 65534
_INHERITED = ("PATH", "TZ", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Account:
    """Whom PostgreSQL runs as when the caller is root, as whom it refuses to run."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account that serves for root: `postgres`, else `nobody`, never a new one; None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    return Account(_NOBODY, _NOBODY)


@contextmanager
def handed_over(directory: Path, account: Account | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Give the name under which a process of `account` finds `directory`, and the descriptors it must inherit.

    Another account may be unable to walk to a directory below, say, /root (mode 0700), and opening /root to it is not
    ours to do. So root opens the directory, the process inherits it, and `/proc/self/fd/N` leads there without a walk.
    """
    if account is None:
        yield str(directory), ()
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


def run_as(
    account: Account | None, command: Sequence[str], *, inherit: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL to its end. Raises OSError when `account` cannot run it."""
    return subprocess.run(  # noqa: S603 - the command is ours, no shell reads it
        command,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=inherit,
        check=False,
    )


def processes_of(cluster: str, *, owner: int) -> list[int]:
    """The living processes of user `owner` that belong to the cluster of this name, postmaster and children alike.

    Their command lines tell, which everyone may read: the postmaster got `cluster_name` as an argument, and each child
    retitles itself `postgres: <cluster_name>: ...`. (Where a process works, `/proc/N/cwd`, is hidden from root in a
    container without CAP_SYS_PTRACE.)
    """
    argument, title = f"cluster_name={cluster}".encode(), f"postgres: {cluster}:".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if (line.startswith(title) or argument in line.split(b"\0")) and entry.stat().st_uid == owner:
                    found.append(int(entry.name))
    return found


class Postmaster:
    """A running `postgres`, in a session of its own, so that Ctrl-C in a terminal reaches its owner first.

    Should the owner end without stopping it, even by `kill -9`, Linux sends it SIGINT: a fast, orderly shutdown. That
    signal goes out when the *thread* that forked ends, so a thread of ours forks and then waits for the server's end.
    """

    def __init__(
        self, command: Sequence[str], *, account: Account | None, log: int, inherit: tuple[int, ...] = ()
    ) -> None:
        """Start `command`, its output going to the descriptor `log`. Raises OSError when it cannot be run."""
        self.ended = threading.Event()
        forked: Future[subprocess.Popen[bytes]] = Future()

        def keep() -> None:
            try:
                process = subprocess.Popen(  # noqa: S603 - the command is ours, no shell reads it
                    command,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                    cwd="/",
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=inherit,
                    start_new_session=True,
                    preexec_fn=_end_with_parent(),  # noqa: PLW1509 - it takes care of threads
                )
            except (OSError, subprocess.SubprocessError) as error:
                forked.set_exception(error)
                return
            forked.set_result(process)
            process.wait()
            self.ended.set()

        threading.Thread(target=keep, name="rowcast-postmaster", daemon=True).start()
        self._process = forked.result()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._process.pid

    def send(self, number: signal.Signals, *, wait_seconds: float) -> bool:
        """Send a signal and wait; say whether the server has ended."""
        self._process.send_signal(number)
        return self.ended.wait(wait_seconds)


def _end_with_parent() -> Callable[[], None]:
    """What the fork runs before it becomes `postgres`: ask for SIGINT at the parent's end.

    It runs after the change of user, which would have cancelled the request, and in the copy of a process that may have
    other threads; so all it needs is looked up here, beforehand, and it neither imports nor locks.
    """
    prctl, getppid, leave = ctypes.CDLL(None).prctl, os.getppid, os._exit
    parent, request, ending = os.getpid(), _PR_SET_PDEATHSIG, int(signal.SIGINT)

    def ask() -> None:
        prctl(request, ending)
        if getppid() != parent:  # it ended before we asked
            leave(1)

    return ask


def _environment() -> dict[str, str]:
    """What a server may see of our environment: no secrets, and no PG* variable that would redirect it."""
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in _INHERITED if name in os.environ}

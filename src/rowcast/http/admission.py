"""How many streams and held polls one owner, and the process, may have open."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rowcast.errors import TooManyStreams, Unavailable

__all__ = ["Admission"]


class Admission:
    """Counts what is open; shared by every endpoint that keeps a connection waiting."""

    def __init__(self, *, per_owner: int = 20, per_process: int | None = None) -> None:
        self._per_owner = per_owner
        self._per_process = _descriptor_share() if per_process is None else per_process
        self._open: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def admit(self, owner: str) -> Iterator[None]:
        """Count one as long as the block runs. Raises `TooManyStreams` or `Unavailable` when there is no room."""
        if self._total >= self._per_process:
            raise Unavailable("This server has no room for another stream; try again shortly.", code="overloaded")
        if self._open[owner] >= self._per_owner:
            raise TooManyStreams
        self._open[owner] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    @property
    def total(self) -> int:
        """How many are open."""
        return self._total


def _descriptor_share() -> int:
    """Four fifths of the descriptors this process may open; the rest is for the database, files and new callers."""
    import resource  # noqa: PLC0415 - POSIX only, and only asked for when no cap was given

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100_000 if soft == resource.RLIM_INFINITY else soft * 4 // 5

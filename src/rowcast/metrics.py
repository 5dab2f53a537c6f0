"""What is counted, and the version that counts nothing."""

from typing import Protocol

__all__ = ["Metrics", "NullMetrics"]


class Metrics(Protocol):
    """Where the library reports what it does. Calls are made on hot paths: be quick, never raise, never wait."""

    def stream_opened(self) -> None: ...

    def stream_closed(self, reason: str, seconds: float) -> None: ...

    def refused(self, code: str) -> None: ...

    def notification(self, outcome: str) -> None:
        """`outcome` is `delivered`, `unwatched`, `stale` or `malformed`."""

    def frames_sent(self, frames: int) -> None: ...

    def read(self, kind: str, rows: int, seconds: float) -> None: ...

    def polled(self, outcome: str, seconds: float) -> None:
        """`outcome` is `full`, `delta` or `unchanged`."""

    def resynced(self, reason: str) -> None: ...

    def listener_up(self, up: bool) -> None: ...

    def probed(self, seconds: float) -> None: ...

    def sweep_found(self, rows: int) -> None: ...


class NullMetrics:
    """Counts nothing."""

    def stream_opened(self) -> None:
        """Do nothing."""

    def stream_closed(self, reason: str, seconds: float) -> None:
        """Do nothing."""

    def refused(self, code: str) -> None:
        """Do nothing."""

    def notification(self, outcome: str) -> None:
        """Do nothing."""

    def frames_sent(self, frames: int) -> None:
        """Do nothing."""

    def read(self, kind: str, rows: int, seconds: float) -> None:
        """Do nothing."""

    def polled(self, outcome: str, seconds: float) -> None:
        """Do nothing."""

    def resynced(self, reason: str) -> None:
        """Do nothing."""

    def listener_up(self, up: bool) -> None:
        """Do nothing."""

    def probed(self, seconds: float) -> None:
        """Do nothing."""

    def sweep_found(self, rows: int) -> None:
        """Do nothing."""

"""What time it is for the server: whatever the clock of this machine says, lags are told by the server's."""

import time
from collections import deque
from collections.abc import Callable

__all__ = ["ServerClock"]

_SAMPLES = 8
_COARSE_SECONDS = 5.0
_LIKELY_SECONDS = 1.0
_END_OF_YEAR_9999 = 253_402_300_800


class ServerClock:
    """The server's clock, from what it says of it.

    What it says is older by the time it was under way, so of the last few samples the one that makes the server latest
    is the best. They are kept against the monotonic clock: setting the wall clock of this machine changes nothing.
    `wall` gives epoch seconds, `monotonic` seconds.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._dated: float | None = None

    def heard(self, server_time: object) -> None:
        """Take in a `server_time`, in epoch seconds, that has just arrived; what is no instant says nothing."""
        if isinstance(server_time, int | float) and 1 < server_time < _END_OF_YEAR_9999:
            self._samples.append(server_time - self._monotonic())

    def dated(self, instant: float) -> None:
        """Take in the date of an answer, in epoch seconds. It may be off by a second or two, so it is a last resort."""
        self._dated = instant - self._monotonic()

    def corrected(self, lag_seconds: float) -> float:
        """Return a lag that was measured just now by the wall clock as it is by the server's.

        Where the server's clock is the wrong one, rows would seem to come from afar in time, though by our own they
        came in milliseconds: then ours is believed.
        """
        ahead = self._seconds_ahead()
        by_server = lag_seconds + ahead
        if ahead and not self._samples:
            by_server = max(by_server, 0.0)  # a date tells the second only, and seldom at its beginning
        return by_server if abs(by_server) < abs(lag_seconds) + _LIKELY_SECONDS else lag_seconds

    def _seconds_ahead(self) -> float:
        """How far the server's clock is ahead of the wall clock."""
        offset = self._monotonic() - self._wall()
        if self._samples:
            return max(self._samples) + offset
        ahead = 0.0 if self._dated is None else self._dated + offset
        return ahead if abs(ahead) > _COARSE_SECONDS else 0.0

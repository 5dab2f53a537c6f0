"""How often somebody may do something."""

import time
from collections import deque

from rowcast import RateLimited

__all__ = ["Rate"]


class Rate:
    """So many times in a sliding minute, for each of a bounded number of callers; `refusal` says what was too much."""

    def __init__(self, per_minute: int, refusal: str, *, most_callers: int = 10_000) -> None:
        self._per_minute = per_minute
        self._refusal = refusal
        self._most_callers = most_callers
        self._times: dict[str, deque[float]] = {}

    def check(self, caller: str) -> None:
        """Count one. Raises `RateLimited` when the minute is full."""
        now = time.monotonic()
        times = self._times.pop(caller, None) or deque(maxlen=self._per_minute)
        self._times[caller] = times
        while len(self._times) > self._most_callers:
            del self._times[next(iter(self._times))]
        if len(times) == self._per_minute and now - times[0] < 60:
            raise RateLimited(self._refusal)
        times.append(now)

"""How long to wait before the next try."""

from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Delays that grow with every failure, with full jitter, up to a cap.

    `random` returns a number in [0, 1) and is passed in, so that a test can know every delay.
    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    __slots__ = ("_cap_seconds", "_failures", "_first_seconds", "_random")

    def __init__(self, *, first_seconds: float, cap_seconds: float, random: Callable[[], float]) -> None:
        self._first_seconds = first_seconds
        self._cap_seconds = cap_seconds
        self._random = random
        self._failures = 0

    def next_seconds(self) -> float:
        """Count a failure and return the delay after it, at least a tenth of the current limit."""
        limit = min(self._cap_seconds, self._first_seconds * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return limit * (0.1 + 0.9 * self._random())

    def reset(self) -> None:
        """Start over after a success."""
        self._failures = 0

"""How often the poll source asks."""

from dataclasses import dataclass

__all__ = ["Pace", "Pause"]

_LONGEST_REST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait before the next tick; less, but not less than the least, if somebody asks for it."""

    least_seconds: float
    most_seconds: float


class Pace:
    """Pauses between ticks: short after a change, twice as long after each tick that found none, up to a cap.

    Ticks take at most a quarter of the time, whatever they cost and whoever asks for them: no pause is shorter than
    three times what the query before it took. But a query that takes longer than a third of a second was held up, by a
    lock or by a machine that stood still, and whoever waits for the next tick need not make up for that.
    """

    __slots__ = ("_quickest_seconds", "_seconds", "_slowest_seconds")

    def __init__(self, *, quickest_seconds: float = 0.005, slowest_seconds: float = 1) -> None:
        self._quickest_seconds = min(quickest_seconds, slowest_seconds)
        self._slowest_seconds = slowest_seconds
        self._seconds = self._quickest_seconds

    def next_pause(self, *, found: bool, took_seconds: float) -> Pause:
        """Return the pause after a tick that found something, or nothing."""
        seconds = self._quickest_seconds if found else self._seconds
        self._seconds = min(self._slowest_seconds, 2 * seconds)
        least = min(3 * took_seconds, _LONGEST_REST_SECONDS)
        return Pause(least, max(seconds, least))

    def hurry(self) -> None:
        """Begin with short pauses again."""
        self._seconds = self._quickest_seconds

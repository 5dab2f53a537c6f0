"""Stream or poll, and how long to wait: decided from how streams ended, with no clock and no socket of its own."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from rowcast.backoff import Backoff

__all__ = ["LIVELY_HEARTBEAT_MS", "PROBE_SECONDS", "Ended", "Pace", "Policy", "Transport", "Why"]

Transport = Literal["auto", "sse", "poll"]

LIVELY_HEARTBEAT_MS = 1000
"""Asked for where something between cuts what is quiet for a while."""

PROBE_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""How long to poll before looking whether streams get through by now, time after time."""

_SOON_SECONDS = 5.0
_CAP_SECONDS = 30.0
_LONG_LIFE_SECONDS = 10.0
_MUTE_BEFORE_POLLING = 2
_SHORT_BEFORE_POLLING = 3


class Why(Enum):
    """How a try to stream can end."""

    UNREACHABLE = auto()  # nobody answers there, which says nothing about whether streams would get through
    MUTE = auto()  # an answer, perhaps, but no event: something between holds the body back
    BROKEN = auto()  # it was a stream, and ended without a goodbye
    NOT_A_STREAM = auto()  # answered, but by something that does not speak of streams
    BUSY = auto()  # not now, the server says, and when
    FAILED = auto()  # any other status: a proxy without a server behind it, as a rule
    GOODBYE = auto()
    SENT_TO_POLL = auto()
    NOT_UNDERSTOOD = auto()
    STARTS_OVER = auto()  # it would replace everything, which it may do only while nothing else is followed
    UNAUTHORIZED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a try to stream ended. `lived_seconds` counts from its first event, `synced_seconds` from `synced`.

    `floor_seconds` is what the server asks to wait at least. `is_crowded` says that there are too many streams and
    held polls already.
    """

    why: Why
    reason: str
    floor_seconds: float = 0.0
    lived_seconds: float = 0.0
    synced_seconds: float = 0.0
    heartbeat_seconds: float = 5.0
    is_crowded: bool = False


class Pace:
    """Waits that grow with every failure, but never beyond half of what the outage has lasted.

    So the end of a short outage is noticed soon, and a long one costs little.
    """

    def __init__(
        self, random: Callable[[], float] = random.random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backoff = Backoff(first_seconds=0.5, cap_seconds=_CAP_SECONDS, random=random)
        self._clock = clock
        self._away_since = clock()

    def next_seconds(self) -> float:
        """Count a failure and return the wait after it."""
        return min(self._backoff.next_seconds(), max(2.0, (self._clock() - self._away_since) / 2))

    def worked(self, *, is_lasting: bool = True) -> None:
        """Note that there is no outage now; it is over for good if `is_lasting`."""
        self._away_since = self._clock()
        if is_lasting:
            self._backoff.reset()


class Policy:
    """What to do next.

    `streams` says whether to stream or to poll, `heartbeat_ms` which heartbeat to ask for (None: the server's own).
    `random` returns numbers in [0, 1), `clock` monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        random: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.streams = transport != "poll"
        self.heartbeat_ms: int | None = None
        self.holds_polls = True
        self.poll_floor_seconds = 0.0
        self._may_poll = transport == "auto"
        self._random = random
        self._pace = Pace(random, clock)
        self._poll_pace = Pace(random, clock)
        self._mute = self._short = self._misunderstood = self._probes = 0
        self._is_temporary = False

    @property
    def probes(self) -> bool:
        """Whether polling is only for want of a stream."""
        return self._may_poll

    def polls_between(self, ended: Ended) -> bool:
        """Whether polls may get through where the stream did not, so that waiting need not mean not knowing."""
        return self._may_poll and ended.why in (Why.FAILED, Why.MUTE, Why.BROKEN, Why.NOT_UNDERSTOOD)

    def note(self, ended: Ended) -> float:
        """Take in how a stream ended; return how long to wait before anything else is tried."""
        if ended.synced_seconds >= _LONG_LIFE_SECONDS:
            self._mute = self._short = self._misunderstood = self._probes = 0
        if ended.synced_seconds:
            self._pace.worked(is_lasting=ended.synced_seconds >= _LONG_LIFE_SECONDS)
        if ended.why in (Why.STARTS_OVER, Why.UNAUTHORIZED):
            self.streams = True
            return 0.0
        self._count(ended)
        if self._may_poll and self._is_hopeless(ended):
            self._poll_for_now(ended)
        return self._delay(ended)

    def _count(self, ended: Ended) -> None:
        self._mute = self._mute + 1 if ended.why is Why.MUTE else self._mute * (ended.why is Why.UNREACHABLE)
        if ended.why is Why.GOODBYE:
            self._short = 0
        elif ended.why is Why.BROKEN:
            is_short = ended.lived_seconds < 2 * ended.heartbeat_seconds
            self._short = self._short + 1 if is_short else 0
        elif ended.why is Why.NOT_UNDERSTOOD:
            self._misunderstood += 1

    def _is_hopeless(self, ended: Ended) -> bool:
        if self._short >= _SHORT_BEFORE_POLLING:
            # Something may cut what is quiet for too long; if a livelier stream is cut as well, it is not that.
            if self.heartbeat_ms is None and ended.heartbeat_seconds * 1000 > LIVELY_HEARTBEAT_MS:
                self.heartbeat_ms = LIVELY_HEARTBEAT_MS
                self._short = 0
                return False
            return True
        return (
            self._mute >= _MUTE_BEFORE_POLLING
            or self._misunderstood >= _SHORT_BEFORE_POLLING
            or ended.why in (Why.NOT_A_STREAM, Why.BUSY, Why.SENT_TO_POLL)
        )

    def _poll_for_now(self, ended: Ended) -> None:
        self.streams = False
        self.holds_polls = not ended.is_crowded
        self.poll_floor_seconds = ended.floor_seconds if ended.why is Why.BUSY else 0.0
        self._is_temporary = ended.why is Why.BUSY

    def _delay(self, ended: Ended) -> float:
        delay = self._pace.next_seconds()
        if self._short > 1:
            delay = max(delay, 1.0 - ended.lived_seconds)  # whatever cuts them, one try a second is enough
        return max(delay, ended.floor_seconds * (1 + 0.4 * self._random()))

    def seconds_to_probe(self) -> float:
        """Return how long to poll before the next probe: sooner if the server itself said that this will pass."""
        steps = (_SOON_SECONDS, *PROBE_SECONDS) if self._is_temporary else PROBE_SECONDS
        return steps[min(self._probes, len(steps) - 1)] * (0.8 + 0.4 * self._random())

    def probed(self, ended: Ended | None) -> None:
        """Take in what a probe found: how it ended, or None for a stream that is synced."""
        if ended is None:
            self.streams = True
            self._mute = self._short = self._misunderstood = 0
        elif ended.why is not Why.UNREACHABLE:
            self._probes += 1

    def poll_failed(self, floor_seconds: float, *, is_crowded: bool) -> float:
        """Take in that a poll was not answered; return how long to wait before the next."""
        if is_crowded:
            self.holds_polls, self.poll_floor_seconds = False, floor_seconds
        return max(self._poll_pace.next_seconds(), floor_seconds)

    def poll_succeeded(self) -> None:
        """Take in that a poll was answered."""
        self._poll_pace.worked()

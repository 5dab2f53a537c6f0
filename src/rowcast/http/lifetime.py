"""How long a stream may go on, and what is due on the way."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Lifetime", "StreamSettings"]

WARN_SECONDS = 60
"""How long before its token runs out a client is told; at once, where less than that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How streams behave.

    `recheck_seconds` is how often an open stream asks again whether its session is still its owner's.
    `max_age_seconds` is varied by ± 10 % for each stream, and not applied to clients that do not know the protocol:
    they would not come back. `drain_seconds` is the window over which clients are asked to return after a drain.
    """

    heartbeat_ms: int = 5000
    max_age_seconds: float = 3600
    write_timeout_seconds: float = 20
    drain_seconds: float = 5
    recheck_seconds: float = 60


class Lifetime:
    """The deadlines of one stream. `now` is the loop's time; `expires_at` is by `clock`, in epoch seconds.

    What the clock says is asked each time, so that a clock that was set right changes when a token ends, and no more.
    """

    __slots__ = ("_checked_at", "_clock", "_expires_at", "_has_warned", "_max_age", "_recheck_seconds", "born")

    def __init__(
        self,
        settings: StreamSettings,
        *,
        now: float,
        expires_at: float | None,
        has_age: bool,
        clock: Callable[[], float],
    ) -> None:
        self.born = self._checked_at = now
        self._max_age = settings.max_age_seconds * random.uniform(0.9, 1.1) if has_age else math.inf  # noqa: S311
        self._recheck_seconds = settings.recheck_seconds
        self._expires_at = math.inf if expires_at is None else expires_at
        self._has_warned = expires_at is None
        self._clock = clock

    def is_over(self, now: float) -> str | None:
        """Return why the stream has to end now, if it has to."""
        if self._token_seconds <= 0:
            return "token_expired"
        return "max_age" if now - self.born >= self._max_age else None

    def must_warn(self) -> tuple[float, float] | None:
        """Return, once, when the token runs out (epoch seconds), and in how many seconds."""
        left = self._token_seconds
        if self._has_warned or left > WARN_SECONDS:
            return None
        self._has_warned = True
        return self._expires_at, left

    def must_recheck(self, now: float) -> bool:
        """Say, once in a while, that it is time to ask again whose session it is."""
        if now - self._checked_at < self._recheck_seconds:
            return False
        self._checked_at = math.inf  # until the answer is there
        return True

    def was_checked(self, now: float) -> None:
        """Note that it is known whose session it is."""
        self._checked_at = now

    def until_next(self, now: float) -> float:
        """Return in how many seconds the next thing is due; a warning that had to wait for a write, in a moment."""
        left = self._token_seconds
        warning = math.inf if self._has_warned else max(left - WARN_SECONDS, 0.2)
        return max(0, min(left, warning, self._max_age - (now - self.born)))

    @property
    def _token_seconds(self) -> float:
        return self._expires_at - self._clock()

"""Whether an open stream's session is still its owner's: asked now and then, and at once when that is in doubt."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from rowcast.backoff import Backoff
from rowcast.errors import NotFound, RowcastError, Unauthorized

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)


class Ownership:
    """Asks `ask`, which raises `NotFound` or `Unauthorized` when the stream has to end.

    `on_lost` is then called with the reason, once; `on_settled` whenever an answer is there. While it is `in_doubt`
    nothing may be told: what is committed from then on may be somebody else's.
    """

    __slots__ = ("_ask", "_is_closed", "_on_lost", "_on_settled", "_task", "doubts", "lost")

    def __init__(
        self, ask: Callable[[], Awaitable[object]], *, on_settled: Callable[[], None], on_lost: Callable[[str], None]
    ) -> None:
        self.doubts = 0
        self.lost: str | None = None
        self._ask = ask
        self._is_closed = False
        self._on_settled = on_settled
        self._on_lost = on_lost
        self._task: asyncio.Task[None] | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether it may have changed since it was last asked, or is known to have."""
        return self.doubts > 0 or self.lost is not None

    def doubt(self, *, closed: bool) -> None:
        """Ask at once, and until there is an answer; `closed` says that the session may be gone."""
        self.doubts += 1
        self._is_closed |= closed
        self.check()

    def check(self) -> None:
        """Ask; while that cannot be answered, and nothing is in doubt, all stays as it is."""
        if self._task is None and self.lost is None:
            self._task = asyncio.create_task(self._find_out())

    async def settle(self) -> None:
        """Wait until nothing is in doubt any more."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _find_out(self) -> None:
        backoff = Backoff(first_seconds=0.1, cap_seconds=2, random=random.random)
        try:
            while True:
                doubts = self.doubts
                self.lost, is_answered = await self._answer()
                if self.lost is not None or not doubts or (is_answered and doubts == self.doubts):
                    break
                if not is_answered:
                    await asyncio.sleep(backoff.next_seconds())
            self.doubts = 0
        finally:
            self._task = None
        if self.lost is not None:
            self._on_lost(self.lost)
        self._on_settled()

    async def _answer(self) -> tuple[str | None, bool]:
        """Return why the stream has to end, and whether that could be found out."""
        try:
            await self._ask()
        except NotFound:
            return "session_closed" if self._is_closed else "revoked", True
        except Unauthorized:
            return "token_expired", True
        except RowcastError:
            return None, False
        except Exception:
            logger.exception("whose a session is could not be found out")
            return None, False
        return None, True

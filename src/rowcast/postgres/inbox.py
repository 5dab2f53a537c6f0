"""What a connection has heard and nobody has taken in yet, so that a burst does not hold up the loop."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

__all__ = ["Inbox"]

TURN = 100  # notifications; about a millisecond
MOST_WAITING = 1000

logger = logging.getLogger(__name__)


class Inbox:
    """Hands on what one connection hears, in the order in which it was heard, about `TURN` in a turn of the loop.

    A transaction that changed ten thousand rows is heard at once. What is within a turn's share is taken in at once;
    the rest waits for the following turns, in which the readers are woken and written to as well: so they keep up, and
    what waits for each of them stays small.

    While more than `MOST_WAITING` wait, `transport` reads nothing: the database keeps the rest of its queue.
    """

    def __init__(self, transport: asyncio.ReadTransport | None = None) -> None:
        self._transport = transport
        self._waiting: deque[tuple[Callable[[str], None], str]] = deque()
        self._share = TURN
        self._next_turn: asyncio.Handle | None = None
        self._is_paused = self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, take_in: Callable[[str], None], payload: str) -> None:
        """Have `take_in` called with `payload`, after all that was put before. Whatever it raises is logged."""
        if self._is_closed:
            return
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._turn)
        if self._share > 0 and not self._waiting:
            self._share -= 1
            _call(take_in, payload)
        else:
            self._waiting.append((take_in, payload))
            if len(self._waiting) > MOST_WAITING:
                self._pause()

    def close(self) -> None:
        """Hand on what waits, and nothing that is put later: the connection is no longer heard."""
        self._is_closed = True
        if self._next_turn is not None:
            self._next_turn.cancel()
        while self._waiting:
            _call(*self._waiting.popleft())

    def _turn(self) -> None:
        self._next_turn = None
        self._share = TURN
        while self._waiting and self._share > 0:
            self._share -= 1
            _call(*self._waiting.popleft())
        if self._share < TURN:  # what follows in this turn may take what is left of it
            self._next_turn = asyncio.get_running_loop().call_soon(self._turn)
        if not self._waiting:
            self._resume()

    def _pause(self) -> None:
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


def _call(take_in: Callable[[str], None], payload: str) -> None:
    try:
        take_in(payload)
    except Exception:
        logger.exception("a notification could not be taken in")

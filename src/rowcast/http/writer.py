"""Sends bytes down one response without a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from starlette.types import Message, Send

__all__ = ["Writer"]

PIECE_BYTES = 64 * 1024


class _Resumed:
    """The rest of an awaitable that was started by hand and has just yielded `waiting_for`."""

    def __init__(self, waiting_for: object, rest: Generator[Any, Any, Any]) -> None:
        self._waiting_for = waiting_for
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, Any]:
        yield self._waiting_for
        yield from self._rest


class Writer:
    """Writes to an ASGI `send` from callbacks, in pieces of about `PIECE_BYTES`.

    A server's `send` hardly ever waits: it hands bytes to the socket and returns. So its first step is taken by hand,
    and only if it does wait (the peer reads too slowly, or a middleware stands between), or if there is more than one
    piece, a task carries it on. `is_busy` is then True, nothing more may be written, and `on_free` is called when it is
    over, with False if the peer is gone. The next piece is handed over only when the server takes it, so that a peer
    that does not read has one piece, and what the server buffers, in memory. If a piece is not taken within
    `timeout_seconds`, `on_stalled` is called and no other follows it. `has_ended` once the last piece is on its way.
    """

    __slots__ = ("_is_stalled", "_on_free", "_on_stalled", "_send", "_task", "_timeout_seconds", "has_ended")

    def __init__(
        self,
        send: Send,
        *,
        on_free: Callable[[bool], None],
        on_stalled: Callable[[], None],
        timeout_seconds: float,
    ) -> None:
        self.has_ended = False
        self._send = send
        self._is_stalled = False
        self._on_free = on_free
        self._on_stalled = on_stalled
        self._timeout_seconds = timeout_seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an earlier write still waits."""
        return self._task is not None

    def write(self, frames: Iterable[bytes], *, more: bool = True) -> None:
        """Send frames, which are asked for one by one as they fit. Raises what `send` raises when the peer is gone."""
        messages = _messages(frames, more)
        step = self._hand_over(next(messages)).__await__()
        begun: _Resumed | None = None
        try:
            begun = _Resumed(next(step), step)
        except StopIteration:
            following = next(messages, None)
            if following is None:
                return
            messages = chain((following,), messages)
        self._task = asyncio.ensure_future(self._carry_on(begun, messages))

    def _hand_over(self, message: Message) -> Awaitable[None]:
        self.has_ended = not message["more_body"]
        return self._send(message)

    async def _carry_on(self, begun: _Resumed | None, messages: Iterator[Message]) -> None:
        is_sent = False
        try:
            if begun is not None:
                await self._in_time(begun)
            while not self._is_stalled and (message := next(messages, None)) is not None:
                await asyncio.sleep(0)  # a large snapshot does not hold up the other streams
                await self._in_time(self._hand_over(message))
            is_sent = True
        except OSError:
            pass
        finally:
            self._task = None
            self._on_free(is_sent)

    async def _in_time(self, sending: Awaitable[None]) -> None:
        timer = asyncio.get_running_loop().call_later(self._timeout_seconds, self._stall)
        try:
            await sending
        finally:
            timer.cancel()

    def _stall(self) -> None:
        self._is_stalled = True
        self._on_stalled()

    async def until_free(self) -> None:
        """Wait until nothing waits any more, sent or not."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Stop waiting for the peer."""
        if self._task is not None:
            self._task.cancel()


def _messages(frames: Iterable[bytes], more: bool) -> Iterator[Message]:
    """Yield the messages for some frames, whole frames of up to a piece each; the last one carries `more`."""
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        if piece and size + len(frame) > PIECE_BYTES:
            yield {"type": "http.response.body", "body": b"".join(piece), "more_body": True}
            piece, size = [], 0
        piece.append(frame)
        size += len(frame)
    yield {"type": "http.response.body", "body": b"".join(piece), "more_body": more}

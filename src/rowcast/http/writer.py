"""Sends bytes down one response without a task of its own."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from starlette.types import Message, Send

__all__ = ["Writer"]


class _Resumed:
    """The rest of an awaitable that was started by hand and has just yielded `waiting_for`."""

    def __init__(self, waiting_for: object, rest: Generator[Any, Any, Any]) -> None:
        self._waiting_for = waiting_for
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, Any]:
        yield self._waiting_for
        yield from self._rest


class Writer:
    """Writes to an ASGI `send` from callbacks.

    A server's `send` hardly ever waits: it hands bytes to the socket and returns. So its first step is taken by hand,
    and only if it does wait (the peer reads too slowly, or a middleware stands between) a task carries it on.
    `is_busy` is then True, nothing more may be written, and `on_free` is called when it is over, with False if the
    peer is gone or has not read for `timeout_seconds`.
    """

    __slots__ = ("_on_free", "_send", "_task", "_timeout_seconds")

    def __init__(self, send: Send, *, on_free: Callable[[bool], None], timeout_seconds: float) -> None:
        self._send = send
        self._on_free = on_free
        self._timeout_seconds = timeout_seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an earlier write still waits."""
        return self._task is not None

    def write(self, body: bytes, *, more: bool = True) -> None:
        """Send `body`. Raises what `send` raises when the peer is gone."""
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        step = self._send(message).__await__()
        try:
            waiting_for = next(step)
        except StopIteration:
            return
        self._task = asyncio.ensure_future(self._carry_on(_Resumed(waiting_for, step)))

    async def _carry_on(self, rest: _Resumed) -> None:
        is_sent = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await rest
            is_sent = True
        except (TimeoutError, OSError):
            pass
        finally:
            self._task = None
            self._on_free(is_sent)

    async def until_free(self) -> None:
        """Wait until nothing waits any more, sent or not."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Stop waiting for the peer."""
        if self._task is not None:
            self._task.cancel()

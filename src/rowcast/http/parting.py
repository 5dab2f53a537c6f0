"""How a stream and its client part."""

import asyncio
import random
from contextlib import suppress

from starlette.types import Receive

from rowcast.event import goodbye
from rowcast.http.writer import Writer
from rowcast.sse import encode

__all__ = ["see_off", "spread_ms"]


async def see_off(writer: Writer, receive: Receive, seconds: float) -> None:
    """See the last write through, and end the answer in good order, if a peer that reads slowly reads after all.

    The operating system gives up on it meanwhile, if the server's sockets ask for that (`TCP_USER_TIMEOUT`).
    """
    if writer.has_ended and not writer.is_busy:
        return
    gone = asyncio.ensure_future(_disconnected(receive))
    free = asyncio.ensure_future(writer.until_free())
    try:
        await asyncio.wait((gone, free), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not writer.is_busy and not writer.has_ended and not gone.done():
            last = goodbye("slow_consumer", resume=True, retry_ms=spread_ms(1))
            with suppress(OSError):
                writer.write([encode(last)], more=False)
    finally:
        gone.cancel()
        free.cancel()


def spread_ms(seconds: float) -> int:
    """Return when a client is to come back, so that many do not at the same time."""
    return round(random.uniform(0.05, 1) * seconds * 1000)  # noqa: S311 - spreads the clients, protects nothing


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

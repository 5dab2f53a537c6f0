"""A server that is told to stop lets its streams go first.

uvicorn waits for open responses before it runs the shutdown of the lifespan, and a stream never ends by itself: without
this, SIGTERM would hang for ever. Nothing is patched: the handler that the server installed is called after ours.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

__all__ = ["drain_on_signals"]


@contextmanager
def drain_on_signals(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` in the running loop on SIGTERM and SIGINT, then let the server's own handler run.

    A second SIGINT calls it again, for whoever will not wait. A second SIGTERM does not: a process that is stopped with
    its group hears the signal once from outside, and once more from its supervisor.

    Outside the main thread, where no handler can be set, this does nothing, and `hub.shutdown()` has to be called.
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}
    times = count()

    def handle(number: int, frame: FrameType | None) -> None:
        # A signal handler may interrupt anything, itself included: to count is a single step.
        if next(times) == 0 or number == signal.SIGINT:
            loop.call_soon_threadsafe(drain)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, handle)
    except ValueError:
        before.clear()
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)

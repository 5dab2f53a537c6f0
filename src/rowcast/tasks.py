"""Work in the background that ends with its owner."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["Tasks", "ended"]

T = TypeVar("T")


class Tasks:
    """Tasks that are kept alive until they end, or until all are stopped."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` in a task."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        tasks = tuple(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ended(task: "asyncio.Task[T]") -> None:
    """Cancel a task and wait until it has let go of what it held; how it ended is nobody's business any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
